"""Figure 4: error against weights when f(x, y, a, b, c) = a cos(bx) sin(cy) is approximated."""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scripts.paper_tables.function_task import (
    Run,
    Settings,
    function,
    make_points,
    read_settings,
    train_until,
)
from scripts.paper_tables.item import Item, Page
from scripts.paper_tables.pages import as_png

CONFIGS = tuple(
    Path(f"scripts/configs/{name}.yaml") for name in ("function", "function_range", "function_sgd")
)
COLORS = ("#0072b2", "#009e73", "#d55e00", "#cc79a7", "#8d96a0")  # of networks
LINES = ("o-", "s:", "^:", "D:")  # of optimizers and ranges of c


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is trained, where, and for how long."""
    parser.add_argument("--config", type=Path, nargs="+", default=CONFIGS)
    parser.add_argument("--runs", type=Path, default=Path("runs/function"))
    parser.add_argument("--minutes", type=float, default=55, help="stop training after these")
    parser.add_argument("--epochs", type=int, help="in place of the configuration's")
    parser.add_argument("--num-points", type=int, help="in place of the configuration's")
    parser.add_argument("--c-max", type=int, nargs="+", help="in place of the configuration's")
    parser.add_argument("--folds", type=int, help="in place of the configuration's")


def make(arguments: argparse.Namespace) -> Page:
    """Train what is missing, as far as the time goes, and tabulate what is there."""
    deadline = time.monotonic() + 60 * arguments.minutes
    changes = {key: getattr(arguments, key) for key in ("epochs", "num_points", "c_max", "folds")}
    rows, notes, unfinished, seconds = [], [], 0, 0.0
    for path in arguments.config:
        settings = read_settings(path, **changes)
        points = make_points(settings)
        opened = train_until(deadline, _runs(settings, arguments.runs / path.stem), points)
        unfinished += sum(not run.finished for run in opened.values())
        seconds += sum(
            epoch["seconds_per_step"] * settings.num_steps
            for run in opened.values()
            for epoch in run.history
        )
        variance = function(points).var().item()
        rows += make_rows(settings, opened, variance)
        notes.append(describe(path.stem, settings, variance))
    if unfinished:
        notes.insert(0, f"**{unfinished} runs are not finished**: the same command continues them.")
    notes.append(f"All trainings together took {seconds / 60:.0f} minutes.")
    notes.append(
        "The paper draws Figure 4 without numbers and does not say s_g; its own protocol is "
        "`scripts/configs/function_paper.yaml`."
    )
    return Page(rows, notes, {"": draw(rows)}, seeds="of every row its folds, from 0")


def _runs(settings: Settings, folder: Path) -> dict[tuple[int, int, str], Any]:
    """All runs, fold by fold, so that what is there first is already a whole figure."""
    return {
        (fold, c_max, network.name): partial(
            Run,
            settings,
            network,
            c_max,
            fold,
            folder / f"{network.name.replace(' ', '_')}-{c_max}-{fold}.ckpt",
        )
        for fold in range(settings.folds)
        for c_max in settings.c_max
        for network in settings.networks
    }


def make_rows(
    settings: Settings, opened: dict[tuple[int, int, str], Run], variance: float
) -> list[dict[str, Any]]:
    """One row a network and width, over the folds that are finished."""
    rows = []
    for network in settings.networks:
        for c_max in settings.c_max:
            runs = [opened[fold, c_max, network.name] for fold in range(settings.folds)]
            done = [run.history for run in runs if run.finished]
            tests = [history[-1]["test"] for history in done]
            times = [epoch["seconds_per_step"] for run in runs for epoch in run.history]
            rows.append(
                {
                    "network": network.name,
                    "c_max": c_max,
                    "optimizer": f"{settings.optimizer.kind} {settings.optimizer.lr:g}",
                    "c": "{:g} to {:g}".format(*settings.c_range),
                    "ours weights": runs[0].num_weights,
                    "folds": len(done),
                    "ours test MSE": sum(tests) / len(tests) if tests else None,
                    "lowest": min(tests, default=None),
                    "highest": max(tests, default=None),
                    "ours training MSE": (
                        sum(history[-1]["train"] for history in done) / len(done) if done else None
                    ),
                    "variance": variance,
                    "s / step": min(times, default=None),
                }
            )
    return rows


def describe(name: str, settings: Settings, variance: float) -> str:
    """What a configuration trains with, in words."""
    optimizer, steps = settings.optimizer, settings.epochs * settings.num_steps
    return (
        f"`{name}`: {settings.num_points:,} points, {settings.test_fraction:.0%} of them tested, "
        f"{settings.folds} folds, each with its own first weights; {settings.epochs} epochs of "
        f"batches of {settings.batch_size:,} = {steps:,} steps; {optimizer.kind}, learning rate "
        f"{optimizer.lr:g}, {optimizer.schedule}, the same for all networks; c from "
        f"{settings.c_range[0]:g} to {settings.c_range[1]:g}. The function's variance, the error "
        f"of a constant, is {variance:.4f}."
    )


def draw(rows: Sequence[dict[str, Any]]) -> bytes:
    """Draw error against weights, both logarithmic."""
    figure = Figure(figsize=(6.5, 4.4), layout="constrained")
    axes = figure.add_subplot()
    networks = list(dict.fromkeys(row["network"] for row in rows))
    protocols = list(dict.fromkeys(_curve(row)[1:] for row in rows))
    for curve in dict.fromkeys(map(_curve, rows)):
        own = [row for row in rows if _curve(row) == curve and row["folds"]]
        if not own:
            continue
        mean = [row["ours test MSE"] for row in own]
        ends = [
            [m - row["lowest"] for m, row in zip(mean, own, strict=True)],
            [row["highest"] - m for m, row in zip(mean, own, strict=True)],
        ]
        axes.errorbar(
            [row["ours weights"] for row in own],
            mean,
            ends,
            fmt=LINES[protocols.index(curve[1:]) % len(LINES)],
            capsize=3,
            color=COLORS[networks.index(curve[0]) % len(COLORS)],
            label=", ".join(curve),
        )
    axes.set(xscale="log", yscale="log", xlabel="weights", ylabel="test MSE")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    return as_png(figure)


def _curve(row: dict[str, Any]) -> tuple[str, ...]:
    return row["network"], row["optimizer"], f"c {row['c']}"


ITEM = Item(
    "figure4",
    "error against weights in the approximation of a function",
    needs="nothing, the function is drawn",
    cost="about 80 minutes on one core, in pieces of --minutes",
    offline="a smaller budget than the paper's, the same for all networks",
    make=make,
    add_arguments=add_arguments,
)
