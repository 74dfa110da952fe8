"""Table 12's settings really trained: s_c and s_g of a shallow MGIC-ResNet on real digits."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from mgic_geo import MGICBlock
from mgic_vision import summary
from scripts.experiments import runs
from scripts.experiments.figures import RED, Panel, dot_rows
from scripts.experiments.pages import as_png, fill
from scripts.experiments.paper import small_tasks
from scripts.experiments.paper.item import Item, Page, published
from scripts.experiments.paper.small_tasks import Network, digits
from scripts.experiments.ranges import summarize

DIGITS = replace(small_tasks.DIGITS, options={"depth": 8}, make_data=partial(digits, 1_000, 16))
SETTINGS = tuple(dict.fromkeys((row["s_c"], row["s_g"]) for row in published("table12")["rows"]))


def make(arguments: argparse.Namespace) -> Page:
    """Run what is missing, as far as the time goes, and tabulate what is there."""
    networks = make_networks()
    trials = {
        (network.variant, seed): network.trial(seed, arguments.runs)
        for seed in range(arguments.seeds)
        for network in networks.values()
    }
    found = runs.finish(trials, arguments)
    rows = []
    for (s_c, s_g), network in networks.items():
        own = runs.over_seeds(found, network.variant).values()
        results = [{"test": result["score"]} for result in own]
        costs = summary(network.make(), DIGITS.make_data().x.shape[1:]).total
        same = network.variant != f"s_c {s_c} s_g {s_g}"
        row: dict[str, Any] = {"s_c": s_c, "s_g": s_g}
        row |= {"same network as": network.variant if same else ""}
        row |= {"weights": costs.weights, "multiply-adds": costs.multiply_adds}
        row |= {"seeds": len(results)} | summarize(results, ["test"])
        rows.append(row if len(results) > 1 else row | {"test_std": None})
    minutes = sum(result["seconds"] for result in found.values()) / 60
    missing = len(trials) - len(found)
    notes = fill("levels_study.md", task=DIGITS, missing=missing, minutes=minutes)
    return Page(rows, notes, {"": as_png(draw, rows)}, seeds=seeds_of(arguments))


def seeds_of(arguments: argparse.Namespace) -> str:
    """The seeds, in words."""
    return f"{', '.join(map(str, range(arguments.seeds)))} of every network"


def make_networks() -> dict[tuple[int, int], Network]:
    """The network of every setting; settings with the same levels share one."""
    by_levels: dict[Any, Network] = {}
    networks = {}
    for s_c, s_g in SETTINGS:
        options = {"coarse_size": s_c, "group_size": s_g}
        network = Network(DIGITS, f"s_c {s_c} s_g {s_g}", options=options)
        levels = tuple(m.levels for m in network.make().modules() if isinstance(m, MGICBlock))
        networks[s_c, s_g] = by_levels.setdefault(levels, network)
    return networks


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw mean and range of every network, the first as a band."""
    known = [row for row in rows if row["seeds"] and not row["same network as"]]
    name = "s_g {s_g}, s_c {s_c}, {thousands:.0f} k".format_map
    return dot_rows(
        [Panel("", known, "test", DIGITS.unit)],
        name=lambda row: name(row | {"thousands": row["weights"] / 1000}),
        color=lambda row: RED,
    )


ITEM = Item(
    "levels_study",
    "s_c and s_g of Table 12, trained on real digits",
    cost="15 minutes at most on one core, in pieces of --minutes",
    offline="all",
    make=make,
    add_arguments=partial(runs.add_arguments, folder="runs/levels_study", minutes=30),
)
