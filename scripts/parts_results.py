"""Compare backbones in part segmentation with several seeds and write ``docs/results/parts.md``.

``python -m scripts.parts_results`` runs what is missing in ``runs/parts`` (continuing what was
interrupted), and then writes the page. ``--page-only`` writes it from the runs that are there.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from datasets.shapes10_parts import PARTS
from mgic_geo import create_segmenter, multiply_adds, num_weights
from scripts.training import comparison
from scripts.training.comparison import Contender, Job, spread_and_range
from scripts.training.comparison_figures import draw_with_pictures
from scripts.training.reliability.files import write_whole
from scripts.training.reports.figures import draw_cloud
from scripts.training.reports.parts import part_colors

CONFIG = Path("scripts/configs/parts_results.yaml")
SPLITS = ("test", "test-hard")
NUM_PICTURES = 4


CONTENDERS = (
    Contender("pointnet", "control: no neighbors"),
    Contender("dgcnn", "dense, dynamic graph"),
    Contender("mgic_dgcnn", "MGIC, dynamic graph"),
    Contender("diffgcn", "dense, static graph"),
    Contender("mgic_diffgcn", "MGIC, static graph"),
)
QUESTIONS = (
    ("mgic_diffgcn", "diffgcn", "MGIC against its dense twin"),
    ("mgic_dgcnn", "dgcnn", "MGIC against its dense twin"),
    ("mgic_diffgcn", "pointnet", "neighborhoods"),
    ("mgic_diffgcn", "mgic_dgcnn", "static against dynamic graph"),
)


def main(args: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page."""
    parser = comparison.make_parser((__doc__ or "").split("\n")[0], "runs/parts")
    parser.add_argument("--epochs", type=int, help="fewer of them, to try it quickly")
    parser.add_argument("--shapes", type=int, nargs=3, help="of a class in train and both tests")
    options = parser.parse_args(args)
    grid = comparison.make_grid(CONTENDERS, make_job, options)
    if not comparison.finish_runs(comparison.seed_by_seed(grid), options):
        return 1
    config = yaml.safe_load(CONFIG.read_text())
    config["data"]["shapes_per_class"] = options.shapes or config["data"]["shapes_per_class"]
    points = config["data"]["num_points"]
    rows = [make_row(contender, grid[contender.model], points) for contender in CONTENDERS]
    comparison.write_csv(options.docs / "parts.csv", rows)
    write_whole(options.docs / "parts.md", page(rows, config, options.seeds).encode())
    draw(rows, [grid[row["model"]][0] for row in rows], options.docs / "parts.png")
    print(f"wrote {options.docs / 'parts.md'}")
    return 0


def make_job(contender: Contender, seed: int, options: argparse.Namespace) -> Job:
    """The run of one backbone with one seed."""
    arguments = ("--config", str(CONFIG), "--model.name", contender.model)
    if options.epochs:
        arguments += ("--trainer.max_epochs", str(options.epochs))
    if options.shapes:
        arguments += ("--data.shapes_per_class", json.dumps(options.shapes))
    folder = options.runs / f"{contender.model}-{seed}"
    return Job(folder, "train_parts", arguments, seed, SPLITS)


def make_row(contender: Contender, jobs: Sequence[Job], num_points: int) -> dict[str, Any]:
    """Costs of a network for one cloud, and what its runs came to."""
    network = create_segmenter(contender.model, len(PARTS))
    runs = [read_run(job) for job in jobs]
    row: dict[str, Any] = {"model": contender.model, "note": contender.note}
    row |= {
        "weights": num_weights(network),
        "multiply_adds": multiply_adds(network, torch.rand(num_points, 3)),
        "epochs": runs[0]["epochs"],
    }
    keys = [key for split in SPLITS for key in (f"{split}-miou", split)]
    return row | comparison.summarize(runs, keys)


def read_run(job: Job) -> dict[str, Any]:
    """Return also the mIoU of every split, in percent."""
    run = comparison.read_run(job)
    for split in job.splits:
        result = json.loads((job.folder / f"{split}.json").read_text())
        run[f"{split}-miou"] = 100 * result["miou"]
    return run


def page(rows: list[dict[str, Any]], config: dict[str, Any], seeds: int) -> str:
    """The page: how it was made, the table, and what the ranges say."""
    data, optimizer = config["data"], config["model"]["optimizer"]
    train, test, hard = (10 * count for count in data["shapes_per_class"])
    head = f"""# Part segmentation: shapes10 with the parts its generator knows

Made by `python -m scripts.parts_results`: {train} training shapes ({data["val_fraction"]:.0%} held
out to choose the epoch), {test} in `test`, {hard} in `test-hard` (unseen proportions, partial
scans, noise, outliers), {data["num_points"]} points a cloud, {len(PARTS)} parts (leg, seat, drawer
and so on, over all ten classes of furniture, which the networks are not told). All networks are the
backbone of Table 10 and a per-point head; {rows[0]["epochs"]} epochs, batches of
{data["batch_size"]}, {optimizer["kind"]}, learning rate {optimizer["lr"]}, the recipe of the
classifiers; seeds 0 to {seeds - 1}, torch {torch.__version__}. Intersection over union in percent,
counted over the whole split and averaged over the parts, mean ± standard deviation over the seeds,
and the range; the last two columns are on `test-hard`. Training is short so that the table takes
minutes: no network has converged as far as it could. Multiply-adds are of one cloud.

| backbone | what | weights | multiply-adds | mIoU | points right | mIoU, hard | points right |
| --- | --- | ---: | ---: | --- | --- | --- | --- |
"""
    lines = [
        f"| `{row['model']}` | {row['note']} | {row['weights']:,} | "
        f"{row['multiply_adds'] / 1e6:.1f} M | {spread_and_range(row, 'test-miou')} | "
        f"{comparison.spread(row, 'test')} | {spread_and_range(row, 'test-hard-miou')} | "
        f"{comparison.spread(row, 'test-hard')} |"
        for row in rows
    ]
    picture = "\n\n![test clouds, truth and predictions](parts.png)\n\n"
    keys = {
        "test-miou": ("difference on test", "ranges overlap?"),
        "test-hard-miou": ("on test-hard", "overlap?"),
    }
    reading = comparison.who_wins(rows, QUESTIONS, keys, costs=("weights",))
    return head + "\n".join(lines) + picture + reading


def draw(rows: list[dict[str, Any]], jobs: Sequence[Job], path: Path) -> None:
    """Draw mIoU against weights, and some test clouds as the first runs saw them."""
    colors = part_colors(len(PARTS))
    clouds, columns = read_pictures(jobs)
    pictures = {name: list(zip(clouds, parts, strict=True)) for name, parts in columns.items()}
    draw_with_pictures(
        *(path, rows, "test-miou", "test mIoU, %", pictures),
        show=lambda axes, picture: draw_cloud(axes, picture[0], colors[picture[1]]),
    )


def read_pictures(jobs: Sequence[Job]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return some test clouds, and their true parts and those that one run of each gave them."""
    columns: dict[str, np.ndarray] = {}
    clouds = np.empty(0)
    for job, contender in zip(jobs, CONTENDERS, strict=True):
        with np.load(job.folder / "predictions.npz", allow_pickle=False) as file:
            clouds = file["clouds"]
            columns["truth"] = file["truths"]
            columns[contender.model] = file["parts"]
    step = max(1, len(clouds) // NUM_PICTURES)
    some = slice(0, step * NUM_PICTURES, step)
    return clouds[some], {name: parts[some] for name, parts in columns.items()}


if __name__ == "__main__":
    sys.exit(main())
