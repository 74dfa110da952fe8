"""Train every point-cloud model with several seeds and write ``docs/results/points.md``.

``python -m scripts.points_results`` runs what is missing in ``runs/points`` (continuing what was
interrupted), several runs side by side with one thread each, and then writes the page.
``--page-only`` writes it from the runs that are there.
"""

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib.figure import Figure

from mgic_geo import create_model, multiply_adds, num_weights
from scripts.benchmarks.points import make_clouds
from scripts.training import comparison
from scripts.training.comparison import Job, Variant, spread, spread_and_range
from scripts.training.comparison_figures import plot_against_weights, write_figure
from scripts.training.reliability.files import write_whole

CONFIG = Path("scripts/configs/points_results.yaml")
SPLITS = ("test", "test-hard")
# the first G-conv of mgic_diffgcn reaches five hops, the others four
EQUAL_HOPS = [5, 4, 4, 4, 4, 4]
CONTENDERS = (
    Variant("pointnet", "control: no neighbors", "pointnet"),
    Variant("random_graph", "control: random neighbors", "random_graph"),
    Variant("dgcnn", "dense, dynamic graph", "dgcnn"),
    Variant("mgic_dgcnn", "MGIC, dynamic graph", "mgic_dgcnn"),
    Variant("diffgcn", "dense, static graph", "diffgcn"),
    Variant(
        "diffgcn", "control: dense, as many hops as MGIC", "diffgcn-hops", {"layers": EQUAL_HOPS}
    ),
    Variant("mgic_diffgcn", "MGIC, static graph", "mgic_diffgcn"),
)
QUESTIONS = (
    ("mgic_diffgcn", "pointnet", "neighborhoods"),
    ("mgic_diffgcn", "random_graph", "real against random neighbors"),
    ("dgcnn", "random_graph", "real against random neighbors, same weights"),
    ("diffgcn", "pointnet", "neighborhoods, dense"),
    ("dgcnn", "pointnet", "neighborhoods, dynamic graph"),
    ("mgic_diffgcn", "diffgcn", "MGIC against its dense twin"),
    ("mgic_diffgcn", "diffgcn-hops", "MGIC against dense with as many hops"),
    ("mgic_dgcnn", "dgcnn", "MGIC against its dense twin"),
)


def main(args: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page."""
    parser = comparison.make_parser(__doc__.split("\n")[0], "runs/points")
    options = parser.parse_args(args)
    seeds = range(options.seeds)
    jobs = [make_job(contender, seed, options.runs) for seed in seeds for contender in CONTENDERS]
    if not comparison.finish_runs(jobs, options):
        return 1
    runs = {
        contender.name: [
            comparison.read_run(make_job(contender, seed, options.runs)) for seed in seeds
        ]
        for contender in CONTENDERS
    }
    write_page(runs, options.docs)
    print(f"wrote {options.docs / 'points.md'}")
    return 0


def make_job(contender: Variant, seed: int, runs: Path) -> Job:
    """The run of one model with one seed."""
    options = ("--config", str(CONFIG), "--model.name", contender.model)
    options += ("--model.options", json.dumps(contender.options))
    return Job(runs / f"{contender.name}-{seed}", "train_modelnet10", options, seed, SPLITS)


def costs(contender: Variant, num_points: int) -> tuple[int, int, int]:
    """Weights, multiply-adds of one cloud, and hops."""
    model = create_model(contender.model, **contender.options)
    return num_weights(model), multiply_adds(model, torch.rand(num_points, 3)), model.num_hops


def epoch_seconds(data: dict[str, Any]) -> dict[str, float]:
    """Seconds of an epoch of every model on one thread: its training steps alone."""
    batch_size, num_shapes = data["batch_size"], 10 * data["shapes_per_class"][0]
    steps = int(num_shapes * (1 - data["val_fraction"])) // batch_size
    pos, batch, label = make_clouds(batch_size, data["num_points"])
    models = {
        contender.name: partial(create_model, contender.model, **contender.options)
        for contender in CONTENDERS
    }
    seconds = comparison.step_seconds(models, (pos, batch, batch_size), label)
    return {name: steps * value for name, value in seconds.items()}


def write_page(runs: dict[str, list[dict[str, Any]]], docs: Path) -> None:
    """Write the table as Markdown and CSV, and a figure."""
    config = yaml.safe_load(CONFIG.read_text())
    seconds = epoch_seconds(config["data"])
    rows = []
    for contender in CONTENDERS:
        weights, work, hops = costs(contender, config["data"]["num_points"])
        row: dict[str, Any] = {"model": contender.name, "note": contender.note}
        row |= {
            "weights": weights,
            "multiply_adds": work,
            "hops": hops,
            "epoch_seconds": seconds[contender.name],
        }
        keys = ("test", "test-class", "test-hard", "test-hard-class")
        rows.append(row | comparison.summarize(runs[contender.name], keys))
    text = page(rows, config, len(next(iter(runs.values()))))
    write_whole(docs / "points.md", text.encode())
    comparison.write_csv(docs / "points.csv", rows)
    draw(rows, docs / "points.png")


def page(rows: list[dict[str, Any]], config: dict[str, Any], seeds: int) -> str:
    """The page: how it was made, the table, and what the ranges say."""
    data, trainer = config["data"], config["trainer"]
    train_shapes, test_shapes, hard_shapes = (10 * n for n in data["shapes_per_class"])
    held_out = round(train_shapes * data["val_fraction"])
    head = f"""# Point clouds: every model on shapes10

Made by `python -m scripts.points_results`: {train_shapes} training shapes ({held_out} held out to
choose the epoch), {test_shapes} in `test`, {hard_shapes} in `test-hard` (unseen proportions,
partial scans, noise, outliers), {data["num_points"]} points a cloud, k = 10,
{trainer["max_epochs"]} epochs of batches of {data["batch_size"]}, seeds 0 to {seeds - 1},
one thread a run, {os.cpu_count()} runs side by side on {os.cpu_count()} cores, torch
{torch.__version__}. Accuracy in percent, mean ± standard deviation over the seeds, and the range;
"class" is the mean over the classes. Seconds per epoch are those of the training steps alone on one
thread, timed side by side when the page was written. shapes10 is made by a generator: these figures
compare the models with each other, not with ModelNet10's. Rate and epochs were chosen by trials of
`dgcnn` with one seed on the same splits, which favors the graphs if anything.

| model | what | weights | multiply-adds | hops | test | class | test-hard | class | s / epoch |
| --- | --- | ---: | ---: | ---: | --- | --- | --- | --- | ---: |
"""
    lines = [
        f"| `{row['model']}` | {row['note']} | {row['weights']:,} | "
        f"{row['multiply_adds'] / 1e6:.1f} M | {row['hops']} | {spread_and_range(row, 'test')} | "
        f"{spread(row, 'test-class')} | {spread_and_range(row, 'test-hard')} | "
        f"{spread(row, 'test-hard-class')} | {row['epoch_seconds']:.1f} |"
        for row in rows
    ]
    keys = {"test-hard": ("difference of the means", "do the ranges overlap?")}
    reading = comparison.who_wins(rows, QUESTIONS, keys, title="On test-hard")
    return head + "\n".join(lines) + "\n\n![accuracy](points.png)\n\n" + reading


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw accuracy against weights on both splits, with the range over the seeds."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, split in zip(figure.subplots(1, 2, sharey=False), SPLITS, strict=True):
        plot_against_weights(axes, rows, split, "accuracy, %", x=0.25)
        axes.set_title(split)
    write_figure(path, figure)


if __name__ == "__main__":
    sys.exit(main())
