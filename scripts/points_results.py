"""Train every point-cloud model with several seeds and write ``docs/results/points.md``.

``python -m scripts.points_results`` runs what is missing in ``runs/points`` (continuing what was
interrupted), several runs side by side with one thread each, and then writes the page.
``--page-only`` writes it from the runs that are there.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure

from mgic_geo import create_model, multiply_adds, num_weights
from scripts.training.files import write_whole

CONFIG = Path("scripts/configs/points_results.yaml")
SPLITS = ("test", "test-hard")
# the first G-conv of mgic_diffgcn reaches five hops, the others four
EQUAL_HOPS = [5, 4, 4, 4, 4, 4]


@dataclass(frozen=True)
class Contender:
    """A row of the table: a model, its options, and what it is there for."""

    name: str
    model: str
    note: str
    options: dict[str, Any] = field(default_factory=dict)


CONTENDERS = (
    Contender("pointnet", "pointnet", "control: no neighbors"),
    Contender("random_graph", "random_graph", "control: random neighbors"),
    Contender("dgcnn", "dgcnn", "dense, dynamic graph"),
    Contender("mgic_dgcnn", "mgic_dgcnn", "MGIC, dynamic graph"),
    Contender("diffgcn", "diffgcn", "dense, static graph"),
    Contender(
        "diffgcn-hops", "diffgcn", "control: dense, as many hops as MGIC", {"layers": EQUAL_HOPS}
    ),
    Contender("mgic_diffgcn", "mgic_diffgcn", "MGIC, static graph"),
)


def main(args: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every model")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--runs", type=Path, default=Path("runs/points"))
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    parser.add_argument("--page-only", action="store_true", help="train nothing")
    options = parser.parse_args(args)
    jobs = [(contender, seed) for seed in range(options.seeds) for contender in CONTENDERS]
    if not options.page_only:
        with ThreadPoolExecutor(options.jobs) as pool:
            failed = sum(pool.map(lambda job: train(*job, options.runs), jobs))
        if failed:
            print(f"error: {failed} of {len(jobs)} runs failed", file=sys.stderr)
            return 1
    runs = {job[0].name: [] for job in jobs}
    for contender, seed in jobs:
        runs[contender.name].append(read_run(options.runs / f"{contender.name}-{seed}"))
    write_page(runs, options.docs)
    print(f"wrote {options.docs / 'points.md'}")
    return 0


def train(contender: Contender, seed: int, runs: Path) -> bool:
    """Train one model in a process of its own, unless that is done; whether it failed."""
    folder = runs / f"{contender.name}-{seed}"
    if all((folder / f"{split}.json").exists() for split in SPLITS):
        return False
    command = [sys.executable, "-m", "scripts.train_modelnet10", "fit", "--config", str(CONFIG)]
    command += ["--resume", "--run_dir", str(folder), "--seed", str(seed), "--threads", "1"]
    command += ["--model.name", contender.model]
    command += ["--model.options", json.dumps(contender.options)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with folder.with_suffix(".log").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    print(f"{folder.name}: exit code {code}, {time.monotonic() - start:.0f} s", flush=True)
    return code != 0


def read_run(folder: Path) -> dict[str, Any]:
    """Accuracies, seconds per epoch and epochs of a finished run.

    Raises:
        FileNotFoundError: If the run is not finished.
    """
    run: dict[str, Any] = {}
    for split in SPLITS:
        result = json.loads((folder / f"{split}.json").read_text())
        run[split] = 100 * result["accuracy"]
        run[f"{split}-class"] = 100 * result["class_accuracy"]
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    run["seconds"] = float(np.median([float(row["seconds"]) for row in rows]))
    run["epochs"] = len(rows)
    return run


def costs(contender: Contender, num_points: int) -> tuple[int, int, int]:
    """Weights, multiply-adds of one cloud, and hops."""
    model = create_model(contender.model, **contender.options)
    return num_weights(model), multiply_adds(model, torch.rand(num_points, 3)), model.num_hops


def write_page(runs: dict[str, list[dict[str, Any]]], docs: Path) -> None:
    """Write the table as Markdown and CSV, and a figure."""
    config = yaml.safe_load(CONFIG.read_text())
    rows = []
    for contender in CONTENDERS:
        weights, work, hops = costs(contender, config["data"]["num_points"])
        row: dict[str, Any] = {"model": contender.name, "note": contender.note}
        row |= {"weights": weights, "multiply_adds": work, "hops": hops}
        for key in ("test", "test-class", "test-hard", "test-hard-class", "seconds"):
            values = [run[key] for run in runs[contender.name]]
            row |= {f"{key}_mean": np.mean(values), f"{key}_std": np.std(values, ddof=1)}
            row |= {f"{key}_min": min(values), f"{key}_max": max(values)}
        rows.append(row)
    text = page(rows, config, len(next(iter(runs.values()))))
    write_whole(docs / "points.md", text.encode())
    lines = [",".join(rows[0]), *(",".join(_csv(value) for value in row.values()) for row in rows)]
    write_whole(docs / "points.csv", ("\n".join(lines) + "\n").encode())
    draw(rows, docs / "points.png")


def page(rows: list[dict[str, Any]], config: dict[str, Any], seeds: int) -> str:
    """The page: how it was made, the table, and what the ranges say."""
    data, trainer = config["data"], config["trainer"]
    train_shapes, test_shapes, hard_shapes = (10 * n for n in data["shapes_per_class"])
    head = f"""# Point clouds: every model on shapes10

