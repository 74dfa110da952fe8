"""The Lightning module for segmentation: every pixel has a class."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from datasets.cityscapes import IGNORED
from mgic_vision import LRASPP, create_model, list_models
from scripts.training.classifier import Classifier
from scripts.training.distributed import gather
from scripts.training.evaluation import Evaluation
from scripts.training.optimizer import DEFAULT_OPTIMIZER, OptimizerSettings
from scripts.training.results import collect_predictions, show_rows, spread
from scripts.training.scenes import SceneBatch, shrink

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
            "num_pixels": metrics["num_samples"],
            "num_samples": sum(gather(self.num_images)),
        }

    def describe(self, metrics: dict[str, Any]) -> str:
        """Say the metrics of a split in a line."""
        return (
            f"mIoU {metrics['miou']:.4f}, pixel accuracy {metrics['accuracy']:.4f}, "
            f"loss {metrics['loss']:.4f}, {metrics['num_samples']} images"
        )


class Segmenter(Classifier):
    """Classifies the pixels of images.

    Args:
        name: Segmentation network of ``mgic_vision``: ``lraspp_mgic_large`` or another ``lraspp``.
        options: Options of ``mgic_vision.create_model`` for it.
        optimizer: How it is trained.
        label_smoothing: Share of the target that is spread over all classes, in training only.
        seed: All randomness follows from it.
    """

    ignored = IGNORED

    def __init__(
        self,
        name: str = "lraspp_mgic_large",
        options: dict[str, Any] | None = None,
        optimizer: OptimizerSettings = DEFAULT_OPTIMIZER,
        label_smoothing: float = 0.0,
        seed: int = 0,
    ):
        super().__init__(name, options, optimizer, label_smoothing, seed)

    def make_network(self, num_classes: int) -> nn.Module:
        """Build the network."""
        network = create_model(self.name, num_classes=num_classes, **self.options)
        if not isinstance(network, LRASPP):
            names = ", ".join(name for name in list_models() if name.startswith("lraspp"))
            raise ValueError(f"it does not score pixels; {names} do")
        return network

    def make_evaluation(self, num_classes: int) -> MaskEvaluation:
        """Return what counts the pixels."""
        return MaskEvaluation(num_classes)

    def forward(self, batch: SceneBatch) -> Tensor:
        """Score the classes at each pixel, ``(B, num_classes, H, W)``."""
        return self.network(batch.images)

    def sample_info(self, batch: SceneBatch) -> tuple[Tensor, list[int], list[str]]:
        """Return masks, indices and names of the images."""
        return batch.masks, batch.indices, batch.names

    def bad_samples(self, batch: SceneBatch) -> list[str]:
        """Name the images with a value that is not finite."""
        finite = batch.images.isfinite().flatten(1).all(dim=1)
        return [name for name, fine in zip(batch.names, finite.tolist(), strict=True) if not fine]

    def keep(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return of each image the share of right pixels, and a small copy of the mask."""
        predicted, counted = logits.argmax(dim=1), targets != IGNORED
        right = ((predicted == targets) & counted).flatten(1).sum(dim=1)
        masks = shrink(predicted, self.trainer.datamodule.picture_size)
        return {
            "accuracies": (right / counted.flatten(1).sum(dim=1)).cpu(),  # nan where none counts
            "masks": masks.to(torch.uint8).cpu(),
        }

    def test_arrays(self) -> dict[str, np.ndarray]:
        """Return pixels by true and predicted class, and some images, the same in every run."""
        data = self.trainer.datamodule
        arrays = collect_predictions(self.test_outputs)
        rows = spread(arrays["indices"], NUM_PICTURES)
        arrays["masks"] = arrays["masks"][rows]
        arrays["truths"] = data.truths(arrays["indices"][rows])
        arrays["colors"] = np.array(data.colors, np.uint8)
        arrays["confusion"] = self.evaluation.counts().numpy().astype(np.int64)
        return arrays | show_rows(data, arrays["indices"], rows)

    def predict_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Return the share of the pixels that each class has, ``(B, num_classes)``."""
        self._check_input(batch)
        predicted = self(batch).argmax(dim=1).flatten(1)
        classes = torch.arange(len(self.classes), device=predicted.device)
        return torch.stack([(predicted == label).float().mean(dim=1) for label in classes], dim=1)


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
