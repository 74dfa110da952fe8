"""How the report shows a split whose points were classified."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from scripts.training.reports import figures
from scripts.training.reports.masks import IGNORED_COLOR, MaskSplit, draw_samples


@dataclass(frozen=True)
class PartSplit(MaskSplit):
    """An evaluated split of clouds with a part for every point; arguments as for ``Split``."""

    headings: ClassVar = ("mIoU", "point accuracy", "mean over parts", "loss", "clouds")
    by_class: ClassVar = ("Intersection over union by part", "union", "intersection", "iou")

    kind: ClassVar = "cloud"
    kept: ClassVar = "parts"
    words: ClassVar = ("point", "part", "cloud", "specks, which do not count")

    def draw_samples(self, captions: list[str]) -> bytes:
        """Draw the samples that are kept."""
        clouds, truths, parts = (self.predictions[key] for key in ("clouds", "truths", "parts"))
        colors = part_colors(len(self.classes))
        columns = {
            name: list(zip(clouds, colors[numbers], strict=True))
            for name, numbers in (("truth", truths), ("prediction", parts))
        }
        legend = part_legend(self.classes, np.union1d(truths, parts))
        return draw_samples(columns, captions, draw_colored, legend, in_row=3, height=1.9)


def draw_colored(axes: Axes, cloud: tuple[NDArray, NDArray]) -> None:
    """Draw points in their colors, without a frame."""
    figures.draw_cloud(axes, *cloud)
    axes.set_axis_off()


def part_legend(parts: Sequence[str], shown: NDArray[np.integer]) -> list[Line2D]:
    """Return a marker in its color for each of the numbers that is a part."""
    colors = part_colors(len(parts))
    return [
        Line2D([], [], color=colors[part], marker="o", ls="", label=figures.label(parts[part]))
        for part in shown
        if part < len(parts)
    ]


def part_colors(num_parts: int) -> NDArray:
    """Colors of parts and of everything above, ``(256, 3)`` from 0 to 1.

    Example:
        >>> part_colors(3).shape
        (256, 3)
    """
    table = np.empty((256, 3))
    table[:] = IGNORED_COLOR
    hues = np.arange(num_parts) * 0.618 % 1  # the golden ratio keeps neighbors apart
    bright = np.array([0.9, 0.55, 0.75])[np.arange(num_parts) % 3]
    hsv = np.stack([hues, np.full(num_parts, 0.8), bright], axis=1)
    table[:num_parts] = matplotlib.colors.hsv_to_rgb(hsv)
    return table
