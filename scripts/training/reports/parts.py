"""How the report shows a split whose points were classified."""

import math
from dataclasses import dataclass
from typing import ClassVar

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from scripts.training.reports import figures
from scripts.training.reports.masks import IGNORED_COLOR, MaskSplit

PAIRS_IN_ROW = 3
COLUMNS = ("truth", "prediction")


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
        arrays = [self.predictions[key] for key in ("clouds", "truths", "parts")]
        return draw_parts(*arrays, self.classes, captions)


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


@figures.as_png
def draw_parts(
    clouds: NDArray, truths: NDArray, parts: NDArray, classes: list[str], captions: list[str]
) -> Figure:
    """Draw clouds in the colors of their true and of their predicted parts.

    Args:
        clouds: ``(M, P, 3)``.
        truths: True parts ``(M, P)``.
        parts: Predicted parts ``(M, P)``.
        classes: Names of the parts.
        captions: Text above each pair.
    """
    colors = part_colors(len(classes))
    num_rows = math.ceil(len(clouds) / PAIRS_IN_ROW)
    figure = Figure(figsize=(10, 1.9 * num_rows + 0.9), layout="constrained")
    groups = figure.subfigures(num_rows, PAIRS_IN_ROW, squeeze=False).ravel()
    for number, (group, caption) in enumerate(zip(groups, captions, strict=False)):
        group.suptitle(caption, fontsize=9, x=0.02, ha="left")
        labels = truths[number], parts[number]
        for axes, part, name in zip(group.subplots(1, 2), labels, COLUMNS, strict=True):
            figures.draw_cloud(axes, clouds[number], colors[part])
            axes.set_axis_off()
            if number < PAIRS_IN_ROW:
                axes.set_title(name, fontsize=8)
    shown = np.union1d(truths, parts)
    handles = [
        Line2D([], [], color=colors[part], marker="o", ls="", label=figures.label(classes[part]))
        for part in shown[shown < len(classes)]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=9, fontsize=8)
    return figure