Made by `python -m scripts.points_results`: {train_shapes} training shapes (a tenth held out to
choose the epoch), {test_shapes} in `test`, {hard_shapes} in `test-hard` (unseen proportions,
partial scans, noise, outliers), {data["num_points"]} points a cloud, k = 10,
{trainer["max_epochs"]} epochs, seeds 0 to {seeds - 1}, one thread a run,
{os.cpu_count()} runs side by side on {os.cpu_count()} cores, torch {torch.__version__}.
Accuracy in percent, mean ± standard deviation over the seeds, and the range; "class" is the mean
over the classes. shapes10 is made by a generator: these figures compare the models with each other,
not with ModelNet10's.

| model | what | weights | multiply-adds | hops | test | class | test-hard | class | s / epoch |
| --- | --- | ---: | ---: | ---: | --- | --- | --- | --- | ---: |
"""
    lines = [
        f"| `{row['model']}` | {row['note']} | {row['weights']:,} | "
        f"{row['multiply_adds'] / 1e6:.1f} M | {row['hops']} | {_range(row, 'test')} | "
        f"{_spread(row, 'test-class')} | {_range(row, 'test-hard')} | "
        f"{_spread(row, 'test-hard-class')} | {row['seconds_mean']:.1f} |"
        for row in rows
    ]
    return head + "\n".join(lines) + "\n\n![accuracy](points.png)\n\n" + reading(rows)


def reading(rows: list[dict[str, Any]]) -> str:
    """What the ranges say on ``test-hard``, derived from the figures."""
    by_name = {row["model"]: row for row in rows}
    pairs = (
        ("mgic_diffgcn", "pointnet", "neighborhoods"),
        ("mgic_diffgcn", "random_graph", "real against random neighbors"),
        ("dgcnn", "random_graph", "real against random neighbors, same weights"),
        ("diffgcn", "pointnet", "neighborhoods, dense"),
        ("mgic_diffgcn", "diffgcn", "MGIC against its dense twin"),
        ("mgic_diffgcn", "diffgcn-hops", "MGIC against dense with as many hops"),
        ("mgic_dgcnn", "dgcnn", "MGIC against its dense twin"),
    )
    lines = [
        "## On test-hard",
        "",
        "| question | difference of the means | do the ranges overlap? |",
        "| --- | ---: | --- |",
    ]
    for first, second, question in pairs:
        a, b = by_name[first], by_name[second]
        overlap = (
            a["test-hard_min"] <= b["test-hard_max"] and b["test-hard_min"] <= a["test-hard_max"]
        )
        lines.append(
            f"| {question}: `{first}` - `{second}` | "
            f"{a['test-hard_mean'] - b['test-hard_mean']:+.1f} | {'yes' if overlap else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw accuracy against weights on both splits, with the range over the seeds."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, split in zip(figure.subplots(1, 2, sharey=False), SPLITS, strict=True):
        for row in rows:
            mean = row[f"{split}_mean"]
            spread = [[mean - row[f"{split}_min"]], [row[f"{split}_max"] - mean]]
            control = row["note"].startswith("control")
            mgic = row["model"].startswith("mgic")
            color = "#bbbbbb" if control else "#ee6677" if mgic else "#4477aa"
            axes.errorbar(row["weights"], mean, spread, fmt="o", color=color, capsize=3)
            axes.annotate(
                row["model"], (row["weights"], mean), (5, 5), textcoords="offset points", fontsize=8
            )
        axes.set(xscale="log", xlabel="weights", ylabel="accuracy, %", title=split)
        axes.margins(x=0.25)
        axes.grid(alpha=0.3)
    part = path.with_name(f".{path.name}.part.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(part, dpi=150)
    part.replace(path)


def _spread(row: dict[str, Any], key: str) -> str:
    return f"{row[f'{key}_mean']:.1f} ± {row[f'{key}_std']:.1f}"


def _range(row: dict[str, Any], key: str) -> str:
    return f"{_spread(row, key)} ({row[f'{key}_min']:.1f} to {row[f'{key}_max']:.1f})"


def _csv(value: Any) -> str:
    return (
        f"{value:.4f}"
        if isinstance(value, float)
        else f'"{value}"'
        if "," in str(value)
        else str(value)
    )


if __name__ == "__main__":
    sys.exit(main())
