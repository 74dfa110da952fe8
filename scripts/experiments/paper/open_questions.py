"""What the paper leaves open: each alternative tried on two small tasks, several seeds each."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from scripts.experiments import runs
from scripts.experiments.figures import BLUE, RED, Panel, dot_rows
from scripts.experiments.pages import as_png, fill
from scripts.experiments.paper import cycles
from scripts.experiments.paper.item import Item, Page
from scripts.experiments.paper.levels_study import seeds_of
from scripts.experiments.paper.small_tasks import DIGITS, FUNCTION, Network, Task
from scripts.experiments.ranges import judge, summarize

TASKS = (FUNCTION, DIGITS)
BETTER, WORSE, SAME, OPEN = "better", "worse", "no difference seen", "not run yet"
# what came out, by the names of task and variant, and the seed
Results = Mapping[tuple[str, str, int], dict[str, Any]]


@dataclass(frozen=True)
class Variant:
    """A network that is trained.

    Args:
        change: What is done to its cycles.
        options: By the name of a task, in place of the task's own; a task that is not named here
            is not for this variant.
    """

    change: cycles.Change = cycles.unchanged
    options: Mapping[str, dict[str, Any]] = field(
        default_factory=lambda: {"function": {}, "digits": {}}
    )


@dataclass(frozen=True)
class Question:
    """One line of the table: what is tried, against what, by the names of variants."""

    text: str
    tried: str
    against: str = "default"


# widths of at most s_c, where a coarser level costs more weights than it saves
NARROW = {"function": {"coarse_size": 32}, "digits": {"coarse_size": 32, "group_size": 16}}
ONE_LEVEL = {task: options | {"min_levels": 0} for task, options in NARROW.items()}
# 22, 44 and 88 channels: multiples of 11, whose groups would not become fewer by themselves. The
# function's widths are powers of 2, where both rules give the same groups
ODD = {"digits": {"width": 22}}
VARIANTS: dict[str, Variant] = {
    "default": Variant(),
    "interleaved groups": Variant(cycles.interleaved),
    "norm after R": Variant(cycles.norm_after_restriction),
    "uniform transfers": Variant(partial(cycles.initial_transfers, init="uniform")),
    "constant transfers": Variant(partial(cycles.initial_transfers, init="constant")),
    "zero scale": Variant(cycles.zero_scale),
    "shared R and P": Variant(cycles.shared_transfers),
    "whole features": Variant(cycles.WholeFeatures),
    "both ways": Variant(cycles.BothWays),
    "narrow, one level": Variant(options=NARROW),
    "narrow, none": Variant(options=ONE_LEVEL),
    "odd widths, strict": Variant(options=ODD),
    "odd widths, any": Variant(partial(cycles.any_groups, group_size=8), ODD),
    "dense": Variant(cycles.dense),
    "dense as deep": Variant(cycles.dense_as_deep),
}
WHOLE = "P carries up whole features, not what changed"
QUESTIONS = (
    Question("groups of the transfers: interleaved, not contiguous", "interleaved groups"),
    Question("a norm after R, not only after P", "norm after R"),
    Question("initial transfers: uniform, not aggregating", "uniform transfers"),
    Question("initial transfers: constant, not aggregating", "constant transfers"),
    Question("scale of the norm after P: starts at 0, not a tenth", "zero scale"),
    Question("R and P: shared (P is R transposed), not separate", "shared R and P"),
    Question(WHOLE, "whole features"),
    Question("relaxation on the way down as well", "both ways"),
    Question("at widths up to s_c: no coarser level, not one", "narrow, none", "narrow, one level"),
    Question("group rule: without strict fall", "odd widths, any", "odd widths, strict"),
    Question("control: dense layers in place of cycles", "dense"),
    Question("control: dense, as many layers as the cycle has levels", "dense as deep"),
)


def make(arguments: argparse.Namespace) -> Page:
    """Run what is missing, as far as the time goes, and tabulate what is there."""
    # seed by seed, so that what is there first is already a whole table
    trials = {
        (task.name, name, seed): Network(
            task, name, variant.change, variant.options[task.name]
        ).trial(seed, arguments.runs)
        for seed in range(arguments.seeds)
        for name, variant in VARIANTS.items()
        for task in TASKS
        if task.name in variant.options
    }
    found = runs.finish(trials, arguments)
    rows = [
        make_row(question, task, found)
        for question in QUESTIONS
        for task in TASKS
        if task.name in VARIANTS[question.tried].options
    ]
    missing = len(trials) - len(found)
    minutes = sum(result["seconds"] for result in found.values()) / 60
    notes = fill("open_questions.md", rows=rows, tasks=TASKS, missing=missing, minutes=minutes)
    return Page(rows, notes, {"": as_png(draw, found)}, seeds=seeds_of(arguments))


def make_row(question: Question, task: Task, found: Results) -> dict[str, Any]:
    """One question on one task: both networks with their ranges, and the verdict."""
    row: dict[str, Any] = {"question": question.text, "task": task.name, "score": task.unit}
    tried, against = (
        runs.over_seeds(found, task.name, name) for name in (question.tried, question.against)
    )
    ranges = []
    for side, results in (("", tried), (" against", against)):
        ranges.append(summarize(results.values(), ["score"]))
        row |= {
            f"ours{side}": ranges[-1]["score_mean"],
            f"lowest{side}": ranges[-1]["score_min"],
            f"highest{side}": ranges[-1]["score_max"],
            f"weights{side}": next((result["weights"] for result in results.values()), None),
        }
    seeds = tried.keys() & against.keys()
    sign = 1 if task.higher_is_better else -1
    won = sum(sign * (tried[seed]["score"] - against[seed]["score"]) > 0 for seed in seeds)
    words = dict(zip(("higher", "lower"), (BETTER, WORSE)[::sign], strict=True))
    verdict = words.get(judge(*ranges, "score"), SAME) if tried and against else OPEN
    return row | {"seeds": len(seeds), "seeds better": won, "verdict": verdict}


def draw(found: Results) -> Figure:
    """Draw mean and range of every network, the default's range as a band."""
    panels = []
    for task in TASKS:
        rows = [
            {"model": name} | summarize(results.values(), ["score"])
            for name in VARIANTS
            if (results := runs.over_seeds(found, task.name, name))
        ]
        way = "higher" if task.higher_is_better else "lower"
        panels.append(Panel(task.name, rows, "score", f"{task.unit} ({way} is better)"))
    return dot_rows(panels, color=lambda row: BLUE if row["model"].startswith("dense") else RED)


ITEM = Item(
    "open_questions",
    "what the paper leaves open, tried on two small tasks",
    cost="35 minutes at most on one core, in pieces of --minutes",
    offline="all",
    make=make,
    add_arguments=partial(runs.add_arguments, folder="runs/open_questions", minutes=45),
)
