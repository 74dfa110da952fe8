"""How the report shows a split whose pixels were classified."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from scripts.training.reports import figures
from scripts.training.reports.splits import SUMMARY_TYPES, Split, percent

COUNTED_IN = {0: "", 3: "thousands of ", 6: "millions of "}
IGNORED_COLOR = to_rgb("#5c6670")


@dataclass(frozen=True)
class MaskSplit(Split):
    """An evaluated split of images with masks; arguments as for :class:`Split`.

    Attributes:
        kind: Of the samples that are kept, as ``scenes`` and ``scene_rows``.
        kept: Array of the classes predicted for them.
        words: What one place and one sample are called, and what gray is in their pictures.
    """

    headings: ClassVar = ("mIoU", "pixel accuracy", "mean over classes", "loss", "images")
    by_class: ClassVar = ("Intersection over union by class", "union", "intersection", "iou")
    types: ClassVar = SUMMARY_TYPES | {"miou": (float, int)}
    kind: ClassVar = "scene"
    kept: ClassVar = "masks"
    words: ClassVar = ("pixel", "class", "image", "ignored")

    @classmethod
    def check(cls, arrays: dict[str, NDArray], samples: int, num_classes: int) -> None:
        """Raise ``ValueError`` or ``KeyError`` where the arrays are not what they should be."""
        shown, rows = arrays[f"{cls.kind}s"].shape[:-1], f"{cls.kind}_rows"
        shapes = {"confusion": (num_classes, num_classes), "accuracies": (samples,)}
        shapes |= {"colors": (num_classes, 3)} if cls.kind == "scene" else {}
        shapes |= {cls.kept: shown, "truths": shown, rows: shown[:1]}
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} have shape {arrays[name].shape}, not {shape}")
        if not np.isin(arrays[rows], range(samples)).all():
            raise ValueError(f"{rows} must lie from 0 to {samples - 1}")

    def confusion(self) -> NDArray[np.int64]:
        """Return how many pixels of each class (row) were taken for each (column)."""
        return self.predictions["confusion"].astype(np.int64)

    def row(self) -> list[str]:
        """Return the cells of the table of splits, below the headings."""
        shares = (self.summary[key] for key in ("miou", "accuracy", "class_accuracy"))
        loss, images = self.summary["loss"], self.summary["num_samples"]
        return [*map(percent, shares), f"{loss:.3f}", f"{images:,}"]

    def class_rows(self) -> list[tuple[str, int, int, float]]:
        """List class, union, intersection and their ratio (nan without any) for each class."""
        counts = self.confusion()
        met = counts.diagonal()
        union = counts.sum(axis=0) + counts.sum(axis=1) - met
        return [
            (name, all_, both, both / all_ if all_ else np.nan)
            for name, all_, both in zip(self.classes, union.tolist(), met.tolist(), strict=True)
        ]

    def draw(self) -> dict[str, tuple[bytes, str]]:
        """Draw the figures of the split: file name to PNG and caption."""
        arrays, counts = self.predictions, self.confusion()
        place, label, sample, gray = self.words
        digits = len(str(counts.max(initial=0)))
        power = min(6, 3 * max(0, math.ceil((digits - 4) / 3)))  # at most four digits in a cell
        counted = f"{COUNTED_IN[power]}{place}s"
        title = f"{self.name}: {percent(self.summary['accuracy'])} right, {counted}"
        png = figures.draw_confusion(counts // 10**power, self.classes, title)
        caption = f"Confusion matrix: how many {place}s of each true {label} were taken for which "
        pictures = {f"confusion{self.suffix}.png": (png, f"{caption}{label}.")}
        rows = arrays[f"{self.kind}_rows"]
        captions = [
            f"{figures.label(str(arrays['names'][row]).split('/')[-1], 40)}: "
            f"{share(arrays['accuracies'][row])}"
            for row in rows
        ]
        if len(rows):
            caption = (
                f"{len(rows)} of {self.summary['num_samples']:,} {sample}s, evenly spaced over the "
                f"split, with the share of right {place}s. Gray: {gray}."
            )
            pictures[f"{self.kind}s{self.suffix}.png"] = (self.draw_samples(captions), caption)
        return pictures

    def draw_samples(self, captions: list[str]) -> bytes:
        """Draw the samples that are kept."""
        arrays = self.predictions
        images, colors = arrays["scenes"], arrays["colors"]
        truths, masks = (paint(arrays[key], colors) for key in ("truths", "masks"))
        columns = {"image": images, "truth": truths, "prediction": masks}
        legend = mask_legend(self.classes, colors)
        height = 10 / 6 * images.shape[1] / images.shape[2] + 0.3
        return draw_samples(columns, captions, draw_picture, legend, in_row=2, height=height)


@figures.as_png
def draw_samples(
    columns: Mapping[str, Sequence[Any]],
    captions: Sequence[str],
    show: Callable[[Axes, Any], None],
    legend: Sequence[Artist],
    *,
    in_row: int,
    height: float,
) -> Figure:
    """Draw samples, each as some pictures side by side below its caption.

    Args:
        columns: Pictures by heading; the same sample is in the same place of each.
        captions: Text above each sample.
        show: Draws a picture.
        legend: Colors and their names.
        in_row: Samples side by side.
        height: Of a row, in inches.
    """
    num_rows = math.ceil(len(captions) / in_row)
    figure = Figure(figsize=(10, num_rows * height + 0.9))
    groups = figure.subfigures(num_rows, in_row, squeeze=False, wspace=0.02).ravel()
    for number, (group, caption) in enumerate(zip(groups, captions, strict=False)):
        group.suptitle(caption, fontsize=9, x=0.02, ha="left")
        places = group.subplots(1, len(columns))
        for axes, (name, pictures) in zip(places, columns.items(), strict=True):
            show(axes, pictures[number])
            if number < in_row:
                axes.set_title(name, fontsize=8)
    figure.legend(handles=legend, loc="outside lower center", ncols=8)
    return figure


def draw_picture(axes: Axes, picture: NDArray) -> None:
    """Draw an image without ticks."""
    axes.imshow(picture, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def paint(mask: NDArray, colors: NDArray) -> NDArray[np.uint8]:
    """Color the classes of a mask ``(H, W)``; what is no class becomes gray.

    Example:
        >>> paint(np.array([[1, 255]]), np.array([[0, 0, 0], [9, 8, 7]], np.uint8)).tolist()
        [[[9, 8, 7], [92, 102, 112]]]
    """
    table = np.empty((256, 3), np.uint8)
    table[:] = np.round(255 * np.array(IGNORED_COLOR))
    table[: len(colors)] = colors
    return table[mask]


def mask_legend(classes: Sequence[str], colors: NDArray) -> list[Patch]:
    """Return a patch for each class, in its color of bytes."""
    return [
        Patch(facecolor=tuple(color / 255), edgecolor=figures.GRAY, label=figures.label(name))
        for name, color in zip(classes, colors, strict=True)
    ]


def share(accuracy: float) -> str:
    """Write a share as a percentage, nan where nothing counts."""
    return "no labels" if np.isnan(accuracy) else percent(accuracy)
