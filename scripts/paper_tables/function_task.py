"""Training on f(x, y, a, b, c) = a cos(bx) sin(cy), in runs that can be stopped and continued."""

import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.nn import functional

from mgic_geo import num_weights
from mgic_vision import create_model
from scripts.training.optimizer import OptimizerSettings
from scripts.training.reliability.checkpoint import read_checkpoint, seal
from scripts.training.reliability.errors import NonFiniteError, RunFolderError
from scripts.training.reliability.files import write_whole
from scripts.training.reliability.run_folder import compare_configs
from scripts.training.reliability.seeds import derive_seed

# x, y, a, b: section 4.2
LOW = (0.0, 0.0, 0.0, 1.0)
HIGH = (2 * math.pi, 2 * math.pi, 1.0, 2.0)


@dataclass(frozen=True)
class Network:
    """A network of the comparison: its name in tables, its model and the model's options."""

    name: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What all networks are trained with.

    Args:
        networks: Who takes part.
        c_max: Largest widths that each is built with.
        folds: Every fold has its own test points, first weights and order of the points.
        num_points: Points of the function.
        test_fraction: Share of them that a fold tests.
        batch_size: Points of a step.
        epochs: Times that all training points are seen.
        optimizer: The same for all.
        c_range: From where to where the frequency c goes; 10 to 20 in section 4.2.
        seed: All randomness follows from it.

    Raises:
        ValueError: A number that makes no sense.
    """

    networks: list[Network]
    c_max: list[int]
    folds: int = 3
    num_points: int = 100_000
    test_fraction: float = 0.05
    batch_size: int = 2_000
    epochs: int = 20
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    c_range: tuple[float, float] = (10.0, 20.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 1 or self.folds * self.test_fraction > 1 + 1e-9:
            raise ValueError(
                f"folds must be from 1 to 1 / test_fraction ({1 / self.test_fraction:.0f}), got "
                f"{self.folds}"
            )
        if min(self.num_points, self.batch_size, self.epochs) < 1:
            raise ValueError("num_points, batch_size and epochs must be at least 1")
        if not 0 <= self.c_range[0] < self.c_range[1] < math.inf:
            raise ValueError(f"c_range must be two numbers that rise from 0 on, got {self.c_range}")

    @property
    def num_tested(self) -> int:
        """Points that a fold tests."""
        return max(1, round(self.test_fraction * self.num_points))

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return max(1, (self.num_points - self.num_tested) // self.batch_size)


def read_settings(path: Path, **changes: Any) -> Settings:
    """Read a file of settings; ``changes`` that are not None replace what it says.

    Raises:
        ValueError: It has a setting that there is not, or a value that makes no sense.
        OSError: It cannot be read.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Settings)
    config = parser.parse_path(str(path))
    for key, value in changes.items():
        if value is not None:
            config[key] = value
    return Settings(**{k: v for k, v in parser.instantiate(config).items() if k != "config"})


def function(points: Tensor) -> Tensor:
    """Equation 4.1.

    Shape:
        - ``points``: ``(N, 5)``. Returns ``(N, 1)``.

    Example:
        >>> function(torch.tensor([[0.0, math.pi / 20, 0.5, 1.0, 10.0]]))
        tensor([[0.5000]])
    """
    x, y, a, b, c = points.unbind(1)
    return (a * torch.cos(b * x) * torch.sin(c * y)).unsqueeze(1)


def make_points(settings: Settings) -> Tensor:
    """Draw all points, the same for all networks and folds; ``(num_points, 5)``."""
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "points"))
    low, high = (
        torch.tensor((*ends, end)) for ends, end in zip((LOW, HIGH), settings.c_range, strict=True)
    )
    points = torch.rand(settings.num_points, 5, generator=generator)
    return points.mul_(high - low).add_(low)


