"""Figures of the scripts that compare models with several seeds: results against cost."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.training.reliability.files import write_whole

BLUE, RED, GRAY = "#4477aa", "#ee6677", "#bbbbbb"  # dense models, MGIC, controls


def color_of(row: dict[str, Any]) -> str:
    """Return the color of a row, which its note tells.

    Example:
        >>> color_of({"note": "control: no neighbors"}) == GRAY
        True
    """
    kinds = {"control": GRAY, "MGIC": RED}
    return next((c for kind, c in kinds.items() if row["note"].startswith(kind)), BLUE)


def plot_range(
    axes: Axes, row: dict[str, Any], key: str, *, across: str, color: str, left: bool = False
) -> None:
    """Plot mean and range of one row over a column such as its weights, its name on one side."""
    mean = row[f"{key}_mean"]
    ends = [[mean - row[f"{key}_min"]], [row[f"{key}_max"] - mean]]
    axes.errorbar(row[across], mean, ends, fmt="o", color=color, capsize=3)
    place = (row[across], mean)
    offset, align = ((-5, 5), "right") if left else ((5, 5), "left")
    axes.annotate(row["model"], place, offset, textcoords="offset points", fontsize=8, ha=align)


def plot_against_weights(
    axes: Axes, rows: Sequence[dict[str, Any]], key: str, label: str, **margins: float
) -> None:
    """Plot all rows against their weights."""
    weights = [row["weights"] for row in rows]
    middle = math.sqrt(min(weights) * max(weights))  # names stay inside the axes
    for row in rows:
        left = row["weights"] > middle
        plot_range(axes, row, key, across="weights", color=color_of(row), left=left)
    axes.set(xscale="log", xlabel="weights", ylabel=label)
    axes.margins(**margins)
    axes.grid(alpha=0.3)


def draw_with_pictures(
    path: Path,
    rows: Sequence[dict[str, Any]],
    key: str,
    label: str,
    columns: Mapping[str, Sequence[Any]],
    show: Callable[[Axes, Any], object],
) -> None:
    """Draw results against weights, and beside them some samples as several networks saw them.

    Args:
        path: Of the PNG.
        rows: Of the table.
        key: Of the result.
        label: Of its axis.
        columns: Pictures by heading; the same sample is in the same place of each.
        show: Draws one of them.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    plot_against_weights(left.add_subplot(), rows, key, label, x=0.4, y=0.15)
    height = max(map(len, columns.values()))
    grid = right.subplots(height, len(columns), squeeze=False)
    for (name, pictures), column in zip(columns.items(), grid.T, strict=True):
        column[0].set_title(name, fontsize=8)
        for place, picture in zip(column, pictures, strict=False):
            show(place, picture)
    for place in grid.ravel():
        place.set_axis_off()
    write_figure(path, figure)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_whole(path, content.getvalue())
