"""Figures of channel levels, as the paper's Figure 2, drawn from live modules."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from torch import nn

from mgic_geo.levels import Level, MGICBlock

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#997700", "#bbbbbb")
INK = "#333333"
ROW = 3.2  # distance between levels, in slots
SLOTS = 32  # most circles or bars in a row; a wider level shows several channels as one
WIDTH = 10.0  # of a figure, in inches
TITLE = 0.35


def draw(module: nn.Module) -> Figure:
    """Draw the levels of a block, or of every kind of block in a network.

    On the left the features on their way down, on the right those on their way up; a color is a
    group, a box what a level's layer mixes. Every circle is a channel; where the finest level has
    more than 32, a circle stands for several.

    Args:
        module: An :class:`MGICBlock`, or a module with some inside: blocks of the same plan are
            drawn once, with their number.

    Returns:
        A figure, without pyplot: ``draw(block).savefig("levels.png")``.

    Raises:
        ValueError: If there is no MGIC block inside.
        ImportError: If matplotlib is missing.

    References:
        Figure 2.

    Example:
        >>> from mgic_geo import create_model
        >>> figure = draw(create_model("mgic_diffgcn", group_size=8))
        >>> [axes.get_title() for axes in figure.axes]
        ['6 blocks, 64 channels']
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install matplotlib") from error
    plans = Counter(block.levels for block in module.modules() if isinstance(block, MGICBlock))
    if not plans:
        raise ValueError(f"there is no MGICBlock in {type(module).__name__}: nothing to draw")
    heights = [_height(plan) for plan in plans]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    grid = figure.subplots(len(plans), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (plan, count) in zip(grid, plans.items(), strict=True):
        if len(plans) > 1 or count > 1:
            outer, inner = plan[0].outer, plan[0].inner
            inside = "" if inner == outer else f", {inner} inside"
            axes.set_title(f"{count} block{'s' * (count > 1)}, {outer} channels{inside}", size=10)
        _draw_plan(axes, plan)
    return figure


def _slots(plan: tuple[Level, ...]) -> tuple[int, float, float]:
    """Channels of a circle, circles of the finest level, and slots between its two rows."""
    per_slot = -(-plan[0].outer // SLOTS)
    widest = plan[0].outer / per_slot
    return per_slot, widest, 13.0 * max(1.0, widest / 20)  # a label is longer than many circles


def _height(plan: tuple[Level, ...]) -> float:
    """Inches that a block needs at the width of the figure."""
    _, widest, middle = _slots(plan)
    return WIDTH * (len(plan) * ROW) / (2 * widest + middle + 1.5) + TITLE


def _draw_plan(axes: Axes, plan: tuple[Level, ...]) -> None:
    """One block: a row a level."""
    per_slot, widest, middle = _slots(plan)
    depth = len(plan) - 1
    limits = {"xlim": (-1.2, 2 * widest + middle + 0.3), "ylim": (-depth * ROW - 1.3, 1.6)}
    axes.set(**limits, aspect="equal")
    axes.axis("off")
    right = widest + middle  # where the features on their way up start
    for level in plan:
        y, width = -level.index * ROW, level.outer / per_slot
        left = (widest - width) / 2
        _channels(axes, level, left, y, width, f"$x_{level.index}$", boxed=False)
        _channels(axes, level, right + left, y, width, f"$y_{level.index}$", boxed=True)
        _layer(axes, level, left + width, right + left, y)
        if not level.coarsest:
            _transfers(axes, level, widest / 2, right + widest / 2, y)


def _channels(
    axes: Axes, level: Level, left: float, y: float, width: float, name: str, *, boxed: bool
) -> None:
    """One row of channels, a color a group; boxes show what a layer mixes."""
    from matplotlib.patches import Ellipse, FancyBboxPatch

    slots = max(round(width), 1)
    for slot in range(slots):
        group = slot * level.groups // slots
        place = (left + (slot + 0.5) * width / slots, y)
        size = 0.76 * min(width / slots, 1)
        axes.add_patch(Ellipse(place, size, size, color=COLORS[group % len(COLORS)], lw=0))
    if boxed:
        each = width / level.groups
        gap = min(0.06, each / 8)
        for group in range(level.groups):
            box = FancyBboxPatch(
                (left + group * each + gap, y - 0.52),
                each - 2 * gap,
                1.04,
                boxstyle=f"round,pad=0,rounding_size={min(0.3, each / 4)}",
                fill=False,
                ec=INK,
                lw=1.1 if each > 0.5 else 0.5,
            )
            axes.add_patch(box)
    axes.text(left - 0.3, y, name, ha="right", va="center", color=INK, fontsize=11)


def _layer(axes: Axes, level: Level, left: float, right: float, y: float) -> None:
    """The level's layer, from the features on the way down to those on the way up."""
    from matplotlib.patches import FancyArrowPatch

    start, end = (left + 0.2, y), (right - 1.9, y)
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=INK))
    kind = "dense" if level.groups == 1 else f"{level.groups} groups"
    label = f"$B_{level.index}$: {level.outer} channels, {kind}"
    middle = (start[0] + end[0]) / 2
    axes.text(middle, y + 0.28, label, ha="center", va="bottom", color=INK, fontsize=9)


def _transfers(axes: Axes, level: Level, down: float, up: float, y: float) -> None:
    """Restriction down on the left, prolongation up on the right."""
    from matplotlib.patches import FancyArrowPatch

    for x, (start, end), name in (
        (down, (y - 0.55, y - ROW + 0.55), f"$R_{level.index}$"),
        (up, (y - ROW + 0.65, y - 0.65), f"$P_{level.index}$"),
    ):
        arrow = FancyArrowPatch(
            (x, start), (x, end), arrowstyle="-|>", mutation_scale=12, color=INK, ls="--"
        )
        axes.add_patch(arrow)
        axes.text(x + 0.35, (start + end) / 2, name, va="center", color=INK, fontsize=11)
