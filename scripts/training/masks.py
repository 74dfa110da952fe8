"""A class at every place of a sample: what is counted and kept, of pixels and of points."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from datasets.cityscapes import IGNORED
from scripts.training.classifier import Classifier, Scores
from scripts.training.evaluation import Evaluation
from scripts.training.predictions import Prediction
from scripts.training.reliability.distributed import gather
from scripts.training.results import collect_predictions, show_rows, spread

NUM_PICTURES = 12


class MaskEvaluation(Evaluation):
    """Counts pixels, and how well regions are met: intersection over union.

    Both are counted over the whole split: an average over images or batches is another number.

    Args:
        num_classes: Classes to tell apart; pixels of the class ``IGNORED`` do not count.

    Example:
        >>> evaluation = MaskEvaluation(3)
        >>> truth = torch.tensor([[[0, 0, 1, 255]]])
        >>> scores = torch.eye(3)[torch.tensor([[[0, 1, 1, 2]]])].movedim(-1, 1)
        >>> evaluation.update(scores, truth)
        >>> evaluation.compute()["iou"], evaluation.compute()["miou"]
        ([0.5, 0.5, None], 0.5)
    """

    logged: ClassVar = ("loss", "miou", "accuracy")
    best: ClassVar = "miou"
    words: ClassVar = ("pixel", "image")  # what one place and one sample are called

    def __init__(self, num_classes: int):
        super().__init__(num_classes, ignored=IGNORED)
        self.num_images = 0

    def reset(self) -> None:
        """Start again from nothing."""
        super().reset()
        self.num_images = 0

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch, ``(B, num_classes, H, W)`` and ``(B, H, W)``."""
        super().update(logits, targets)
        self.num_images += len(targets)

    def compute(self) -> dict[str, Any]:
        """Add to loss and accuracies the IoU of each class and their mean.

        A class that is neither there nor predicted has no IoU (None), and the mean is over the
        others, as in Cityscapes' own evaluation.

        Raises:
            TrainingError: Nothing was counted.
        """
        metrics = super().compute()
        ious = iou_by_class(self.counts().numpy())
        return metrics | {
            "miou": float(np.nanmean(ious)),
            "iou": [None if np.isnan(iou) else iou for iou in ious.tolist()],
            f"num_{self.words[0]}s": metrics["num_samples"],
            "num_samples": sum(gather(self.num_images)),
        }

    def describe(self, metrics: dict[str, Any]) -> str:
        """Say the metrics of a split in a line."""
        place, sample = self.words
        return (
            f"mIoU {metrics['miou']:.4f}, {place} accuracy {metrics['accuracy']:.4f}, "
            f"loss {metrics['loss']:.4f}, {metrics['num_samples']} {sample}s"
        )


class MaskClassifier(Classifier):
    """Classifies the places of samples; subclasses know whether those are pixels or points."""

    evaluation_type = MaskEvaluation
    ignored = IGNORED
    kept: ClassVar[str]  # name in the results of what was predicted for a few samples

    def to_keep(self, predicted: Tensor) -> Tensor:
        """Return what is kept of the classes predicted, ``(B, ...)``."""
        return predicted

    def keep(self, scores: Scores, targets: Tensor) -> dict[str, Tensor]:
        """Return of each sample the share of right places, nan where none counts, and a mask."""
        predicted, counted = scores.logits.argmax(dim=1), (targets != self.ignored).flatten(1)
        right = (predicted == targets).flatten(1) & counted
        return {
            "accuracies": (right.sum(dim=1) / counted.sum(dim=1)).cpu(),
            self.kept: self.to_keep(predicted).to(torch.uint8).cpu(),
        }

    def test_arrays(self) -> dict[str, np.ndarray]:
        """Return places by true and predicted class, and some samples, the same in every run."""
        data = self.trainer.datamodule
        arrays = collect_predictions(self.test_outputs)
        rows = spread(arrays["indices"], NUM_PICTURES)
        arrays[self.kept] = arrays[self.kept][rows]
        arrays["truths"] = data.truths(arrays["indices"][rows])
        arrays["confusion"] = self.evaluation.counts().numpy().astype(np.int64)
        return arrays | show_rows(data, arrays["indices"], rows)

    def predict_step(self, batch: Any, batch_idx: int) -> Prediction:
        """Return the share of the places that each class has, ``(B, num_classes)``."""
        self._check_input(batch)
        predicted = self(batch).argmax(dim=1).flatten(1)
        classes = torch.arange(len(self.classes), device=predicted.device)
        shares = [(predicted == label).float().mean(dim=1) for label in classes]
        return Prediction(torch.stack(shares, dim=1), labels=predicted.cpu())


def iou_by_class(counts: np.ndarray) -> np.ndarray:
    """Divide intersection by union; nan for a class that is neither there nor predicted.

    Args:
        counts: Pixels by true (row) and predicted class (column).

    Example:
        >>> iou_by_class(np.array([[3, 1], [0, 4]])).tolist()
        [0.75, 0.8]
    """
    counts = counts.astype(np.float64)  # exact; torchmetrics' JaccardIndex divides in float32
    met = counts.diagonal()
    union = counts.sum(axis=0) + counts.sum(axis=1) - met
    return np.divide(met, union, out=np.full(len(met), np.nan), where=union > 0)
