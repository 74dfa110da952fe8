"""Compare segmentation networks with several seeds and write ``docs/results/segmentation.md``.

``python -m scripts.segmentation_results`` runs what is missing in ``runs/segmentation`` (continuing
what was interrupted), several runs side by side with one thread each, and then writes the page.
``--page-only`` writes it from the runs that are there.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from datasets.digit_scenes import CLASSES
from mgic_vision import create_model, summary
from scripts.training import comparison
from scripts.training.comparison import Contender, Job, spread_and_range
from scripts.training.comparison_figures import draw_with_pictures
from scripts.training.reliability.files import write_whole
from scripts.training.reports.masks import paint

CONFIG = Path("scripts/configs/digit_scenes.yaml")
NUM_PICTURES = 4


CONTENDERS = (
    Contender("lraspp_mobilenet_v3_large", "dense, torchvision's MobileNetV3"),
    Contender("lraspp_mgic_large", "MGIC"),
    Contender("lraspp_mgic_small", "MGIC, small"),
)
QUESTIONS = (
    ("lraspp_mgic_large", "lraspp_mobilenet_v3_large", "MGIC against MobileNetV3"),
    ("lraspp_mgic_small", "lraspp_mobilenet_v3_large", "small MGIC against MobileNetV3"),
    ("lraspp_mgic_small", "lraspp_mgic_large", "small against large MGIC"),
)


def main(args: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page."""
    parser = comparison.make_parser((__doc__ or "").split("\n")[0], "runs/segmentation")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the scenes")
    parser.add_argument("--epochs", type=int, help="fewer of them, to try it quickly")
    parser.add_argument("--scenes", type=int, nargs=3, help="fewer of them: train, val and test")
    options = parser.parse_args(args)
    grid = comparison.make_grid(CONTENDERS, make_job, options)
    if not comparison.finish_runs(comparison.seed_by_seed(grid), options):
        return 1
    config = yaml.safe_load(CONFIG.read_text())
    size = config["data"]["scene_size"]
    rows = [make_row(contender, grid[contender.model], size) for contender in CONTENDERS]
    config["data"]["scenes"] = options.scenes or config["data"]["scenes"]
    seconds = epoch_seconds(config["data"])
    rows = [row | {"epoch_seconds": seconds[row["model"]]} for row in rows]
    comparison.write_csv(options.docs / "segmentation.csv", rows)
    write_whole(options.docs / "segmentation.md", page(rows, config, options).encode())
    draw(rows, [grid[row["model"]][0] for row in rows], options.docs / "segmentation.png")
    print(f"wrote {options.docs / 'segmentation.md'}")
    return 0


def make_job(contender: Contender, seed: int, options: argparse.Namespace) -> Job:
    """The run of one network with one seed."""
    arguments = ("--config", str(CONFIG), "--model.name", contender.model)
    arguments += ("--data.root", str(options.data))
    if options.epochs:
        arguments += ("--trainer.max_epochs", str(options.epochs))
    if options.scenes:
        arguments += ("--data.scenes", json.dumps(options.scenes))
    return Job(options.runs / f"{contender.model}-{seed}", "train_segmentation", arguments, seed)


def make_row(contender: Contender, jobs: Sequence[Job], size: int) -> dict[str, Any]:
    """Costs of a network at the size of the scenes, and what its runs came to."""
    network = create_model(contender.model, len(CLASSES))
    costs = summary(network, (3, size, size))
    runs = [read_run(job) for job in jobs]
    row: dict[str, Any] = {"model": contender.model, "note": contender.note}
    row |= {"weights": costs.total.weights, "multiply_adds": costs.total.multiply_adds}
    row |= {"multiply_adds_without_transfers": costs.without_transfers.multiply_adds}
    row |= {"epochs": runs[0]["epochs"]}
    row |= comparison.summarize(runs, ["miou", "digits", "background", "test"])
    return row


def epoch_seconds(data: dict[str, Any]) -> dict[str, float]:
    """Seconds of an epoch of every network on one thread: its training steps alone."""
    count, crop = data["batch_size"], data["crop"]
    masks = torch.randint(len(CLASSES), (count, *crop))
    models = {
        contender.model: partial(create_model, contender.model, len(CLASSES))
        for contender in CONTENDERS
    }
    seconds = comparison.step_seconds(models, (torch.rand(count, 3, *crop),), masks)
    return {name: data["scenes"][0] / count * value for name, value in seconds.items()}


