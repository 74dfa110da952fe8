"""``rivals``: MGIC beside its rivals at equal weights and at equal time.

The sizes of the rivals are found first; they stay as ``sizes.json`` in the folder of the runs has
them. ``--time`` measures the units for the page, which wants a quiet machine; it trains nothing.
"""

import argparse
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from mgic_geo import num_weights
from scripts.experiments import runs
from scripts.experiments.figures import BLUE, GRAY, GREEN, RED, Panel, dot_rows
from scripts.experiments.pages import as_png, fill, write_page
from scripts.experiments.ranges import Row, judge, summarize
from scripts.experiments.rivals import units as all_units
from scripts.experiments.rivals.maps import BlockTensorTrain
from scripts.experiments.rivals.matching import inference_seconds, match, step_seconds
from scripts.experiments.rivals.tasks import TASKS
from scripts.experiments.rivals.units import Unit
from scripts.experiments.trial import Batch, Course, Trial
from scripts.training.optimizer import OptimizerSettings
from scripts.training.reliability.files import read_json, write_json
from scripts.training.reliability.seeds import derive_seed

RATES = (0.001, 0.002, 0.005)
OPEN = "open"  # of a verdict with fewer than two seeds


class Rivals:
    """The comparison and its options."""

    name, title = "rivals", "MGIC and its rivals, at equal weights and at equal time"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        runs.add_arguments(parser, "runs/rivals", minutes=60)
        parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
        parser.add_argument("--steps", type=int, default=200, help="of every training")
        parser.add_argument("--time", action="store_true", help="only measure the units")

    def run(self, options: argparse.Namespace, changes: Mapping[str, Any]) -> Path:
        """Train what is missing, or measure, and write the page."""
        sizes, times = options.runs / "sizes.json", options.runs / "times.json"
        if not sizes.exists():
            write_json(sizes, match())
        units = [Unit(**row) for row in read_json(sizes)]
        if options.time:
            write_json(times, measure(units))
        options.page_only |= options.time
        by_name = {unit.name: unit for unit in units}
        places = [(unit.name, task) for task in options.tasks for unit in units]

        def make_piece(place: tuple[str, str], rate: float, seed: int = 0) -> Trial:
            return make_trial(by_name[place[0]], place[1], options.steps, rate, seed, options.runs)

        rates = runs.choose_rates(places, RATES, make_piece, options, best=min)
        trials = {
            (*place, rate, seed): make_piece(place, rate, seed)
            for seed in range(options.seeds)
            for place, rate in rates.items()
        }
        found = runs.finish(trials, options)
        measured = read_json(times) if times.exists() else {}
        rows = []
        for unit in units:
            own = measured.get(unit.name, {})
            row: Row = {"model": unit.kind, "matched": unit.matched or "-"}
            row |= {"size": ", ".join(f"{key} {value}" for key, value in unit.options.items())}
            row |= {"weights": num_weights(unit.make())}
            row |= {f"{key}_ms": own.get(key) for key in ("training", "inference")}
            for task in options.tasks:
                rate = rates.get((unit.name, task))
                own = runs.over_seeds(found, unit.name, task, rate).values()
                errors = [{task: result["score"]} for result in own]
                row |= {f"{task}_rate": rate, f"{task}_runs": len(errors)}
                row |= summarize(errors, [task])
            rows.append(row)
        text = fill(
            "rivals.md",
            rows=rows,
            tasks={name: TASKS[name] for name in options.tasks},
            options=options,
            units=all_units,
            rates=RATES,
            load=measured.get("machine", {}).get("load"),
            cores=os.cpu_count(),
            missing=options.seeds * len(places) - len(found),
            verdicts={cycle: verdicts(rows, options.tasks, cycle) for cycle in all_units.CYCLES},
            conclusions=conclusions,
        )
        picture = as_png(draw, rows, options.tasks)
        return write_page(options.docs, self.name, text, rows, {"": picture})


