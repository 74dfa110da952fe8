"""The figures of a training run, each from plain arrays to the bytes of a PNG.

Drawn with Matplotlib's object-oriented interface on the Agg canvas: no window, no ``pyplot``, and
the caller's ``rcParams`` are untouched afterwards. One palette serves all figures: blue for what
matters, gray for context, and from Okabe and Ito's color-blind safe set green and vermilion for
right and wrong.
"""

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

P = ParamSpec("P")

BLUE, GRAY, GREEN, VERMILION, INK = "#0072b2", "#8d96a0", "#009e73", "#d55e00", "#24292f"
STYLE = Path(__file__).with_name("mgic.mplstyle")
ACCURACY_LIKE = re.compile(r"(train|val)_(\w*accuracy|\w*iou|top\d+)")
DEPTH = LinearSegmentedColormap.from_list("depth", ["#c9dcea", "#5b9cc6", "#0b4a75"])
GALLERY_COLUMNS = 6
STYLES = (("-", BLUE), ("--", GREEN), (":", VERMILION), ("-.", INK))


def as_png(draw: Callable[P, Figure]) -> Callable[P, bytes]:
    """Turn a function that draws a figure into one that returns it as PNG, in the style above."""

    @functools.wraps(draw)
    def render(*args: P.args, **kwargs: P.kwargs) -> bytes:
        # a class name with dollar signs is a name, not a formula
        with style.context(["default", STYLE, {"text.parse_math": False}]):
            # saved inside: tick labels are made only then
            return png_of(draw(*args, **kwargs))

    return render


def png_of(figure: Figure) -> bytes:
    """Save a figure, the same bytes every time."""
    buffer = io.BytesIO()
    # drawing lays out once more: only then is it known which tick labels the first widths leave
    if layout := figure.get_layout_engine():
        layout.execute(figure)
    figure.dpi = 150
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})  # savefig draws twice
    return buffer.getvalue()


def label(name: str, width: int = 24) -> str:
    """Shorten a class name to ``width`` characters that the font can draw, on one line."""
    known = get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap()
    text = "".join(c if ord(c) in known else "\ufffd" for c in " ".join(name.split()))
    return text if len(text) <= width else text[: width - 1] + "…"


@as_png
def draw_curves(metrics: Mapping[str, NDArray], best: int | None, reason: str = "") -> Figure:
    """Draw loss and accuracy by epoch, training beside validation.

    Args:
        metrics: Columns by name, ``epoch`` among them; nan where an epoch has no value.
        best: Row of the best epoch, marked by a line, or None.
        reason: What that epoch is best in, for the legend.
    """
    figure = Figure(figsize=(10, 4.9))
    loss, accuracy = figure.subplots(1, 2)
    _plot_columns(loss, metrics, [c for c in ("train_loss", "val_loss") if c in metrics], best)
    _plot_columns(accuracy, metrics, [c for c in metrics if ACCURACY_LIKE.fullmatch(c)], best)
    loss.set_title("Loss")
    accuracy.set_title("Accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid()
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if best is not None:
            text = f"epoch {metrics['epoch'][best]:.0f}: {reason}"
            axes.axvline(metrics["epoch"][best], color=INK, linestyle=":", linewidth=1, label=text)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14))
    return figure


def _plot_columns(axes: Axes, metrics: Mapping[str, NDArray], names: list[str], best: int | None):
    styles = {}  # one per quantity, its line the same for train and val
    for name in names:
        part, quantity = name.split("_", 1)
        dash, color = styles.setdefault(quantity, STYLES[len(styles) % len(STYLES)])
        if not np.isfinite(metrics[name]).any():
            continue
        color = color if part == "val" else GRAY
        marker = "o" if np.isfinite(metrics[name]).sum() <= 12 else None
        axes.plot(
            metrics["epoch"],
            metrics[name],
            color=color,
            linestyle=dash,
            marker=marker,
            markersize=3.5,
            linewidth=1.6,
            label=f"{'validation' if part == 'val' else 'training'} {_spell(quantity)}",
        )
        if best is not None and part == "val":
            point = (metrics["epoch"][best], metrics[name][best])
            axes.plot(*point, "o", color=color, markersize=6, markeredgecolor="white")


def _spell(quantity: str) -> str:
    top = re.fullmatch(r"top(\d+)", quantity)
    text = f"top-{top[1]} accuracy" if top else quantity.replace("_", " ")
    return text.replace("miou", "mIoU")


