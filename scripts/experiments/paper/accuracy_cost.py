"""Figures 5 and 6: accuracy against cost, and by epoch, from the paper's numbers and our runs."""

import argparse
import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from scripts.experiments.figures import color_of, frame
from scripts.experiments.pages import as_png, fill, read_rows
from scripts.experiments.paper.item import Item, Page, number, published
from scripts.training.reliability.files import read_json

# of the paper's networks; ours have the colors of all figures
WARM = ("#d55e00", "#cc79a7", "#e69f00", "#882255")
COLD = ("#0072b2", "#009e73", "#56b4e9", "#8d96a0", "#332288", "#44aa99")
MARKERS = ("s", "^", "v", "D", "P", "X", "<", ">", "p", "*", "h")
LINES = ("-", "--", ":")
# files of results here: what their accuracy is of, and in which column
OURS = {
    "points.csv": ("shapes10 test-hard, accuracy %", "test-hard"),
    "images.csv": ("mnist5k, accuracy %", "test"),
    "segmentation.csv": ("scenes of digits, mIoU %", "miou"),
}


def make_figure5(arguments: argparse.Namespace) -> Page:
    """Tabulate and draw accuracy against multiply-adds, one picture a data set."""
    rows: list[dict[str, Any]] = [
        {
            "where": "paper, ImageNet top-1 %",
            "model": row["model"],
            "paper multiply-adds": number("table7", row, "multiply_adds"),
            "paper accuracy": number("table7", row, "top1"),
        }
        for row in published("table7")["rows"]
    ]
    for file, (label, column) in OURS.items():
        for row in read_rows(arguments.docs / file):
            images = f", {row['num_train']} images" if "num_train" in row else ""
            line = {"where": f"ours, {label}{images}", "model": row["model"], "note": row["note"]}
            line |= {"ours multiply-adds": float(row["multiply_adds"])}
            names = {"mean": "ours accuracy", "min": "lowest", "max": "highest"}
            rows.append(line | {name: float(row[f"{column}_{end}"]) for end, name in names.items()})
    note = "The first panel has the paper's numbers of Table 7; the others are of networks trained "
    note += "here on other data, and are not to be compared with it."
    return Page(rows, note, {"": as_png(draw_costs, rows)})


