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
from scripts.training.reports.masks import IGNORED_COLOR, MaskSplit, share
from scripts.training.reports.splits import percent

PAIRS_IN_ROW = 3
COLUMNS = ("truth", "prediction")


@dataclass(frozen=True)
class PartSplit(MaskSplit):
    """An evaluated split of clouds with a part for every point; arguments as for ``Split``."""

    headings: ClassVar = ("mIoU", "point accuracy", "mean over parts", "loss", "clouds")
    by_class: ClassVar = ("Intersection over union by part", "union", "intersection", "iou")

    @classmethod
    def check(cls, arrays: dict[str, NDArray], samples: int, num_classes: int) -> None:
        """Raise ``ValueError`` or ``KeyError`` where the arrays are not what they should be."""
        shown = arrays["clouds"].shape[:2]
        shapes = {
            "confusion": (num_classes, num_classes),
            "accuracies": (samples,),
            "parts": shown,
            "truths": shown,
            "cloud_rows": shown[:1],
        }
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} have shape {arrays[name].shape}, not {shape}")
        if not np.isin(arrays["cloud_rows"], range(samples)).all():
            raise ValueError(f"cloud_rows must lie from 0 to {samples - 1}")

    def draw(self) -> dict[str, tuple[bytes, str]]:
        """Draw the figures of the split: file name to PNG and caption."""
        arrays, counts = self.predictions, self.confusion()
        title = f"{self.name}: {percent(self.summary['accuracy'])} right, points"
        png = figures.draw_confusion(counts, self.classes, title)
        caption = "Confusion matrix: how many points of each true part were taken for which part."
        pictures = {f"confusion{self.suffix}.png": (png, caption)}
        if len(rows := arrays["cloud_rows"]):
            captions = [
                f"{figures.label(str(arrays['names'][row]).split('/')[-1], 30)}: "
                f"{share(arrays['accuracies'][row])}"
                for row in rows
            ]
            parts = arrays["truths"], arrays["parts"]
            png = draw_parts(arrays["clouds"], *parts, self.classes, captions)
            caption = (
                f"{len(rows)} of {self.summary['num_samples']:,} clouds, evenly spaced over the "
                "split, with the share of right points. Gray: specks, which do not count."
            )
            pictures[f"clouds{self.suffix}.png"] = (png, caption)
        return pictures


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
