"""Figures of comparisons: means, with the range over the seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from scripts.training.reports.figures import BLUE, GRAY, GREEN
from scripts.training.reports.figures import VERMILION as RED

# dense models are blue, MGIC red, ghost modules green, other controls gray
KINDS = {"ghost": GREEN, "control": GRAY, "MGIC": RED}


def color_of(row: Mapping[str, Any]) -> str:
    """Return the color of a row, which its note tells.

    Example:
        >>> color_of({"note": "control: no neighbors"}) == GRAY
        True
    """
    return next((color for kind, color in KINDS.items() if kind in row["note"]), BLUE)


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
        axes.errorbar([row[across] for row in rows], mean, ends, **options)


def frame(axes: Axes, **settings: Any) -> None:
    """Set scales and labels, and draw a grid and the legend of what has a label."""
    axes.set(**settings)
    axes.grid()
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


class Panel(NamedTuple):
    """Results to draw beside others.

    Args:
        title: Of the panel.
        rows: Of the table; those of all panels share their places by name.
        key: Of the result.
        label: Of its axis.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    key: str
    label: str


def name_of(row: Mapping[str, Any]) -> str:
    """Name a row, with its weights.

    Example:
        >>> name_of({"model": "dgcnn", "weights": 64586}), name_of({"model": "dgcnn"})
        ('dgcnn, 65 k', 'dgcnn')
    """
    weights = row.get("weights")
    return row["model"] + (f", {float(weights) / 1000:.0f} k" if weights else "")


def dot_rows(
    panels: Sequence[Panel],
    parent: Figure | SubFigure | None = None,
    name: Callable[[Mapping[str, Any]], str] = name_of,
    color: Callable[[Mapping[str, Any]], str] = color_of,
) -> Figure | SubFigure:
    """Draw mean and range of every row that has any, one below the other, panels side by side.

    The range of the first row is drawn through all others as a band. Without a ``parent`` to draw
    into, a figure of a fitting size is made.
    """
    known = [[r for r in each.rows if r.get(f"{each.key}_mean") is not None] for each in panels]
    names = list(dict.fromkeys(name(row) for rows in known for row in rows))
    size = (2.5 + 3 * len(panels), 0.35 * len(names) + 1.2)
    figure = Figure(figsize=size) if parent is None else parent
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, panel, rows in zip(grid, panels, known, strict=True):
        for row in rows:
            place = names.index(name(row))
            mean, low, high = (float(row[f"{panel.key}_{end}"]) for end in ("mean", "min", "max"))
            ends = [[mean - low], [high - mean]]
            axes.errorbar(mean, place, xerr=ends, fmt="o", color=color(row))
            if place == 0:
                axes.axvspan(low, high, color=color(row), alpha=0.15, linewidth=0)
        frame(axes, xlabel=panel.label, title=panel.title)
    grid[0].set_yticks(range(len(names)), names)
    grid[0].set_ylim(max(len(names), 1) - 0.5, -0.5)
    return figure


def with_pictures(
    rows: Sequence[Mapping[str, Any]],
    key: str,
    label: str,
    columns: Mapping[str, Sequence[Any]],
    show: Callable[[Axes, Any], object],
    legend: Sequence[Artist],
) -> Figure:
    """Draw results, and beside them some samples as several networks saw them.

    Columns are pictures by heading; the same sample is in the same place of each.
    """
    figure = Figure(figsize=(12, 5))
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    dot_rows([Panel("", rows, key, label)], left)
    grid = right.subplots(max(map(len, columns.values())), len(columns), squeeze=False)
    for (name, pictures), column in zip(columns.items(), grid.T, strict=True):
        column[0].set_title(name, fontsize=8)
        for place, picture in zip(column, pictures, strict=False):
            show(place, picture)
    for place in grid.ravel():
        place.set_axis_off()
    right.legend(handles=legend, loc="outside lower center", ncols=6)
    return figure
