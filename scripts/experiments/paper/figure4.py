"""Figure 4: error against weights when f(x, y, a, b, c) = a cos(bx) sin(cy) is approximated."""

import argparse
import functools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from mgic_geo import num_weights
from mgic_vision import create_model
from scripts.experiments import runs
from scripts.experiments.data import draw_points, function
from scripts.experiments.figures import frame, plot_ranges
from scripts.experiments.pages import as_png, fill
from scripts.experiments.paper.item import Item, Page
from scripts.experiments.ranges import summarize
from scripts.experiments.trial import Batch, Course, Trial, in_batches
from scripts.training.optimizer import OptimizerSettings
from scripts.training.reliability.seeds import derive_seed

CONFIGS = tuple(
    Path(f"scripts/configs/{name}.yaml") for name in ("function", "function_range", "function_sgd")
)
COLORS = ("#0072b2", "#009e73", "#d55e00", "#cc79a7", "#8d96a0")  # of networks
LINES = ("o-", "s:", "^:", "D:")  # of optimizers and ranges of c
TEST_BATCH = 10_000


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


@functools.lru_cache(1)
def make_points(num_points: int, c_range: tuple[float, float], seed: int) -> Tensor:
    """Draw all points, the same for all networks and folds; ``(num_points, 5)``."""
    return draw_points(num_points, c_range, derive_seed(seed, "points"))


def points_of(settings: Settings) -> Tensor:
    """The points of these settings."""
    return make_points(settings.num_points, tuple(settings.c_range), settings.seed)


def split(settings: Settings, fold: int) -> tuple[Tensor, Tensor]:
    """Rows of the fold's test and training points."""
    generator = torch.Generator().manual_seed(derive_seed(settings.seed, "folds"))
    order = torch.randperm(settings.num_points, generator=generator)
    size = settings.num_tested
    start = fold * size
    return order[start : start + size], torch.cat([order[:start], order[start + size :]])


def make_trial(settings: Settings, network: Network, c_max: int, fold: int, path: Path) -> Trial:
    """The training of one network at one width on one fold."""

    def make_network() -> nn.Module:
        torch.manual_seed(derive_seed(settings.seed, "weights", fold))
        return create_model(network.model, c_max=c_max, **network.options)

    def batches(epoch: int) -> Iterable[Batch]:
        train = split(settings, fold)[1]
        place = derive_seed(settings.seed, "order", fold, epoch)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(place))
        size = min(settings.batch_size, len(train))
        for (points,) in in_batches(train[order], size, points_of(settings)):
            yield points, function(points)

    def test() -> list[Batch]:
        points = points_of(settings)[split(settings, fold)[0]]
        return [(part, function(part)) for part in points.split(TEST_BATCH)]

    mse = functional.mse_loss
    kept = ("num_points", "test_fraction", "batch_size", "c_range", "seed")
    described = {key: value for key, value in asdict(settings).items() if key in kept}
    described |= {"model": network.model, "options": network.options, "c_max": c_max, "fold": fold}
    course = Course(settings.num_steps, settings.epochs, settings.optimizer, mse, test, mse)
    return Trial(path, course, make_network, batches, described)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is trained, where, and for how long."""
    runs.add_arguments(parser, "runs/function", minutes=55)
    parser.add_argument("--config", type=Path, nargs="+", default=CONFIGS)
    for name in ("--epochs", "--num-points", "--folds"):
        parser.add_argument(name, type=int, help="in place of the configuration's")
    parser.add_argument("--c-max", type=int, nargs="+", help="in place of the configuration's")


def make(arguments: argparse.Namespace) -> Page:
    """Train what is missing, as far as the time goes, and tabulate what is there."""
    changes = {key: getattr(arguments, key) for key in ("epochs", "num_points", "c_max", "folds")}
    configs = {path.stem: read_settings(path, **changes) for path in arguments.config}
    trials = {
        (name, network.name, c_max, fold): make_trial(
            *(settings, network, c_max, fold),
            arguments.runs / name / f"{network.name.replace(' ', '_')}-{c_max}-{fold}.json",
        )
        for name, settings in configs.items()
        for fold in range(settings.folds)  # what is there first is already a whole figure
        for c_max in settings.c_max
        for network in settings.networks
    }
    found = runs.finish(trials, arguments)
    rows, about = [], []
    for name, settings in configs.items():
        variance = function(points_of(settings)).var().item()
        about.append((name, settings, variance))
        for network in settings.networks:
            for c_max in settings.c_max:
                own = runs.over_seeds(found, name, network.name, c_max).values()
                rows.append(make_row(settings, network, c_max, own, variance))
    notes = fill(
        "figure4.md",
        about=about,
        missing=len(trials) - len(found),
        minutes=sum(result["seconds"] for result in found.values()) / 60,
    )
    return Page(rows, notes, {"": as_png(draw, rows)}, seeds="of every row its folds, from 0")


def make_row(
    settings: Settings,
    network: Network,
    c_max: int,
    results: Collection[Mapping[str, Any]],
    variance: float,
) -> dict[str, Any]:
    """One network at one width, over the folds that are finished."""
    steps, found = settings.num_steps * settings.epochs, summarize(results, ["score", "loss"])
    return {
        "network": network.name,
        "c_max": c_max,
        "optimizer": f"{settings.optimizer.kind} {settings.optimizer.lr:g}",
        "c": "{:g} to {:g}".format(*settings.c_range),
        "ours weights": num_weights(create_model(network.model, c_max=c_max, **network.options)),
        "folds": len(results),
        "ours test MSE": found["score_mean"],
        "lowest": found["score_min"],
        "highest": found["score_max"],
        "ours training MSE": found["loss_mean"],
        "variance": variance,
        "s / step": min((run["seconds"] / steps for run in results), default=None),
    }


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw error against weights, both logarithmic."""
    figure = Figure(figsize=(8.5, 4.4))
    axes = figure.add_subplot()
    names = {"test_mean": "ours test MSE", "test_min": "lowest", "test_max": "highest"}
    rows = [row | {key: row[name] for key, name in names.items()} for row in rows]
    curve = lambda row: (row["network"], row["optimizer"], f"c {row['c']}")  # noqa: E731
    networks = list(dict.fromkeys(row["network"] for row in rows))
    protocols = list(dict.fromkeys(curve(row)[1:] for row in rows))
    for name in dict.fromkeys(map(curve, rows)):
        plot_ranges(
            axes,
            [row for row in rows if curve(row) == name],
            "test",
            "ours weights",
            fmt=LINES[protocols.index(name[1:]) % len(LINES)],
            color=COLORS[networks.index(name[0]) % len(COLORS)],
            label=", ".join(name),
        )
    frame(axes, xscale="log", yscale="log", xlabel="weights", ylabel="test MSE")
    if legend := axes.get_legend():  # beside the axes: there are many curves
        legend.set_loc("center left")
        legend.set_bbox_to_anchor((1, 0.5))
    return figure


ITEM = Item(
    "figure4",
    "error against weights in the approximation of a function",
    cost="about 80 minutes on one core, in pieces of --minutes",
    offline="a smaller budget than the paper's, the same for all networks",
    make=make,
    add_arguments=add_arguments,
)
