"""Runs of a comparison as resumable pieces: what is missing is run, and nothing twice."""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import yaml

from scripts.training.reliability.errors import RunFolderError, TrainingError
from scripts.training.reliability.files import read_json, write_json
from scripts.training.reliability.run_folder import compare_configs, flatten, read_config
from scripts.training.reports.report import read_metrics

STOPPED = (75, -signal.SIGTERM)  # exit codes of a run that was told to stop, late and early

Key = TypeVar("Key", bound=tuple)
Place = TypeVar("Place", bound=tuple)  # a key without rate and seed


class Piece(Protocol):
    """One training of a comparison."""

    def describe(self) -> dict[str, Any]:
        """Return what the results depend on, in plain values."""
        ...

    def read(self) -> dict[str, Any] | None:
        """Return the results, None if it is not finished; refuse those of other settings."""
        ...

    def run(self, deadline: float) -> None:
        """Start or continue it; stop at the deadline, in seconds of ``time.monotonic``."""
        ...


def add_arguments(
    parser: argparse.ArgumentParser, folder: str, *, minutes: float = math.inf, jobs: int = 1
) -> None:
    """Add the options of every command that trains."""
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every network")
    parser.add_argument("--minutes", type=float, default=minutes, help="stop training after these")
    parser.add_argument("--runs", type=Path, default=Path(folder), help="folder of the runs")
    parser.add_argument("--page-only", action="store_true", help="train nothing")
    if jobs > 1:
        parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")


def finish(pieces: Mapping[Key, Piece], options: argparse.Namespace) -> dict[Key, dict[str, Any]]:
    """Run the missing pieces until the time is over; return the results of the finished ones.

    Each result is also kept at once as ``NAME-runs.json`` beside the page: who has that file and no
    folder of runs goes on from there, and trains only what it does not have with the same settings.

    Raises:
        ValueError: No seeds are asked for.
        RunFolderError: A piece has results of other settings.
        TrainingError: Some runs failed; the others have been run all the same.
    """
    if options.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {options.seeds}")
    deadline, jobs = time.monotonic() + 60 * options.minutes, getattr(options, "jobs", 1)
    errors: list[TrainingError] = []
    record = options.docs / f"{options.name}-runs.json"
    kept = read_json(record) if record.exists() else {}
    own = {key: piece.describe() for key, piece in pieces.items()}
    label = {key: " ".join(str(part) for part in key if part is not None) for key in pieces}
    known = {
        key: kept[label[key]]["result"]
        for key in pieces
        if kept.get(label[key], {}).get("run") == own[key]
    }

    lock = threading.Lock()

    def keep(keys: Iterable[Key]) -> dict[Key, dict[str, Any]]:
        found = {key: result for key in keys if (result := pieces[key].read()) is not None}
        new = {label[key]: {"run": own[key], "result": found[key]} for key in found}
        with lock:
            if any(kept.get(name) != entry for name, entry in new.items()):
                kept.update(new)
                write_json(record, kept)
        return found

    def attempt(key: Key) -> None:
        try:
            if pieces[key].read() is None and time.monotonic() < deadline:
                pieces[key].run(deadline)
                keep([key])
        except TrainingError as error:
            errors.append(error)

    missing = [key for key in pieces if key not in known]
    if not options.page_only and jobs > 1:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(attempt, missing))
    elif not options.page_only:
        for key in missing:  # in this thread, which has the number of threads of torch
            attempt(key)
    found = keep(pieces)
    if errors:
        raise errors[0] if len(errors) == 1 else TrainingError("\n".join(map(str, errors)))
    return {key: (known | found)[key] for key in pieces if key in known or key in found}


def choose_rates(
    places: Iterable[Place],
    rates: Sequence[float],
    make_piece: Callable[[Place, float], Piece],
    options: argparse.Namespace,
    *,
    best: Callable[..., float] = max,
) -> dict[Place, float]:
    """Run seed 0 of every place with every rate; its time is taken off ``options.minutes``.

    Returns:
        The rate that is best on the training data held out, of each place with all of them run.
    """
    start, places = time.monotonic(), list(places)
    pieces = {(*place, rate, 0): make_piece(place, rate) for place in places for rate in rates}
    found = finish(pieces, options)
    options.minutes -= (time.monotonic() - start) / 60
    chosen = {}
    for place in places:
        keys = {rate: (*place, rate, 0) for rate in rates}
        if all(key in found for key in keys.values()):
            chosen[place] = best(rates, key=lambda rate: found[keys[rate]]["val"])
    return chosen


