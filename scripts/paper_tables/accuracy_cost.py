"""Figures 5 and 6: accuracy against cost, and by epoch, from the paper's numbers and our runs."""

import argparse
import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scripts.paper_tables.item import Item, Page
from scripts.paper_tables.pages import as_png, read_rows
from scripts.paper_tables.published import number, published

GRAY, RED = "#8d96a0", "#d55e00"
# files of results here: what their accuracy is of, and in which column
OURS = {
    "points.csv": ("shapes10 test-hard, accuracy %", "test-hard_mean"),
    "images.csv": ("mnist5k, accuracy %", "test_mean"),
    "segmentation.csv": ("scenes of digits, mIoU %", "miou_mean"),
}
RUNS = ("images/*", "points/*", "segmentation/*")


def make_figure5(arguments: argparse.Namespace) -> Page:
    """Tabulate and draw accuracy against multiply-adds, one picture a data set."""
    paper = [
        {
            "where": "paper, ImageNet top-1 %",
            "model": row["model"],
            "paper multiply-adds": number("table7", row, "multiply_adds"),
            "paper accuracy": number("table7", row, "top1"),
            "ours multiply-adds": None,
            "ours accuracy": None,
        }
        for row in published("table7")["rows"]
    ]
    ours = [
        {
            "where": f"ours, {label}",
            "model": row["model"] + (f", {row['num_train']} images" if "num_train" in row else ""),
            "paper multiply-adds": None,
            "paper accuracy": None,
            "ours multiply-adds": float(row["multiply_adds"]),
            "ours accuracy": float(row[column]),
        }
        for file, (label, column) in OURS.items()
        for row in read_rows(arguments.docs / file)
    ]
    note = "The first panel has the paper's numbers of Table 7; the others are of networks trained "
    note += "here on other data, and are not to be compared with it."
    return Page([*paper, *ours], (note,), {"": draw_costs([*paper, *ours])})


def draw_costs(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw one panel a data set; MGIC in vermilion."""
    places = list(dict.fromkeys(row["where"] for row in rows))
    figure = Figure(figsize=(5.2 * len(places), 4.2), layout="constrained")
    for axes, place in zip(figure.subplots(1, len(places), squeeze=False)[0], places, strict=True):
        for row in (row for row in rows if row["where"] == place):
            side = "paper" if place.startswith("paper") else "ours"
            at = row[f"{side} multiply-adds"], row[f"{side} accuracy"]
            mgic = "mgic" in row["model"].lower()
            axes.plot(*at, "o", color=RED if mgic else GRAY, markersize=6 if mgic else 4)
            axes.annotate(
                row["model"], at, (4, 4), textcoords="offset points", fontsize=6, alpha=0.8
            )
        axes.set(xscale="log", xlabel="multiply-adds", ylabel=place.partition(", ")[2])
        axes.set_title(place.partition(",")[0], loc="left", fontsize=10)
        axes.margins(x=0.15)
        axes.grid(alpha=0.3)
    return as_png(figure)


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add where the runs are."""
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")


def make_figure6(arguments: argparse.Namespace) -> Page:
    """Tabulate the best accuracy within a share of the epochs, and draw it by epoch."""
    rows: list[dict[str, Any]] = [
        {
            "run": f"paper: {row['model']}",
            "epochs": row["epochs"],
            "paper best accuracy": number("figure6", row, "top1"),
            "ours best accuracy": None,
        }
        for row in published("figure6")["rows"]
    ]
    curves = read_curves(arguments.runs)
    for name, values in curves.items():
        for share in (2 / 3, 1.0):
            epochs = max(1, round(share * len(values)))
            best = max(values[:epochs])
            line = {"run": f"ours: {name}", "epochs": epochs, "paper best accuracy": None}
            rows.append(line | {"ours best accuracy": best})
    notes = [
        "The paper asks whether MGIC is easier to train or has more capacity: if it were easier, "
        "more epochs would close the gap. Its answer is the four rows that begin with `paper`; "
        "the rest are runs here, validation accuracy in percent on their own data.",
    ]
    if not curves:
        notes.append(f"No runs with validation accuracy are in `{arguments.runs.name}` yet.")
    return Page(rows, notes, {"": draw_curves(curves)} if curves else {})


def read_curves(folder: Path) -> dict[str, list[float]]:
    """Read validation accuracy in percent by epoch, of every run that has it.

    Example:
        >>> read_curves(Path("no such folder"))
        {}
    """
    curves = {}
    for pattern in RUNS:
        for path in sorted(folder.glob(f"{pattern}/metrics.csv")):
            with path.open(encoding="utf-8", newline="") as file:
                values = [row.get("val_accuracy") or "" for row in csv.DictReader(file)]
            values = [100 * float(value) for value in values if value not in ("", "nan")]
            if values:
                curves[path.parent.name] = values
    return curves


def draw_curves(curves: Mapping[str, Sequence[float]]) -> bytes:
    """Draw the mean over the seeds by epoch, and their range; MGIC thick."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    models: dict[str, list[Sequence[float]]] = {}
    for name, values in curves.items():
        models.setdefault(re.sub(r"-\d+$", "", name), []).append(values)
    for model, runs in models.items():
        together = np.array([values[: min(map(len, runs))] for values in runs])
        epochs = range(1, together.shape[1] + 1)
        width = 2.5 if "mgic" in model else 1
        (line,) = axes.plot(epochs, together.mean(0), linewidth=width, label=model)
        low, high = together.min(0), together.max(0)
        axes.fill_between(epochs, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set(xlabel="epoch", ylabel="validation accuracy, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return as_png(figure)


FIGURE5 = Item(
    "figure5",
    "accuracy against multiply-adds",
    needs="points.csv, images.csv, segmentation.csv of the results, as far as they are there",
    cost="seconds",
    offline="the paper's numbers, and those of our runs",
    make=make_figure5,
)
FIGURE6 = Item(
    "figure6",
    "accuracy by epoch: easier training or more capacity?",
    needs="metrics.csv of finished runs, as far as they are there",
    cost="seconds",
    offline="the paper's numbers, and those of our runs",
    make=make_figure6,
    add_arguments=add_runs,
)