def draw_costs(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw one panel a data set, one curve a family of networks; bars are ranges over the seeds."""
    places = list(dict.fromkeys(row["where"] for row in rows))
    columns = min(3, len(places))
    lines = math.ceil(len(places) / columns)
    figure = Figure(figsize=(5.6 * columns, 4.6 * lines))
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes, place in zip(panels, places, strict=False):
        side, _, data = place.partition(", ")
        families: dict[str, list[tuple[float, ...]]] = {}
        notes = {}
        for row in (row for row in rows if row["where"] == place):
            mean = row[f"{side} accuracy"]
            ends = (mean - row.get("lowest", mean), row.get("highest", mean) - mean)
            at = row[f"{side} multiply-adds"] / 1e6, mean, *ends
            families.setdefault(family(row["model"]), []).append(at)
            notes[family(row["model"])] = row.get("note")
        for style, (name, points) in zip(_styles(notes), families.items(), strict=True):
            x, y, *ends = zip(*sorted(points), strict=True)
            if len(x) == 1:
                style["linestyle"] = "none"
            axes.errorbar(x, y, ends, label=name, **style)
        axes.set(xscale="log", xlabel="multiply-adds, M", ylabel=data)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        where = "the paper's numbers" if side == "paper" else "trained here"
        axes.set_title(f"{where}: {data.partition(',')[0]}")
        axes.margins(0.08)
        axes.grid()
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=7)
    for axes in figure.axes[len(places) :]:
        axes.set_axis_off()
    return figure


def family(name: str) -> str:
    """Name of a network without its scale.

    Example:
        >>> family("MobileNetV3-Large 0.75x"), family("MGIC-MobileNetV3 0.6x, no h-swish")
        ('MobileNetV3', 'MGIC-MobileNetV3, no h-swish')
        >>> family("mgic_diffgcn"), family("ShuffleNetV1 1.0x (g = 3)")
        ('mgic_diffgcn', 'ShuffleNetV1')
    """
    name = re.sub(r" [\d.]+x", "", re.sub(r" \(.*\)", "", name))
    return name.removesuffix("-Large").removesuffix("-Small")


def _styles(notes: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Style every network by what its note says: MGIC thick, and a marker for everybody.

    The paper's networks have no note: those with MGIC in the name are warm, the others cold.
    """
    warm, cold, markers = map(itertools.cycle, (WARM, COLD, MARKERS))
    used = Counter[str]()
    styles = []
    for name, note in notes.items():
        ours = "mgic" in name.lower()
        color = next(warm if ours else cold) if note is None else color_of({"note": note})
        wide = {"linewidth": 2.2, "zorder": 3} if ours else {"linewidth": 1, "markersize": 5}
        line = LINES[used[color] % len(LINES)]
        styles.append({"color": color, "marker": next(markers), "linestyle": line, **wide})
        used[color] += 1
    return styles


def make_figure6(arguments: argparse.Namespace) -> Page:
    """Tabulate the best accuracy within a share of the epochs, and draw it by epoch."""
    rows: list[dict[str, Any]] = [
        {
            "run": f"paper: {row['model']}",
            "data": "ImageNet",
            "epochs": row["epochs"],
            "paper best accuracy": number("figure6", row, "top1"),
        }
        for row in published("figure6")["rows"]
    ]
    curves = read_curves(arguments.docs / "points-runs.json")
    for model, runs in curves.items():
        for share in (2 / 3, 1.0):
            epochs = max(1, round(share * min(map(len, runs))))
            best = [max(values[:epochs]) for values in runs]
            line = {"run": f"ours: {model}", "data": "points", "epochs": epochs}
            line |= {"ours best accuracy": sum(best) / len(best)}
            rows.append(line | {"lowest": min(best), "highest": max(best), "seeds": len(best)})
    notes = {row["model"]: row["note"] for row in read_rows(arguments.docs / "points.csv")}
    pictures = {"": as_png(draw_curves, curves, notes)} if curves else {}
    return Page(rows, fill("figure6.md"), pictures, "of every row as many as it says")


def read_curves(path: Path) -> dict[str, list[list[float]]]:
    """Read validation accuracy in percent by epoch, of every run of a comparison.

    Returns:
        By the name of the network, one list a seed.

    Example:
        >>> read_curves(Path("no such file"))
        {}
    """
    curves: dict[str, list[list[float]]] = {}
    for label, kept in (read_json(path) if path.exists() else {}).items():
        if curve := kept["result"].get("curve"):
            curves.setdefault(label.rpartition(" ")[0], []).append(curve)
    return curves


def draw_curves(
    curves: Mapping[str, Sequence[Sequence[float]]], notes: Mapping[str, str]
) -> Figure:
    """Draw the mean over the seeds by epoch, and their range; notes give the colors."""
    figure = Figure(figsize=(7.5, 4.6))
    axes = figure.subplots()
    styles = _styles({model: notes.get(model) for model in curves})
    for style, (model, runs) in zip(styles, curves.items(), strict=True):
        together = np.array([values[: min(map(len, runs))] for values in runs])
        epochs = range(1, together.shape[1] + 1)
        style |= {"markersize": 4, "markevery": max(1, together.shape[1] // 6)}
        axes.plot(epochs, together.mean(0), label=model, **style)
        low, high = together.min(0), together.max(0)
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.1, linewidth=0)
    frame(axes, xlabel="epoch", ylabel="validation accuracy, %")
    axes.set_title("ours, points")
    return figure


FIGURE5 = Item(
    "figure5",
    "accuracy against multiply-adds",
    cost="seconds",
    offline="the paper's numbers, and those of our runs",
    make=make_figure5,
)
FIGURE6 = Item(
    "figure6",
    "accuracy by epoch: easier training or more capacity?",
    cost="seconds",
    offline="the paper's numbers, and those of `scripts.compare points`",
    make=make_figure6,
)