def read_run(job: Job) -> dict[str, Any]:
    """Return also the mIoU in percent, that of the digits alone, and the background's IoU."""
    result = json.loads((job.folder / "test.json").read_text())
    background, *digits = (np.nan if iou is None else 100 * iou for iou in result["iou"])
    run = comparison.read_run(job)
    return run | {
        "miou": 100 * result["miou"],
        "digits": float(np.nanmean(digits)),
        "background": background,
    }


def page(rows: list[dict[str, Any]], config: dict[str, Any], options: argparse.Namespace) -> str:
    """The page: how it was made, the table, and what the ranges say."""
    data, optimizer = config["data"], config["model"]["optimizer"]
    train, val, test = data["scenes"]
    size = data["scene_size"]
    hours = options.seeds * sum(row["epochs"] * row["epoch_seconds"] for row in rows) / 3600
    head = f"""# Segmentation: scenes of digits

Made by `python -m scripts.segmentation_results` on digit_scenes: real digits of MNIST, composed by
a generator onto textured canvases of {size}x{size} pixels, {train} scenes for training, {val} to
choose the epoch and {test} for the test, made of digits of their own. All networks are LR-ASPP with
128 filters, the reduced last block and output stride 16, and start from random weights:
{rows[0]["epochs"]} epochs, batches of {data["batch_size"]}, {optimizer["kind"]}, learning rate
{optimizer["lr"]} falling by poly. Scenes are small, few and seen for a short time, for two
cores (the training steps of the whole table come to {hours:.1f} hours of one core): no network has
converged as far as it could, and nothing here says what they do on Cityscapes.
Rate and scenes were chosen by trials of `lraspp_mgic_small` alone, which favors the MGIC networks
if anything.
Seeds 0 to {options.seeds - 1}, one thread a run, torch {torch.__version__}.
Intersection over union in percent, counted over the whole test split, mean ± standard deviation
over the seeds, and the range: of all 11 classes, of the digits, of the background. Seconds per
epoch are those of the training steps alone on one thread, timed side by side when the page was
written.

| network | what | weights | multiply-adds | mIoU | digits | background | s / epoch |
| --- | --- | ---: | ---: | --- | --- | ---: | ---: |
"""
    lines = [
        f"| `{row['model']}` | {row['note']} | {row['weights']:,} | "
        f"{row['multiply_adds'] / 1e6:.1f} M | {spread_and_range(row, 'miou')} | "
        f"{comparison.spread(row, 'digits')} | {comparison.spread(row, 'background')} | "
        f"{row['epoch_seconds']:.1f} |"
        for row in rows
    ]
    picture = "\n\n![test scenes, truth and predictions](segmentation.png)\n\n"
    keys = {"miou": ("difference of the means", "do the ranges overlap?")}
    reading = comparison.who_wins(rows, QUESTIONS, keys, costs=("weights", "multiply_adds"))
    return head + "\n".join(lines) + picture + reading


def draw(rows: list[dict[str, Any]], jobs: Sequence[Job], path: Path) -> None:
    """Draw mIoU against weights, and the same test scenes as the first runs saw them."""
    draw_with_pictures(
        *(path, rows, "miou", "test mIoU, %", read_pictures(jobs)),
        show=lambda axes, picture: axes.imshow(picture, interpolation="nearest"),
    )


def read_pictures(jobs: Sequence[Job]) -> dict[str, Sequence[np.ndarray]]:
    """Return some test scenes, their truth, and what one run of each network made of them."""
    columns: dict[str, Sequence[np.ndarray]] = {}
    for job, contender in zip(jobs, CONTENDERS, strict=True):
        with np.load(job.folder / "predictions.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("scenes", "truths", "masks", "colors")}
        columns["image"] = arrays["scenes"]
        columns["truth"] = paint(arrays["truths"], arrays["colors"])
        columns[contender.model.removeprefix("lraspp_")] = paint(arrays["masks"], arrays["colors"])
    return {name: pictures[:NUM_PICTURES] for name, pictures in columns.items()}


if __name__ == "__main__":
    sys.exit(main())
