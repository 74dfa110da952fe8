"""What a run folder holds of an evaluated split, and how the report shows it."""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from scripts.training.reliability.errors import TrainingError
from scripts.training.reports import figures

SUMMARY_TYPES = {
    "accuracy": (float, int),
    "class_accuracy": (float, int),
    "loss": (float, int),
    "num_samples": (int,),
    "classes": (list,),
}
OWN_OF_A_RUN = {"data", "root", "seed", "weights"}  # may differ within a column of a comparison
KEPT_SAMPLES = {"clouds": "cloud_rows", "images": "image_rows"}  # samples, and which they are


class ReportError(TrainingError, ValueError):
    """A file of the run that cannot be used: which one, why, and what is expected."""


@dataclass(frozen=True)
class Split:
    """One evaluated split: its ``S.json`` and, where they were saved, its predictions."""

    headings: ClassVar = ("accuracy", "95 % interval", "mean over classes", "loss", "samples")
    by_class: ClassVar = ("Accuracy by class", "count", "correct", "accuracy")
    types: ClassVar[dict[str, tuple[type, ...]]] = SUMMARY_TYPES

    name: str
    summary: dict[str, Any]
    predictions: dict[str, NDArray]

    @property
    def suffix(self) -> str:
        """What file names of this split end in: nothing for ``test``."""
        return "" if self.name == "test" else f"-{self.name}"

    @property
    def base(self) -> str:
        """The split that was tested; the name may say more, to tell one test from another."""
        return str(self.summary["split"])

    @property
    def data(self) -> str:
        """Name of the data set, where the result has it."""
        return str((self.summary.get("tested") or {}).get("data", "unknown data"))

    def test_id(self) -> str:
        """Return some digits that differ from those of other tests, whatever network and seed."""
        tested = dict(self.summary.get("tested") or {})
        facts = {key: value for key, value in tested.items() if key not in OWN_OF_A_RUN}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:6]

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the labels."""
        return [str(name) for name in self.summary["classes"]]

    def confusion(self) -> NDArray[np.int64]:
        """Count samples by true class (row) and predicted class (column)."""
        n = len(self.classes)
        labels = self.predictions["labels"].astype(np.int64)
        pairs = labels * n + self.predictions["probabilities"].argmax(axis=1)
        return np.bincount(pairs, minlength=n * n).reshape(n, n)

    @classmethod
    def read(cls, path: Path, summary: dict[str, Any]) -> Self:
        """Check the content of ``S.json`` and read the predictions beside it.

        Raises:
            ReportError: If a file is broken or the two do not fit, with what is expected.
        """
        for key, kind in cls.types.items():
            if not isinstance(summary.get(key), kind):
                kinds = " or ".join(t.__name__ for t in kind)
                raise ReportError(f"{path} has {summary.get(key)!r} for {key}; expected {kinds}")
        split = cls(path.stem, summary, {})
        archive = path.with_name(f"predictions{split.suffix}.npz")
        if not archive.exists():
            return split
        try:
            with np.load(archive, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            cls.check(arrays, summary["num_samples"], len(summary["classes"]))
        except KeyError as error:
            raise ReportError(f"cannot use {archive}: it has no array {error}") from error
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ReportError(
                f"cannot use {archive}: {error}; expected the arrays of the run that wrote "
                f"{summary['split']}.json"
            ) from error
        return cls(path.stem, summary, arrays)

    @classmethod
    def check(cls, arrays: dict[str, NDArray], samples: int, num_classes: int) -> None:
        """Raise ``ValueError`` or ``KeyError`` where the arrays are not what they should be."""
        for name, shape in (("probabilities", (samples, num_classes)), ("labels", (samples,))):
            if arrays[name].shape != shape:
                raise ValueError(f"{name} have shape {arrays[name].shape}, not {shape}")
        ends = {"labels": num_classes, **dict.fromkeys(KEPT_SAMPLES.values(), samples)}
        for name, end in ends.items():
            if not np.isin(arrays.get(name, []), range(end)).all():
                raise ValueError(f"{name} must lie from 0 to {end - 1}")
        for kind, rows in KEPT_SAMPLES.items():
            if kind in arrays and len(arrays[kind]) != len(arrays[rows]):
                raise ValueError(f"{kind} and {rows} differ in length")

    def row(self) -> list[str]:
        """Return the cells of the table of splits, below the headings."""
        accuracy, samples = self.summary["accuracy"], self.summary["num_samples"]
        low, high = wilson_interval(accuracy, samples) if samples else (0.0, 1.0)
        interval = f"{100 * low:.1f} to {100 * high:.1f}"
        values = [percent(accuracy), interval, percent(self.summary["class_accuracy"])]
        return [*values, f"{self.summary['loss']:.3f}", f"{samples:,}"]

    def class_rows(self) -> list[tuple[str, int, int, float]]:
        """List class, samples, right ones and their share (nan without samples) for each class."""
        confusion = self.confusion()
        counts, correct = confusion.sum(axis=1).tolist(), confusion.diagonal().tolist()
        return [
            (name, n, right, right / n if n else np.nan)
            for name, n, right in zip(self.classes, counts, correct, strict=True)
        ]

    def draw(self) -> dict[str, tuple[bytes, str]]:
        """Draw the figures of the split: file name to PNG and caption."""
        arrays, classes = self.predictions, self.classes
        confusion = self.confusion()
        title = f"{self.name}: {confusion.trace():,} of {confusion.sum():,} right"
        caption = (
            "Confusion matrix: how many samples of each true class were taken for which class."
        )
        png = figures.draw_confusion(confusion, classes, title)
        pictures = {f"confusion{self.suffix}.png": (png, caption)}
        for kind, rows in KEPT_SAMPLES.items():
            if not len(arrays.get(kind, [])):
                continue
            probabilities, labels = (
                arrays[key][arrays[rows]] for key in ("probabilities", "labels")
            )
            predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
            captions = [
                (classes[true], classes[taken], sure)
                for true, taken, sure in zip(labels, predicted, confidence, strict=True)
            ]
            counted = f"{len(labels)} of {len(arrays['labels']):,} {kind}"
            title = f"{self.name}: {counted}, wrong ones first"
            png = figures.draw_gallery(arrays[kind], captions, labels == predicted, title)
            caption = (
                "Above each: true class → predicted class (probability). Framed in green with a "
                "check mark: right, in red with a cross: wrong."
            )
            pictures[f"{kind}{self.suffix}.png"] = (png, caption)
        return pictures


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % score interval of a share seen in ``count`` samples."""
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = share * (1 - share) / count + z**2 / (4 * count**2)
    half = z * spread**0.5 / (1 + z**2 / count)
    return middle - half, middle + half


def percent(share: float) -> str:
    """Write a share as a percentage."""
    return f"{100 * share:.1f} %"