def over_seeds(found: Mapping[tuple, dict[str, Any]], *place: Any) -> dict[int, dict[str, Any]]:
    """Return the results of one row by seed: those whose key is ``(*place, seed)``.

    Example:
        >>> over_seeds({("a", 0): {"test": 1.0}, ("b", 0): {"test": 2.0}}, "b")
        {0: {'test': 2.0}}
    """
    return {key[-1]: result for key, result in found.items() if key[:-1] == place}


def refuse_changes(place: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse results that were made by other settings.

    Raises:
        RunFolderError: With the settings that differ.
    """
    if changed := compare_configs(before, now):
        raise RunFolderError(
            f"{place} is of other settings:\n  " + "\n  ".join(changed) + "\nChoose another --runs"
        )


def _without_place(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a folder of data keep the name, which tells data apart, and not where it lies."""
    root = settings.get("data.root")
    return {**settings, "data.root": Path(root).name} if root else dict(settings)


@dataclass(frozen=True)
class TrainingRun:
    """A run of a training script in a process of its own, on one thread.

    Args:
        path: Its run folder; its log lies beside it.
        script: Name of the script, such as ``train_image``.
        config: The configuration file.
        settings: What differs from the file, by dotted name.
        seed: Of the run.
        splits: What is tested at its end.
        measure: From the result of a split, by its name, to the values of the table.
    """

    path: Path
    script: str
    config: Path
    settings: Mapping[str, Any]
    seed: int
    splits: Sequence[str] = ("test",)
    measure: Callable[[str, dict[str, Any]], dict[str, float]] = lambda split, result: {
        split: 100 * result["accuracy"],
        f"{split}-class": 100 * result["class_accuracy"],
    }

    def describe(self) -> dict[str, Any]:
        """Return the settings of the file and of this run."""
        settings = dict(flatten(yaml.safe_load(self.config.read_text()))) | dict(self.settings)
        settings = dict(flatten(settings | {"seed": self.seed, "run_dir": None}))
        return json.loads(json.dumps(_without_place(settings)))

    def read(self) -> dict[str, Any] | None:
        """Return the values of a finished run.

        ``curve`` is the accuracy of every epoch on what was held out, and ``val`` the best of them.
        """
        files = {split: self.path / f"{split}.json" for split in self.splits}
        if not all(file.exists() for file in files.values()):
            return None
        config = read_config(self.path / "config.yaml")
        wanted = self.describe()
        found = {
            key: value
            for key, value in _without_place(dict(flatten(config))).items()
            if key in wanted or key.startswith("model.options.")
        }
        refuse_changes(self.path, found, wanted)
        run: dict[str, Any] = {}
        for split, file in files.items():
            run |= self.measure(split, read_json(file))
        metrics = read_metrics(self.path / "metrics.csv")
        held_out = metrics.get("val_accuracy", np.empty(0))
        held_out = held_out[~np.isnan(held_out)]  # of runs that hold nothing out
        curve = [round(float(value), 3) for value in 100 * held_out]
        val = {"val": 100 * float(held_out.max()), "curve": curve} if curve else {}
        return run | {"epochs": len(metrics["epoch"])} | val

    def run(self, deadline: float) -> None:
        """Train; at the deadline the run writes a checkpoint and stops."""
        command = [sys.executable, "-m", f"scripts.{self.script}", "fit"]
        command += ["--config", str(self.config)]
        for key, value in self.settings.items():
            command += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        command += ["--resume", "--run_dir", str(self.path), "--seed", str(self.seed)]
        command += ["--threads", "1"]
        log = self.path.with_name(f"{self.path.name}.log")  # rates have points
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
            try:
                code = process.wait(None if deadline == math.inf else max(0, deadline - start))
            except subprocess.TimeoutExpired:
                process.terminate()
                code = process.wait()
        print(f"{self.path.name}: exit code {code}, {time.monotonic() - start:.0f} s", flush=True)
        if code != 0 and code not in STOPPED:
            raise TrainingError(f"{self.path.name} failed with exit code {code}, see {log}")
