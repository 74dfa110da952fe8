"""The loop of short trainings: one network, some epochs of batches, one file of results."""

import io
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scripts.experiments.runs import refuse_changes
from scripts.training.optimizer import OptimizerSettings
from scripts.training.reliability.checkpoint import read_checkpoint, seal
from scripts.training.reliability.errors import NonFiniteError, RunFolderError
from scripts.training.reliability.files import read_json, write_json, write_whole

SAVE_EVERY = 60  # seconds between two checkpoints of a trial

Batch = tuple[Tensor, ...]  # inputs, then the target
Measure = Callable[[Tensor, Tensor], Tensor]  # of output and target, a mean over samples


@dataclass(frozen=True)
class Course:
    """How all networks of a comparison are trained and tested.

    Args:
        steps: Steps of an epoch.
        epochs: Epochs.
        optimizer: Optimizer and learning rate.
        loss: What is minimized.
        test: ``() -> batches`` of the test, the same for all.
        score: What is compared.
        held_out: ``() -> batches`` on which rates are compared.
        before_step: Called with the network and the share of the training that is over.
    """

    steps: int
    epochs: int
    optimizer: OptimizerSettings
    loss: Measure
    test: Callable[[], Sequence[Batch]]
    score: Measure
    held_out: Callable[[], Sequence[Batch]] | None = None
    before_step: Callable[[nn.Module, float], None] = lambda network, progress: None


@dataclass(frozen=True)
class Trial:
    """One training, resumable by epochs.

    Args:
        path: File of its results; while it is not finished, a checkpoint lies beside it.
        course: How it is trained.
        make_network: Builds the network, the same at each call.
        batches: ``(epoch) -> batches``, the same at each call.
        settings: What else the results depend on, in plain values.
        keep: Keep the trained weights, see :meth:`weights`.
        score_first: Score the network also before the training.
    """

    path: Path
    course: Course
    make_network: Callable[[], nn.Module]
    batches: Callable[[int], Iterable[Batch]]
    settings: Mapping[str, Any]
    keep: bool = False
    score_first: bool = False

    def describe(self) -> dict[str, Any]:
        """Return what the results depend on, in plain values."""
        course = {"optimizer": asdict(self.course.optimizer), "epochs": self.course.epochs}
        return json.loads(json.dumps({**self.settings, **course}))  # tuples become lists

    def read(self) -> dict[str, Any] | None:
        """Return the results, with the number of weights where the settings have it.

        Raises:
            RunFolderError: They are of other settings, or cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            content = read_json(self.path)
            before, result = content["run"], content["result"]
        except (OSError, ValueError, KeyError) as error:
            raise RunFolderError(
                f"cannot read {self.path}: {error}; remove it to run it again"
            ) from error
        refuse_changes(self.path, before, self.describe())
        return {"weights": before.get("weights")} | result

    def run(self, deadline: float) -> None:
        """Train from the last checkpoint on; an epoch that has begun is finished.

        Raises:
            NonFiniteError: The loss is not finite any more.
            RunFolderError: The checkpoint is of other settings.
            CheckpointError: The checkpoint is damaged.
        """
        course, network = self.course, self.make_network()
        optimizer = course.optimizer.make_optimizer(network)
        result = {"epochs": 0, "seconds": 0.0}
        if self._checkpoint.exists():
            state = read_checkpoint(self._checkpoint)
            refuse_changes(self._checkpoint, state["run"], self.describe())
            network.load_state_dict(state["state_dict"])
            optimizer.load_state_dict(state["optimizer"])
            result = state["result"]
        elif self.score_first:
            result["start"] = evaluate(network, course, course.test())
        saved = time.monotonic()
        while result["epochs"] < course.epochs:
            start = time.monotonic()
            batches = self.batches(result["epochs"])
            try:
                loss = train_epoch(network, optimizer, course, batches, result["epochs"])
            except NonFiniteError as error:
                raise NonFiniteError(f"{self.path.stem}: {error}") from error
            result["loss"] = loss
            result["epochs"] += 1
            result["seconds"] += time.monotonic() - start
            stop = time.monotonic() >= deadline and result["epochs"] < course.epochs
            if stop or time.monotonic() - saved > SAVE_EVERY:
                self._save(network, optimizer, result)
                saved = time.monotonic()
            if stop:
                return
        if course.held_out is not None:
            result["val"] = evaluate(network, course, course.held_out())
        result["score"] = evaluate(network, course, course.test())
        if self.keep:
            self._save(network, optimizer, result)
        write_json(self.path, {"run": self.describe(), "result": result})
        if not self.keep:
            self._checkpoint.unlink(missing_ok=True)
        print(
            f"{self.path.stem}: {result['score']:.4g}, {result['seconds']:.1f} s of training",
            flush=True,
        )

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of a trial that keeps them; train it where that is missing."""
        if self.read() is None or not self._checkpoint.exists():
            self.run(math.inf)
        return read_checkpoint(self._checkpoint)["state_dict"]

    @property
    def _checkpoint(self) -> Path:
        return self.path.with_suffix(".ckpt")

    def _save(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, result: dict[str, Any]
    ) -> None:
        content = io.BytesIO()
        state = {"run": self.describe(), "result": result, "state_dict": network.state_dict()}
        torch.save(state | {"optimizer": optimizer.state_dict()}, content)
        write_whole(self._checkpoint, seal(content.getvalue()))


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    course: Course,
    batches: Iterable[Batch],
    epoch: int = 0,
) -> float:
    """Train an epoch and return its mean loss.

    Raises:
        NonFiniteError: The loss is not finite any more.
    """
    factor, total = course.optimizer.make_factor(course.steps, course.epochs), 0.0
    network.train()
    for step, (*inputs, target) in enumerate(batches):
        done = epoch * course.steps + step
        course.before_step(network, done / (course.epochs * course.steps))
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor(done)
        loss = course.loss(network(*inputs), target)
        if not math.isfinite(value := loss.item()):
            raise NonFiniteError(f"the loss of epoch {epoch}, step {step} is {value}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += value
    return total / course.steps


@torch.no_grad()
def evaluate(network: nn.Module, course: Course, batches: Sequence[Batch]) -> float:
    """Return the mean score over all samples."""
    network.eval()
    scores = [course.score(network(*x), y).item() * len(y) for *x, y in batches]
    return sum(scores) / sum(len(y) for *_, y in batches)


def in_batches(order: Tensor, size: int, *tensors: Tensor) -> Iterable[Batch]:
    """Yield the rows of tensors in an order, in batches of one size; the rest is left out."""
    for rows in order[: len(order) // size * size].split(size):
        yield tuple(tensor[rows] for tensor in tensors)


def percent_right(output: Tensor, target: Tensor) -> Tensor:
    """Share of right classes, in percent."""
    return 100 * (output.argmax(-1) == target).double().mean()
