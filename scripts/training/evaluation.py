"""Loss and accuracies of a split, counted batch by batch in one or several processes."""

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from scripts.training.reliability.distributed import gather
from scripts.training.reliability.errors import TrainingError

NOTHING = -100  # no label is ignored: torch's own value for that


class Evaluation(nn.Module):
    """Counts predictions by true and predicted class, and adds up the loss.

    Everything is a sum until the end, so that the processes may have shares of any size.

    Attributes:
        logged: What ``metrics.csv`` has of each validation.
        best: The one of them that chooses the best epoch.

    Example:
        >>> import torch
        >>> evaluation, targets = Evaluation(3), torch.tensor([0, 0, 0])
        >>> evaluation.update(torch.eye(3)[[0, 0, 1]], targets)
        >>> evaluation.compute()["accuracy"]
        0.6666666666666666
    """

    logged: ClassVar = ("loss", "accuracy", "class_accuracy")
    best: ClassVar = "accuracy"

    def __init__(self, num_classes: int, ignored: int = NOTHING):
        super().__init__()
        self.ignored = ignored
        self.confusion = MulticlassConfusionMatrix(num_classes, ignore_index=ignored)
        self.loss_sum = 0.0

    def reset(self) -> None:
        """Start again from nothing."""
        self.confusion.reset()
        self.loss_sum = 0.0

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch, ``(B, num_classes, ...)`` and ``(B, ...)``."""
        loss = F.cross_entropy(logits, targets, reduction="sum", ignore_index=self.ignored)
        self.loss_sum += loss.item()
        self.confusion.update(logits, targets)

    def counts(self) -> Tensor:
        """Return how often each class (row) was taken for each (column), in all processes."""
        return self.confusion.compute().double().cpu()

    def compute(self) -> dict[str, Any]:
        """Return mean loss, accuracy, mean accuracy over the classes that occur, and the count.

        Raises:
            TrainingError: Nothing was counted.
        """
        counts = self.counts()
        samples, right = counts.sum(dim=1), counts.diagonal()
        total = samples.sum().item()
        if not total:
            raise TrainingError("there was nothing to evaluate: the split is empty")
        occurs = samples > 0
        return {
            "loss": sum(gather(self.loss_sum)) / total,
            "accuracy": right.sum().item() / total,
            "class_accuracy": (right[occurs] / samples[occurs]).mean().item(),
            "num_samples": int(total),
        }

    def describe(self, metrics: dict[str, Any]) -> str:
        """Say the metrics of a split in a line."""
        return (
            f"accuracy {metrics['accuracy']:.4f}, mean over classes "
            f"{metrics['class_accuracy']:.4f}, loss {metrics['loss']:.4f}, "
            f"{metrics['num_samples']} samples"
        )


class TopFive(Evaluation):
    """Counts also how often the true class is among the five most probable ones.

    Args:
        num_classes: Classes to tell apart; with five or fewer, that is always so.

    Example:
        >>> import torch
        >>> evaluation = TopFive(6)
        >>> evaluation.update(torch.arange(6.0).expand(2, 6), torch.tensor([1, 0]))
        >>> evaluation.compute()["top5"]
        0.5
    """

    logged: ClassVar = (*Evaluation.logged, "top5")

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.top5 = MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro")

    def reset(self) -> None:
        """Start again from nothing."""
        super().reset()
        self.top5.reset()

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch, ``(B, num_classes)`` and ``(B,)``."""
        super().update(logits, targets)
        self.top5.update(logits, targets)

    def compute(self) -> dict[str, Any]:
        """Return what :class:`Evaluation` does, and ``top5``."""
        return super().compute() | {"top5": self.top5.compute().item()}

    def describe(self, metrics: dict[str, Any]) -> str:
        """Say the metrics of a split in a line."""
        return f"{super().describe(metrics)}, top-5 accuracy {metrics['top5']:.4f}"