class Run:
    """One network at one width on one fold, trained an epoch at a time.

    Args:
        settings: What it is trained with.
        network: Which it is.
        c_max: Its largest width.
        fold: From 0.
        path: Its checkpoint, which is written after epochs and read where it is there.

    Raises:
        RunFolderError: The checkpoint is of other settings.
        CheckpointError: The checkpoint is damaged.
    """

    def __init__(
        self, settings: Settings, network: Network, c_max: int, fold: int, path: Path
    ) -> None:
        self.settings, self.fold, self.path = settings, fold, path
        self.description = _describe(settings, network, c_max, fold)
        torch.manual_seed(derive_seed(settings.seed, "weights", fold))
        self.model = create_model(network.model, c_max=c_max, **network.options)
        self.optimizer = settings.optimizer.make_optimizer(self.model.parameters())
        self.history: list[dict[str, float]] = []
        if path.exists():
            self._restore()

    @property
    def num_weights(self) -> int:
        """Weights of the network."""
        return num_weights(self.model)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return len(self.history) == self.settings.epochs

    def train_epoch(self, points: Tensor) -> None:
        """Train one more epoch, test, and write the checkpoint.

        Raises:
            NonFiniteError: The loss is not finite any more.
        """
        start, settings, epoch = time.monotonic(), self.settings, len(self.history)
        test, train = _split(settings, points, self.fold)
        steps = settings.num_steps
        factor = settings.optimizer.make_factor(steps, settings.epochs)
        place = derive_seed(settings.seed, "order", self.fold, epoch)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(place))
        total = 0.0
        self.model.train()
        for step in range(steps):
            for group in self.optimizer.param_groups:
                group["lr"] = settings.optimizer.lr * factor(epoch * steps + step)
            rows = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            total += _step(self.model, self.optimizer, points[train[rows]])
            if not math.isfinite(total):
                raise NonFiniteError(f"{self.path.name}: the loss of step {step} is {total}")
        seconds = time.monotonic() - start
        row = {"train": total / steps, "test": evaluate(self.model, points[test])}
        self.history.append(row | {"seconds_per_step": seconds / steps})
        self._save()

    def _save(self) -> None:
        content = io.BytesIO()
        checkpoint = {
            "run": self.description,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }
        torch.save(checkpoint, content)
        write_whole(self.path, seal(content.getvalue()))

    def _restore(self) -> None:
        checkpoint = read_checkpoint(self.path)
        changed = compare_configs(checkpoint["run"], self.description)
        if changed:
            raise RunFolderError(
                f"{self.path} was trained with other settings:\n  "
                + "\n  ".join(changed)
                + "\nChoose another --runs"
            )
        self.model.load_state_dict(checkpoint["state_dict"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.history = checkpoint["history"]


def _describe(settings: Settings, network: Network, c_max: int, fold: int) -> dict[str, Any]:
    """What the numbers of a run depend on: plain values."""
    kept = {k: v for k, v in asdict(settings).items() if k not in ("networks", "c_max", "folds")}
    return kept | {"model": network.model, "options": network.options, "c_max": c_max, "fold": fold}


def _split(settings: Settings, points: Tensor, fold: int) -> tuple[Tensor, Tensor]:
    """Rows of the fold's test and training points."""
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "folds"))
    order = torch.randperm(len(points), generator=generator)
    size = settings.num_tested
    start = fold * size
    return order[start : start + size], torch.cat([order[:start], order[start + size :]])


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, points: Tensor) -> float:
    loss = functional.mse_loss(model(points), function(points))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def evaluate(model: nn.Module, points: Tensor, batch_size: int = 10_000) -> float:
    """Mean squared error."""
    model.eval()
    total = sum(
        functional.mse_loss(model(part), function(part), reduction="sum").item()
        for part in points.split(batch_size)
    )
    return total / len(points)


def train_until(
    deadline: float, runs: Mapping[Any, Callable[[], Run]], points: Tensor
) -> dict[Any, Run]:
    """Train what is not finished, one after the other, until the time is over.

    Args:
        deadline: Of :func:`time.monotonic`; an epoch that has begun is finished.
        runs: How to open each run, by any key.
        points: All points.
    """
    opened = {}
    for key, open_run in runs.items():
        run = opened[key] = open_run()
        while not run.finished and time.monotonic() < deadline:
            run.train_epoch(points)
            last = run.history[-1]
            if run.finished or len(run.history) == 1:
                print(
                    f"{run.path.stem}: epoch {len(run.history)} of {run.settings.epochs}, test MSE "
                    f"{last['test']:.3g}, {last['seconds_per_step']:.3f} s a step",
                    flush=True,
                )
    return opened