@dataclass(frozen=True)
class Optimizer(OptimizerSettings):
    """AdamW; the cores of a block tensor-train have the rates of their authors' rule."""

    weight_decay: float = 1e-4
    warmup_epochs: float = 0.1

    def make_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer, with a group for every rate."""
        factors: dict[nn.Parameter, float] = {}
        for module in network.modules():
            factors |= module.rates() if isinstance(module, BlockTensorTrain) else {}
        groups = defaultdict(list)
        for parameter in network.parameters():
            groups[self.lr * factors.get(parameter, 1.0)].append(parameter)
        weights = [{"params": group, "lr": lr, "initial_lr": lr} for lr, group in groups.items()]
        return torch.optim.AdamW(weights, lr=self.lr, weight_decay=self.weight_decay)


def make_trial(
    unit: Unit, task_name: str, steps: int, rate: float, seed: int, folder: Path
) -> Trial:
    """The training of one network; its batches are the same for all units."""
    task = TASKS[task_name]

    def make_network() -> torch.nn.Module:
        torch.manual_seed(derive_seed(seed, "weights"))
        return task.make_network(unit.make)

    def batches(epoch: int) -> Iterable[Batch]:
        generator = torch.Generator().manual_seed(derive_seed(seed, "batches"))
        return (task.draw(generator) for _ in range(steps))

    return Trial(
        folder / f"{task_name}-{unit.name.replace(' ', '_')}-{rate:g}-{seed}.json",
        Course(steps, 1, Optimizer(lr=rate), task.loss, task.test, task.error, task.held_out),
        make_network,
        batches,
        {"unit": unit.kind, "options": unit.options, "steps": steps}
        | {"weights": num_weights(make_network())},
    )


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


def verdict(mgic: Row, rival: Row, task: str) -> str:
    """Say how MGIC does beside a rival; errors, so that lower is better."""
    if min(mgic[f"{task}_runs"], rival[f"{task}_runs"]) < 2:
        return OPEN
    word = {"lower": "better", "same": "same", "higher": "worse"}[judge(mgic, rival, task)]
    difference = mgic[f"{task}_mean"] - rival[f"{task}_mean"]
    return f"{word} ({difference:+.{TASKS[task].digits}f})"


Verdicts = list[tuple[Row, list[str]]]


def verdicts(rows: Sequence[Row], tasks: Sequence[str], cycle: str) -> Verdicts:
    """Judge MGIC, in one of its cycles, beside every other row."""
    for mgic in (row for row in rows if row["model"] == cycle):
        others = [row for row in rows if row["model"] not in all_units.CYCLES]
        return [(row, [verdict(mgic, row, task) for task in tasks]) for row in others]
    return []


def conclusions(judged_rows: Verdicts, tasks: Sequence[str]) -> list[str]:
    """Sentences of what the table of the verdicts says, and nothing beyond."""
    found: dict[tuple[str, str], list[str]] = {}
    for row, words in judged_rows:
        if row["model"] != "MGICLinear":  # no rival: it is not counted
            for task, word in zip(tasks, words, strict=True):
                place = row["matched"], word.split(" ")[0]
                found.setdefault(place, []).append(f"{row['model']} ({task})")
    lines = []
    for matched, place in (("weights", "At equal weights"), ("time", "At equal time")):
        judged = {word: found.get((matched, word), []) for word in ("better", "same", "worse")}
        if not (total := sum(map(len, judged.values()))):
            lines.append(f"- {place}: nothing can be said yet.")
            continue
        counts = ", ".join(f"{word} in {len(cases)}" for word, cases in judged.items())
        lines.append(f"- {place} MGIC is {counts} of {total} comparisons.")
        if judged["worse"]:
            lines.append(f"  Where it is worse, prefer {', '.join(judged['worse'])}.")
    if dense := found.get(("-", "worse")):
        lines.append(
            f"- Where weights do not matter, the dense unit is better: {', '.join(dense)}."
        )
    return lines


def draw(rows: Sequence[Row], tasks: Sequence[str]) -> Figure:
    """Draw the errors, a panel a task."""
    matched = {"weights": ", as many weights", "time": ", as much time"}
    colors = dict.fromkeys(all_units.CYCLES, RED) | {"dense": BLUE, "Ghost": GREEN}
    return dot_rows(
        [Panel(task, rows, task, TASKS[task].unit) for task in tasks],
        name=lambda row: row["model"] + matched.get(row["matched"], ""),
        color=lambda row: colors.get(row["model"], GRAY),
    )
