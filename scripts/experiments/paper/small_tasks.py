"""Two tasks that a network learns in seconds: a smooth function, and digits."""

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from datasets.splits import nested_subset
from mgic_geo import num_weights
from mgic_vision import basic_block, create_model, inverted_residual
from mgic_vision.layers import HARDSWISH
from scripts.experiments import data
from scripts.experiments.data import draw_points, function
from scripts.experiments.paper.cycles import Change, MakeLayer, change_cycles, unchanged
from scripts.experiments.trial import Batch, Course, Measure, Trial, in_batches, percent_right
from scripts.training.optimizer import OptimizerSettings
from scripts.training.reliability.seeds import derive_seed


class Data(NamedTuple):
    """What is trained on and what is tested."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass(frozen=True)
class Task:
    """What all networks of a comparison are trained on, and how.

    Args:
        name: In files and tables.
        model: Name in :func:`mgic_vision.list_models`.
        options: Of the model.
        make_layer: ``(level) -> Module``, as the model has it in its cycles.
        make_data: Draws or reads the data, the same for every seed.
        loss: Of scores and targets.
        score: What is compared.
        unit: Of the score.
        higher_is_better: Whether it is.
        optimizer: The same for all networks.
        batch_size: Samples of a step.
        epochs: Times that all samples are seen.
    """

    name: str
    model: str
    options: dict[str, Any]
    make_layer: MakeLayer
    make_data: Callable[[], Data]
    loss: Measure
    score: Measure
    unit: str
    higher_is_better: bool
    optimizer: OptimizerSettings
    batch_size: int
    epochs: int


@dataclass(frozen=True)
class Network:
    """A network that is trained on a task, with more options of the model and other cycles."""

    task: Task
    variant: str
    change: Change = unchanged
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, seed: int = 0) -> nn.Module:
        """Build it; the same weights for the same seed."""
        torch.manual_seed(derive_seed(seed, "weights"))
        network = create_model(self.task.model, **self.task.options | self.options)
        change_cycles(network, self.change, self.task.make_layer)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def trial(self, seed: int, folder: Path) -> Trial:
        """Return its training; the seed is that of the first weights and the order of samples."""
        task, data = self.task, self.task.make_data()

        def batches(epoch: int) -> Iterable[Batch]:
            place = derive_seed(seed, "order", epoch)
            order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(place))
            return in_batches(order, task.batch_size, data.x, data.y)

        settings = {
            "model": task.model,
            "options": task.options | self.options,
            "batch_size": task.batch_size,
            "samples": list(data.x.shape),
            "weights": num_weights(self.make()),
        }
        course = Course(
            *(len(data.x) // task.batch_size, task.epochs, task.optimizer, task.loss),
            test=lambda: [(data.test_x, data.test_y)],
            score=task.score,
        )
        name = re.sub(r"[^a-zA-Z0-9]+", "_", self.variant)
        path = folder / f"{task.name}-{name}-{seed}.json"
        return Trial(path, course, partial(self.make, seed), batches, settings)


@functools.cache
def smooth_function(num_points: int, num_tested: int) -> Data:
    """Points of Equation 4.1 with c from 1 to 2, as b, in place of 10 to 20.

    Over the paper's range of c the function swings up to forty times, and in minutes no network
    gets below the error of a constant.

    Shape:
        - ``x``: ``(num_points, 5)``; ``y``: ``(num_points, 1)``.
    """
    x = draw_points(num_points + num_tested, (1.0, 2.0), derive_seed(0, "smooth"))
    y = function(x)
    return Data(x[:num_points], y[:num_points], x[num_points:], y[num_points:])


@functools.cache
def digits(num_train: int, size: int) -> Data:
    """Training images of mnist5k, as many of every class, and all of its test images.

    Shape:
        - ``x``: ``(num_train, 3, size, size)``; ``y``: ``(num_train,)``.
    """
    (x, y), (test_x, test_y) = data.digits("train", size), data.digits("test", size)
    rows = nested_subset(y.tolist(), num_train, seed=0)
    channels_last = partial(Tensor.contiguous, memory_format=torch.channels_last)
    return Data(channels_last(x[rows]), y[rows], channels_last(test_x), test_y)


def relative_error(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error, in percent of that of the best constant."""
    return 100 * functional.mse_loss(scores, targets) / targets.var(correction=0)


FUNCTION = Task(
    "function",
    model="function_mgic",
    options={"c_max": 32, "group_size": 8, "coarse_size": 8},
    make_layer=partial(inverted_residual, kernel_size=1, activation=HARDSWISH),
    make_data=partial(smooth_function, 4_000, 2_000),
    loss=functional.mse_loss,
    score=relative_error,
    unit="MSE, % of the variance",
    higher_is_better=False,
    optimizer=OptimizerSettings(lr=0.01, weight_decay=0.0, warmup_epochs=0.5),
    batch_size=200,
    epochs=16,
)
DIGITS = Task(
    "digits",
    model="mgic_resnet56",
    options={"depth": 8, "group_size": 8, "coarse_size": 16},
    make_layer=basic_block,
    make_data=partial(digits, 500, 16),
    loss=functional.cross_entropy,
    score=percent_right,
    unit="test accuracy, %",
    higher_is_better=True,
    optimizer=OptimizerSettings(lr=0.005, weight_decay=0.01, warmup_epochs=0.5),
    batch_size=25,
    epochs=6,
)
