"""MGIC beside its rivals at equal weights and at equal time, in ``docs/results/rivals.md``.

``python -m scripts.rivals`` finds the sizes of the rivals, trains what is missing in
``runs/rivals``, seed by seed and until ``--minutes`` are over, and writes the page from what is
there. The same command goes on where it stopped, and does again what an earlier version ran with
another network. ``--time`` measures the units for the page, which wants a quiet machine; it trains
nothing. The sizes stay as ``sizes.json`` has them, until that file is removed.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mgic_geo import num_weights
from scripts.rivalry import page
from scripts.rivalry.matching import inference_seconds, match, step_seconds
from scripts.rivalry.tasks import TASKS
from scripts.rivalry.training import read_run, train
from scripts.rivalry.units import Unit, read_units
from scripts.training.reliability.files import read_or_make, write_whole

STEPS = 200


def main(args: Sequence[str] | None = None) -> int:
    """Train what is missing and write the page."""
    options = parse(args)
    torch.set_num_threads(1)
    units = read_units(read_or_make(options.runs / "sizes.json", match))
    if options.time:
        (options.runs / "times.json").unlink(missing_ok=True)
        read_or_make(options.runs / "times.json", lambda: measure(units))
    elif not options.page_only:
        train_missing(units, options)
    rows = page.make_rows(units, options.runs, options.tasks, options.seeds)
    load = page.read_times(options.runs).get("machine", {}).get("load")
    page.write(rows, options.docs, options.tasks, options.steps, options.seeds, load)
    print(f"wrote {options.docs / 'rivals.md'}")
    return 0


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """What to do."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every network")
    parser.add_argument("--steps", type=int, default=STEPS, help="of every training")
    parser.add_argument("--minutes", type=float, default=60, help="begin no run after these")
    parser.add_argument("--runs", type=Path, default=Path("runs/rivals"))
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    parser.add_argument("--page-only", action="store_true", help="train nothing")
    parser.add_argument("--time", action="store_true", help="only measure the units")
    return parser.parse_args(args)


def train_missing(units: Sequence[Unit], options: argparse.Namespace) -> None:
    """Train seed by seed, so that what is there first is already a whole table."""
    deadline = time.monotonic() + 60 * options.minutes
    for seed in range(options.seeds):
        for task in options.tasks:
            for unit in units:
                path = options.runs / page.file_name(unit, task, seed)
                if time.monotonic() > deadline or read_run(path, unit.make, TASKS[task]):
                    continue
                run = fit(unit, task, options.steps, seed)
                write_whole(path, (json.dumps(run, indent=1) + "\n").encode())
                print(f"{path.stem}: {run['error']:.4g}, {run['seconds']:.1f} s", flush=True)


def fit(unit: Unit, task: str, steps: int, seed: int) -> dict[str, Any]:
    """Train one network."""
    return train(unit.make, TASKS[task], steps, seed)


def measure(units: Sequence[Unit]) -> dict[str, dict[str, float]]:
    """Weights of every unit, its milliseconds in training and inference, and how busy it was."""
    rows: dict[str, dict[str, float]] = {"machine": {"load": os.getloadavg()[0]}}
    for unit in units:
        module = unit.make()
        rows[unit.name] = {
            "weights": num_weights(module),
            "training": 1000 * step_seconds(module),
            "inference": 1000 * inference_seconds(module),
        }
    return rows


if __name__ == "__main__":
    sys.exit(main())
