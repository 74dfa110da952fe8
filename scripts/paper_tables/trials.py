"""Short trainings on one core: networks with a change in their cycles, on two small tasks.

Every trial takes seconds and leaves a file, so that a table of many is made in pieces.
"""

import argparse
import functools
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from datasets.mnist5k import mnist5k
from datasets.splits import nested_subset
from mgic_geo import num_weights
from mgic_vision import create_model
from scripts.paper_tables.cycles import Change, MakeLayer, change_cycles, unchanged
from scripts.paper_tables.function_task import HIGH, LOW, function
from scripts.training.optimizer import OptimizerSettings
from scripts.training.reliability.errors import NonFiniteError, RunFolderError
from scripts.training.reliability.files import write_whole
from scripts.training.reliability.run_folder import compare_configs
from scripts.training.reliability.seeds import derive_seed

TEST_BATCH = 1_000


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
        score: Of the scores and targets of the test, what is compared.
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
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]
    unit: str
    higher_is_better: bool
    optimizer: OptimizerSettings
    batch_size: int
    epochs: int


@dataclass(frozen=True)
class Trial:
    """One training.

    Args:
        task: What it is on.
        variant: Name of the network in tables and files.
        seed: Of the first weights and the order of the samples.
        change: What is done to its cycles.
        options: Of the model, beside those of the task.
    """

    task: Task
    variant: str
    seed: int
    change: Change = unchanged
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Its file, without the folder."""
        return f"{self.task.name}-{re.sub(r'[^a-zA-Z0-9]+', '_', self.variant)}-{self.seed}.json"

    def make_network(self) -> nn.Module:
        """Build the network; the same weights for the same seed."""
        torch.manual_seed(derive_seed(self.seed, "weights"))
        network = create_model(self.task.model, **self.task.options | self.options)
        change_cycles(network, self.change, self.task.make_layer)
        return network

    def describe(self) -> dict[str, Any]:
        """What its numbers depend on, in plain values."""
        task = self.task
        return {
            "model": task.model,
            "options": task.options | self.options,
            "optimizer": asdict(task.optimizer),
            "batch_size": task.batch_size,
            "epochs": task.epochs,
            "samples": list(task.make_data().x.shape),
            "weights": num_weights(self.make_network()),
        }

    def train(self) -> dict[str, Any]:
        """Train, test, and return what came out.

        Raises:
            NonFiniteError: The loss is not finite any more.
        """
        task, start = self.task, time.monotonic()
        data, network = task.make_data(), self.make_network()
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = task.optimizer.make_optimizer(network.parameters())
        steps = len(data.x) // task.batch_size
        factor = task.optimizer.make_factor(steps, task.epochs)
        network.train()
        for epoch in range(task.epochs):
            place = derive_seed(self.seed, "order", epoch)
            order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(place))
            for step, rows in enumerate(order[: steps * task.batch_size].split(task.batch_size)):
                for group in optimizer.param_groups:
                    group["lr"] = task.optimizer.lr * factor(epoch * steps + step)
                loss = task.loss(network(data.x[rows]), data.y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if not math.isfinite(loss.item()):
                raise NonFiniteError(f"{self.place}: the loss of epoch {epoch} is {loss.item()}")
        network.eval()
        with torch.no_grad():
            scores = torch.cat([network(part) for part in data.test_x.split(TEST_BATCH)])
        return {
            "score": task.score(scores, data.test_y),
            "loss": loss.item(),
            "seconds": time.monotonic() - start,
        }


def add_trial_arguments(parser: argparse.ArgumentParser, folder: str, minutes: float) -> None:
    """Add where the trials are, how many seeds they have, and for how long to train."""
    parser.add_argument("--runs", type=Path, default=Path(folder))
    parser.add_argument("--minutes", type=float, default=minutes, help="stop training after these")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of every network")


def deadline_of(arguments: argparse.Namespace) -> float:
    """When to stop, of :func:`time.monotonic`.

    Raises:
        ValueError: No seeds are asked for.
    """
    if arguments.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {arguments.seeds}")
    return time.monotonic() + 60 * arguments.minutes


def run_until(deadline: float, trials: Sequence[Trial], folder: Path) -> dict[str, Any]:
    """Run what is missing, one after the other, until the time is over.

    Args:
        deadline: Of :func:`time.monotonic`; a trial that has begun is finished.
        trials: In the order in which they are run.
        folder: Where every trial leaves a file.

    Returns:
        What came out, by :attr:`Trial.place`, of the trials that are finished.

    Raises:
        RunFolderError: A file is of other settings, or cannot be read.
        NonFiniteError: As :meth:`Trial.train`.
    """
    found = {}
    for trial in trials:
        path = folder / trial.place
        if not path.exists():
            if time.monotonic() >= deadline:
                continue
            result = trial.train()
            content = json.dumps({"run": trial.describe(), "result": result}, indent=2) + "\n"
            write_whole(path, content.encode())
            print(f"{path.stem}: {result['score']:.4g}, {result['seconds']:.1f} s", flush=True)
        found[trial.place] = read_trial(path, trial)
    return found


def read_trial(path: Path, trial: Trial) -> dict[str, Any]:
    """Read what a trial left, with its number of weights.

    Raises:
        RunFolderError: It is of other settings, or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        before, result = content["run"], content["result"]
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(f"cannot read {path}: {error}; remove it to run it again") from error
    if changed := compare_configs(before, trial.describe()):
        raise RunFolderError(
            f"{path} is of other settings:\n  " + "\n  ".join(changed) + "\nChoose another --runs"
        )
    return result | {"weights": before["weights"]}


@functools.cache
def smooth_function(num_points: int, num_tested: int) -> Data:
    """Points of Equation 4.1 with c from 1 to 2, as b, in place of 10 to 20.

    Over the paper's range of c the function swings up to forty times, and in minutes no network
    gets below the error of a constant.

    Shape:
        - ``x``: ``(num_points, 5)``; ``y``: ``(num_points, 1)``.
    """
    generator = torch.Generator().manual_seed(derive_seed(0, "smooth"))
    low, high = torch.tensor((*LOW[:4], LOW[3])), torch.tensor((*HIGH[:4], HIGH[3]))
    x = torch.rand(num_points + num_tested, 5, generator=generator) * (high - low) + low
    y = function(x)
    return Data(x[:num_points], y[:num_points], x[num_points:], y[num_points:])


@functools.cache
def digits(num_train: int, size: int) -> Data:
    """Training images of mnist5k, as many of every class, and all of its test images.

    Shape:
        - ``x``: ``(num_train, 3, size, size)``; ``y``: ``(num_train,)``.
    """
    train, test = mnist5k("train", size=size), mnist5k("test", size=size)
    rows = nested_subset(train.targets, num_train, seed=0)
    (x, y), (test_x, test_y) = (
        (torch.stack([dataset[row].image for row in chosen]), torch.tensor(dataset.targets)[chosen])
        for dataset, chosen in ((train, rows), (test, list(range(len(test)))))
    )
    channels_last = partial(Tensor.contiguous, memory_format=torch.channels_last)
    return Data(channels_last(x), y, channels_last(test_x), test_y)


def relative_error(scores: Tensor, targets: Tensor) -> float:
    """Mean squared error, in percent of that of the best constant."""
    return 100 * (functional.mse_loss(scores, targets) / targets.var(correction=0)).item()


def accuracy(scores: Tensor, targets: Tensor) -> float:
    """Share of right classes, in percent."""
    return 100 * (scores.argmax(1) == targets).double().mean().item()
