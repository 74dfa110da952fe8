"""Loss and accuracies of a split, counted batch by batch in one or several processes."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from scripts.training.distributed import gather
from scripts.training.errors import TrainingError

METRICS = ("loss", "accuracy", "class_accuracy")


class Evaluation(nn.Module):
    """Counts predictions by true and predicted class, and adds up the loss.

    Everything is a sum until the end, so that the processes may have shares of any size.

    Args:
        num_classes: Classes to tell apart.

    Example:
        >>> import torch
        >>> evaluation, targets = Evaluation(3), torch.tensor([0, 0, 0])
        >>> evaluation.update(torch.eye(3)[[0, 0, 1]], targets)
        >>> evaluation.compute()["accuracy"]
        0.6666666666666666
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.confusion = MulticlassConfusionMatrix(num_classes)
        self.loss_sum = 0.0

    def reset(self) -> None:
        """Start again from nothing."""
        self.confusion.reset()
        self.loss_sum = 0.0

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch, ``(B, num_classes)`` and ``(B,)``."""
        self.loss_sum += F.cross_entropy(logits, targets, reduction="sum").item()
        self.confusion.update(logits, targets)

    def compute(self) -> dict[str, float]:
        """Return mean loss, accuracy, mean accuracy over the classes that occur, and the count.

        Raises:
            TrainingError: Nothing was counted.
        """
        counts = self.confusion.compute().double().cpu()  # summed over the processes
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
