"""What the scripts that compare models with several seeds share: their runs, ranges and pages."""

import argparse
import csv
import io
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scripts.benchmarks import timing
from scripts.training.reliability.files import write_whole

REPEATS = 7  # training steps timed of every model


@dataclass(frozen=True)
class Job:
    """One run of a training script.

    Args:
        folder: Where it goes; its log is beside it.
        script: Name of the script, such as ``train_image``.
        options: What ``fit`` gets beside folder, seed and threads.
        seed: Seed of the run.
        splits: What is tested at its end.
    """

    folder: Path
    script: str
    options: tuple[str, ...]
    seed: int
    splits: tuple[str, ...] = ("test",)

    @property
    def finished(self) -> bool:
        """Whether everything has been tested."""
        return all((self.folder / f"{split}.json").exists() for split in self.splits)


@dataclass(frozen=True)
class Contender:
    """A row of a table: a network by its name in the registry, and what it is there for."""

    model: str
    note: str


@dataclass(frozen=True)
class Variant(Contender):
    """A row of a table in which a network may stand several times, with options of its own."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


def make_parser(description: str, runs: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every comparison has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every model")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--runs", type=Path, default=Path(runs))
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    parser.add_argument("--page-only", action="store_true", help="train nothing")
    return parser


def make_grid(
    contenders: Sequence[Contender],
    make_job: Callable[[Contender, int, argparse.Namespace], Job],
    options: argparse.Namespace,
) -> dict[str, list[Job]]:
    """Return the runs of every network, one a seed, by the name of the network."""
    return {
        contender.model: [make_job(contender, seed, options) for seed in range(options.seeds)]
        for contender in contenders
    }


def seed_by_seed(grid: Mapping[Any, Sequence[Job]]) -> list[Job]:
    """Return all runs of a grid, those with the first seed in front: they are a table already."""
    return [job for same_seed in zip(*grid.values(), strict=True) for job in same_seed]


def finish_runs(jobs: Sequence[Job], options: argparse.Namespace) -> bool:
    """Run what is missing, continue what was interrupted, and tell whether all runs are there."""
    if options.page_only:
        names = [job.folder.name for job in jobs if not job.finished]
        if names:
            print(f"error: runs are missing: {', '.join(names)}", file=sys.stderr)
        return not names
    with ThreadPoolExecutor(options.jobs) as pool:
        failed = sum(pool.map(_fails, jobs))
    if failed:
        print(f"error: {failed} of {len(jobs)} runs failed", file=sys.stderr)
    return not failed


def _fails(job: Job) -> bool:
    """Run a job in a process of its own, unless that is done."""
    if job.finished:
        return False
    command = [sys.executable, "-m", f"scripts.{job.script}", "fit", *job.options, "--resume"]
    command += ["--run_dir", str(job.folder), "--seed", str(job.seed), "--threads", "1"]
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with job.folder.with_suffix(".log").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    print(f"{job.folder.name}: exit code {code}, {time.monotonic() - start:.0f} s", flush=True)
    return code != 0


def read_run(job: Job) -> dict[str, Any]:
    """Return accuracies in percent and the number of epochs of a finished run."""
    run: dict[str, Any] = {}
    for split in job.splits:
        result = json.loads((job.folder / f"{split}.json").read_text())
        run[split] = 100 * result["accuracy"]
        run[f"{split}-class"] = 100 * result["class_accuracy"]
    with (job.folder / "metrics.csv").open() as file:
        run["epochs"] = len(list(csv.DictReader(file)))
    return run


def step_seconds(
    models: Mapping[str, Callable[[], nn.Module]], inputs: Sequence[Any], targets: Tensor
) -> dict[str, float]:
    """Time a training step of every model on one thread, side by side.

    What the runs themselves took depends on what else the machine did meanwhile.

    Args:
        models: How each of them is made, by name.
        inputs: A batch, as all of them are called with it.
        targets: Its classes.

    Returns:
        The median, by name.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        racers = [
            timing.Contender(name, timing.training_step(make_model(), [(inputs, targets)]))
            for name, make_model in models.items()
        ]
        samples = timing.race(racers, repeats=REPEATS)
    finally:
        torch.set_num_threads(before)
    return {name: timing.spread(times).median for name, times in samples.items()}


