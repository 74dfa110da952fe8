"""Figures of comparisons: results against cost, with the range over the seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, RED, GRAY = "#4477aa", "#ee6677", "#bbbbbb"  # dense models, MGIC, controls


def color_of(row: Mapping[str, Any]) -> str:
    """Return the color of a row, which its note tells.

    Example:
        >>> color_of({"note": "control: no neighbors"}) == GRAY
        True
    """
    kinds = {"control": GRAY, "MGIC": RED}
    return next((c for kind, c in kinds.items() if row["note"].startswith(kind)), BLUE)


def plot_ranges(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    key: str,
    across: str = "weights",
    **options: Any,
) -> None:
    """Plot means and ranges of the rows that have any over a column such as their weights."""
    rows = [row for row in rows if row.get(f"{key}_mean") is not None]
    mean = [row[f"{key}_mean"] for row in rows]
    ends = [
        [m - row[f"{key}_min"] for m, row in zip(mean, rows, strict=True)],
        [row[f"{key}_max"] - m for m, row in zip(mean, rows, strict=True)],
    ]
    if rows:
        axes.errorbar([row[across] for row in rows], mean, ends, **{"capsize": 3} | options)


def frame(axes: Axes, **settings: Any) -> None:
    """Set scales and labels, and draw a grid and the legend of what has a label."""
    axes.set(**settings)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def plot_against_weights(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    key: str,
    label: str,
    color: Callable[[Mapping[str, Any]], str] = color_of,
    left: Callable[[Mapping[str, Any]], bool] | None = None,
    **margins: float,
) -> None:
    """Plot all rows against their weights, each with its name."""
    weights = [row["weights"] for row in rows]
    middle = math.sqrt(min(weights) * max(weights))  # names stay inside the axes
    for row in rows:
        if row.get(f"{key}_mean") is None:
            continue
        plot_ranges(axes, [row], key, fmt="o", color=color(row))
        is_left = row["weights"] > middle if left is None else left(row)
        offset, align = ((-5, 5), "right") if is_left else ((5, 5), "left")
        place = (row["weights"], row[f"{key}_mean"])
        axes.annotate(row["model"], place, offset, textcoords="offset points", fontsize=8, ha=align)
    frame(axes, xscale="log", xlabel="weights", ylabel=label)
    axes.margins(**margins)


def dot_rows(rows: Sequence[Mapping[str, Any]], parts: Mapping[str, str], label: str) -> Figure:
    """Draw mean and range of every row that has any, one below the other; that of the first behind.

    Args:
        rows: Of the table.
        parts: By title of a panel, the key of the result.
        label: Of the results.
    """
    rows = [row for row in rows if all(row[f"{key}_mean"] is not None for key in parts.values())]
    size = (2.5 + 3 * len(parts), 0.35 * len(rows) + 1.2)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(parts), squeeze=False, sharey=True)[0]
    for axes, (title, key) in zip(grid, parts.items(), strict=True):
        for place, row in enumerate(rows):
            mean, low, high = (row[f"{key}_{end}"] for end in ("mean", "min", "max"))
            ends = [[mean - low], [high - mean]]
            axes.errorbar(mean, place, xerr=ends, fmt="o", capsize=3, color=color_of(row))
            if place == 0:
                axes.axvspan(low, high, color=color_of(row), alpha=0.15, linewidth=0)
        axes.set(xlabel=label, title=title)
        axes.grid(alpha=0.3, axis="x")
    grid[0].set_yticks(range(len(rows)), [row["model"] for row in rows])
    grid[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def panels(
    rows: Sequence[Mapping[str, Any]], parts: Mapping[str, tuple[str, Callable]], label: str
) -> Figure:
    """Draw results against weights, one panel a part.

    Args:
        rows: Of the table.
        parts: By title, the key of the result, and which rows the panel has.
        label: Of the results.
    """
    figure = Figure(figsize=(4.4 * len(parts), 3.8), layout="constrained")
    grid = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, (title, (key, chosen)) in zip(grid, parts.items(), strict=True):
        plot_against_weights(axes, list(filter(chosen, rows)), key, label, x=0.25, y=0.15)
        axes.set_title(title)
    return figure


def with_pictures(
    rows: Sequence[Mapping[str, Any]],
    key: str,
    label: str,
    columns: Mapping[str, Sequence[Any]],
    show: Callable[[Axes, Any], object],
) -> Figure:
    """Draw results against weights, and beside them some samples as several networks saw them.

    Args:
        rows: Of the table.
        key: Of the result.
        label: Of its axis.
        columns: Pictures by heading; the same sample is in the same place of each.
        show: Draws one of them.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    plot_against_weights(left.add_subplot(), rows, key, label, x=0.4, y=0.15)
    grid = right.subplots(max(map(len, columns.values())), len(columns), squeeze=False)
    for (name, pictures), column in zip(columns.items(), grid.T, strict=True):
        column[0].set_title(name, fontsize=8)
        for place, picture in zip(column, pictures, strict=False):
            show(place, picture)
    for place in grid.ravel():
        place.set_axis_off()
    return figure
