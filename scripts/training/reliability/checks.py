"""What training looks at before it goes on: labels, losses, weights."""

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from scripts.training.reliability.errors import NonFiniteError, TrainingError

MOST_NAMES = 5


def check_labels(labels: Tensor, names: Sequence[str], num_classes: int, ignored: int) -> None:
    """Look at labels ``(B, ...)``, with which a GPU would only say that some assertion failed.

    Raises:
        TrainingError: Some are the number of no class; the message names them and their samples.
    """
    known = (labels >= 0) & (labels < num_classes) | (labels == ignored)
    if known.all():
        return
    bad = (~known.reshape(len(names), -1)).any(dim=1).tolist()
    raise TrainingError(
        f"labels must be from 0 to {num_classes - 1}, got "
        f"{', '.join(map(str, labels[~known].unique().tolist()))} in "
        f"{', '.join(name for name, wrong in zip(names, bad, strict=True) if wrong)}"
    )


def check_losses(
    losses: Iterable[tuple[float, Sequence[str]]], step: int, place: tuple[int, int], lr: float
) -> None:
    """Look at the loss of each process, and the names of the samples it is of.

    Epoch and batch, the ``place``, count from 0, and the step from 1.

    Raises:
        NonFiniteError: One is not finite.
    """
    for loss, names in losses:
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"the loss is {loss} at step {step} (epoch {place[0] + 1}, batch {place[1] + 1}), "
                f"learning rate {lr:.3g}, samples {', '.join(names)}",
                place,
            )


def check_weights(network: nn.Module, step: int, place: tuple[int, int], lr: float) -> None:
    """Look at the weights after a step; arguments as in :func:`check_losses`.

    Raises:
        NonFiniteError: Some are not finite; the message names the first of them.
    """
    bad = [name for name, weight in network.named_parameters() if not weight.isfinite().all()]
    if bad:
        raise NonFiniteError(
            f"{len(bad)} weights are not finite after step {step}, learning rate {lr:.3g}, such as "
            f"{', '.join(bad[:MOST_NAMES])}",
            place,
        )