@as_png
def draw_confusion(counts: NDArray, classes: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix: color is the share of the row, the number how many.

    Args:
        counts: How many samples of each class (row) were taken for each class (column).
        classes: Class names, in the order of rows and columns.
        title: Text above the matrix.
    """
    n = len(classes)
    side = min(max(0.46 * n, 2.5), 10)
    figure = Figure(figsize=(side + 2.7, side + 1.4))
    axes = figure.add_subplot()
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=title, xlabel="predicted", ylabel="true (count)")
    size = min(9.0, 72 * side / n / 1.5)
    if n <= 60:
        rows = [f"{label(c)} ({t:,})" for c, t in zip(classes, totals[:, 0], strict=True)]
        axes.set_yticks(range(n), rows, fontsize=size)
        columns = [label(c) for c in classes]
        axes.set_xticks(
            range(n), columns, fontsize=size, rotation=45, ha="right", rotation_mode="anchor"
        )
        axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    digits = len(f"{counts.max(initial=0)}")
    for row, column in np.argwhere(counts) if n <= 40 else ():
        color = "white" if shares[row, column] > 0.5 else INK
        small = min(size, 72 * side / n / (0.75 * digits))
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=small)
    bar = figure.colorbar(
        image, ax=axes, shrink=0.6, aspect=24, format=PercentFormatter(1, symbol=" %")
    )
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


@as_png
def draw_gallery(
    items: Sequence[NDArray],
    captions: Sequence[tuple[str, str, float]],
    right: Sequence[bool],
    title: str,
) -> Figure:
    """Draw a grid of test samples, each with what it is and what it was taken for.

    Args:
        items: Clouds ``(P, 3)`` with the third axis up, or images ``(H, W, C)`` of bytes.
        captions: True class, predicted class and its probability, per item.
        right: Whether the prediction is right: framed in green, otherwise in vermilion.
        title: Text above the grid.
    """
    rows = max(-(-len(items) // GALLERY_COLUMNS), 1)
    figure = Figure(figsize=(10, 2.02 * rows + 0.4))
    figure.suptitle(title, x=0.008, ha="left", fontsize=10)
    grid = figure.subplots(rows, GALLERY_COLUMNS, squeeze=False).ravel()
    for axes in grid[len(items) :]:
        axes.set_axis_off()
    for axes, item, (true, predicted, probability), is_right in zip(
        grid, items, captions, right, strict=False
    ):
        color, mark = (GREEN, "✓") if is_right else (VERMILION, "✗")
        text = f"{mark} {label(true, 14)} →\n{label(predicted, 14)} ({probability:.2f})"
        axes.set_title(text, fontsize=9, color=color)
        axes.spines[:].set(color=color, linewidth=2)
        axes.set(xticks=[], yticks=[], facecolor="white")
        if item.ndim == 2:
            draw_cloud(axes, item)
        else:
            axes.imshow(np.broadcast_to(item, (*item.shape[:2], 3)), interpolation="nearest")
    return figure


def draw_cloud(axes: Axes, points: NDArray, colors: NDArray | None = None) -> None:
    """Draw a cloud as seen from above one corner, with its shadow below.

    Args:
        axes: Where to.
        points: ``(P, 3)``, the third axis up.
        colors: ``(P, 3)``, from 0 to 1; near points are dark where there are none.
    """
    axes.set(xlim=(-1.16, 1.16), ylim=(-1.21, 1.11), aspect="equal")
    finite = np.isfinite(points).all(axis=1)
    points = points[finite]
    if not len(points):
        return
    points = centered(points)
    shadow = points.copy()
    shadow[:, 2] = np.percentile(points[:, 2], 1)
    flat, _ = _project(shadow)
    axes.scatter(*flat.T, s=5, color="#eceff2", linewidths=0)
    picture, depth = _project(points)
    order = np.argsort(depth)  # far to near, so that near points cover far ones
    size = np.clip(3000 / len(points), 1, 9)
    shades = {"c": depth[order], "cmap": DEPTH, "vmin": -0.8, "vmax": 0.8}
    if colors is not None:
        shades = {"c": colors[finite][order]}
    axes.scatter(*picture[order].T, s=size, linewidths=0, **shades)


def centered(points: NDArray) -> NDArray[np.float64]:
    """Move and scale ``(P, 3)`` so that all but the outermost 4 % of the points lie within 1.

    A few outliers must not shrink the rest to a dot.
    """
    low, high = np.percentile(points.astype(np.float64), [2, 98], axis=0)
    points = points - (low + high) / 2
    return points / (np.percentile(np.linalg.norm(points, axis=1), 96) or 1.0)


def _project(points: NDArray) -> tuple[NDArray, NDArray]:
    """Project ``(P, 3)`` to picture coordinates ``(P, 2)`` and nearness ``(P,)``."""
    azimuth, elevation = np.radians([-58, 24])
    (sin_a, cos_a), (sin_e, cos_e) = (
        (np.sin(angle), np.cos(angle)) for angle in (azimuth, elevation)
    )
    across = points @ [-sin_a, cos_a, 0]
    up = points @ [-sin_e * cos_a, -sin_e * sin_a, cos_e]
    nearness = points @ [cos_e * cos_a, cos_e * sin_a, sin_e]
    perspective = 6 / np.maximum(6 - nearness, 1)
    return np.stack([across, up], axis=1) * perspective[:, None], nearness