def summarize(runs: Sequence[dict[str, Any]], keys: Sequence[str]) -> dict[str, float]:
    """Return mean, standard deviation and range of some values over the seeds.

    Example:
        >>> summarize([{"test": 90.0}, {"test": 92.0}], ["test"])["test_max"]
        92.0
    """
    row: dict[str, float] = {}
    for key in keys:
        values = [run[key] for run in runs]
        row[f"{key}_mean"] = float(np.mean(values))
        row[f"{key}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        row |= {f"{key}_min": min(values), f"{key}_max": max(values)}
    return row


def spread(row: dict[str, Any], key: str) -> str:
    """Write mean and standard deviation; one seed has none."""
    mean, std = row[f"{key}_mean"], row[f"{key}_std"]
    return f"{mean:.1f}" if math.isnan(std) else f"{mean:.1f} ± {std:.1f}"


def spread_and_range(row: dict[str, Any], key: str) -> str:
    """Write mean, standard deviation and range.

    Example:
        >>> spread_and_range(summarize([{"test": 90.0}, {"test": 92.0}], ["test"]), "test")
        '91.0 ± 1.4 (90.0 to 92.0)'
        >>> spread_and_range(summarize([{"test": 90.0}], ["test"]), "test")
        '90.0 (one seed)'
    """
    if math.isnan(row[f"{key}_std"]):
        return f"{spread(row, key)} (one seed)"
    return f"{spread(row, key)} ({row[f'{key}_min']:.1f} to {row[f'{key}_max']:.1f})"


def overlap(one: dict[str, Any], other: dict[str, Any], key: str) -> bool:
    """Tell whether the ranges of two rows overlap.

    Example:
        >>> overlap({"a_min": 1, "a_max": 2}, {"a_min": 2, "a_max": 3}, "a")
        True
    """
    low, high = f"{key}_min", f"{key}_max"
    return one[low] <= other[high] and other[low] <= one[high]


def difference(one: dict[str, Any], other: dict[str, Any], key: str) -> tuple[str, str]:
    """Write the difference of the means of two rows, and whether their ranges overlap.

    Example:
        >>> one, other = ({"a_mean": n, "a_min": n - 1, "a_max": n + 1} for n in (9, 5))
        >>> difference(one, other, "a")
        ('+4.0', 'no')
    """
    change = one[f"{key}_mean"] - other[f"{key}_mean"]
    return f"{change:+.1f}", "yes" if overlap(one, other, key) else "no"


def who_wins(
    rows: Sequence[dict[str, Any]],
    questions: Sequence[tuple[str, str, str]],
    keys: Mapping[str, tuple[str, str]],
    *,
    costs: Sequence[str] = (),
    title: str = "Who wins",
) -> str:
    """Write the section of a page that says what the ranges say, derived from the figures.

    Args:
        rows: Of the table, with the name of a network in ``model``.
        questions: Two networks, and what their comparison tells.
        keys: Of the results to compare; each with the headings of its difference and its overlap.
        costs: Columns of which the ratio is shown.
        title: Of the section.
    """
    heads = [heading for pair in keys.values() for heading in pair]
    columns = ["question", *(cost.replace("_", "-") for cost in costs), *heads]
    rules = ["---", *(["---:"] * len(costs)), *(["---:", "---"] * len(keys))]
    table, found = [columns, rules], {row["model"]: row for row in rows}
    for first, second, question in questions:
        one, other = found[first], found[second]
        cells = [f"{question}: `{first}` - `{second}`"]
        cells += [f"{one[cost] / other[cost]:.0%}" for cost in costs]
        table.append(cells + [cell for key in keys for cell in difference(one, other, key)])
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(row)} |" for row in table)]) + "\n"


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of a table, numbers with four digits after the point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([f"{v:.4f}" if isinstance(v, float) else v for v in row.values()])
    write_whole(path, text.getvalue().encode())
