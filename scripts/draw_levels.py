"""Draw the channel levels of an MGIC block, as the paper's Figure 2 does.

``python -m scripts.draw_levels docs/levels.png`` draws the figure of the README from a live block.
"""

import argparse
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from mgic_geo import GroupedLinear, Level, MGICBlock, transfer

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#997700", "#bbbbbb")
ROW = 3.2  # distance between levels, in channel widths
INK = "#333333"


def draw_levels(block: MGICBlock, path: Path) -> None:
    """Write a picture of ``block``'s levels, groups and transfers to ``path``."""
    widest = block.levels[0].outer
    depth = len(block.levels) - 1
    figure = Figure(figsize=(10.0, 4.0))
    axes = figure.add_subplot()
    axes.set(xlim=(-1.2, 2 * widest + 13.3), ylim=(-depth * ROW - 1.3, 2.2), aspect="equal")
    axes.axis("off")
    right = widest + 13.0  # where the features on their way up start
    for level in block.levels:
        y = -level.index * ROW
        left = (widest - level.outer) / 2
        _channels(axes, level, left, y, f"$x_{level.index}$")
        _channels(axes, level, right + left, y, f"$y_{level.index}$", boxed=True)
        _layer(axes, level, left, right + left, y)
        if not level.coarsest:
            _transfers(axes, level, right, widest, y)
    figure.savefig(path, dpi=160, bbox_inches="tight", pad_inches=0.1)


def _channels(
    axes: Axes, level: Level, left: float, y: float, name: str, *, boxed: bool = False
) -> None:
    """One row of channels, a color a group; boxes show what a layer mixes."""
    for channel in range(level.outer):
        color = COLORS[channel // level.group_width % len(COLORS)]
        axes.add_patch(Circle((left + channel + 0.5, y), 0.38, color=color, lw=0))
    if boxed:
        for group in range(level.groups):
            corner = (left + group * level.group_width + 0.06, y - 0.52)
            box = FancyBboxPatch(
                corner,
                level.group_width - 0.12,
                1.04,
                boxstyle="round,pad=0,rounding_size=0.3",
                fill=False,
                ec=INK,
                lw=1.1,
            )
            axes.add_patch(box)
    axes.text(left - 0.3, y, name, ha="right", va="center", color=INK, fontsize=11)


def _layer(axes: Axes, level: Level, left: float, right: float, y: float) -> None:
    """The level's layer, from the features on the way down to those on the way up."""
    start, end = (left + level.outer + 0.2, y), (right - 1.9, y)
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=INK))
    kind = "dense" if level.groups == 1 else f"{level.groups} groups"
    label = f"$B_{level.index}$: {level.outer} channels, {kind}"
    middle = (start[0] + end[0]) / 2
    axes.text(middle, y + 0.28, label, ha="center", va="bottom", color=INK, fontsize=9)


def _transfers(axes: Axes, level: Level, right: float, widest: int, y: float) -> None:
    """Restriction down on the left, prolongation up on the right."""
    for x, (start, end), name in (
        (widest / 2, (y - 0.55, y - ROW + 0.55), f"$R_{level.index}$"),
        (right + widest / 2, (y - ROW + 0.65, y - 0.65), f"$P_{level.index}$"),
    ):
        arrow = FancyArrowPatch(
            (x, start), (x, end), arrowstyle="-|>", mutation_scale=12, color=INK, ls="--"
        )
        axes.add_patch(arrow)
        axes.text(x + 0.35, (start + end) / 2, name, va="center", color=INK, fontsize=11)


def main() -> None:
    """Draw the block of the README."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", type=Path, help="picture to write")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=4)
    parser.add_argument("--coarse-size", type=int, default=4)
    arguments = parser.parse_args()
    block = MGICBlock(
        arguments.channels,
        lambda level: GroupedLinear(level.outer, level.outer, groups=level.groups),
        transfer,
        group_size=arguments.group_size,
        coarse_size=arguments.coarse_size,
    )
    draw_levels(block, arguments.path)


if __name__ == "__main__":
    main()
