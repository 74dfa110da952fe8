"""Networks that are converted: what that saves, and what it costs after a fine-tuning."""

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import nn
from torch.nn import functional

from mgic_geo import share_at
from mgic_vision import convert, finish, num_weights, set_blend, summary
from scripts.experiments import runs
from scripts.experiments.data import digit_batches, digits
from scripts.experiments.known_networks import NETWORKS, OF_IMAGES, make
from scripts.experiments.pages import fill, write_page
from scripts.experiments.ranges import Row, summarize
from scripts.experiments.trial import Course, Trial, in_batches, percent_right
from scripts.training.optimizer import OptimizerSettings
from scripts.training.reliability.seeds import derive_seed

SIZES = {"group_size": 32, "coarse_size": 64}
INPUT_SIZE = (3, 224, 224)


class Counted:
    """``convert``: well-known networks, converted and counted; nothing is trained."""

    name, title = "convert", "Well-known networks, converted"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        names = [name for _, name in NETWORKS]
        parser.add_argument("--networks", nargs="+", choices=names, default=names)

    def run(self, options: argparse.Namespace, changes: Mapping[str, Any]) -> Path:
        """Convert all networks and write the page."""
        chosen = [(library, name) for library, name in NETWORKS if name in options.networks]
        rows = [count_converted(library, name) for library, name in chosen]
        versions = {library: version(library) for library in dict(chosen)}
        text = fill("convert.md", rows=rows, sizes=SIZES, versions=versions)
        return write_page(options.docs, self.name, text, rows, {})


def count_converted(library: str, name: str) -> Row:
    """Convert one network and count."""
    with torch.device("meta"):
        model = make(library, name)
    row: Row = {"network": name, "library": library, "changed": 0, "left": 0}
    size = INPUT_SIZE if library in OF_IMAGES else None
    try:
        _, report = convert(model, **SIZES, input_size=size)
    except ValueError as error:  # it has no block
        weights = num_weights(model)
        row |= {"weights_before": weights, "weights_after": weights, "unknown_weights": weights}
        row |= {"multiply_adds_before": None, "multiply_adds_after": None}
        return row | {"why_left": str(error)}
    reasons = Counter(shorten(row.reason) for row in report.left)
    return row | {
        "changed": len(report.changed),
        "left": len(report.left),
        "weights_before": report.weights_before,
        "weights_after": report.weights_after,
        "multiply_adds_before": report.multiply_adds_before,
        "multiply_adds_after": report.multiply_adds_after,
        "why_left": "; ".join(f"{count}: {reason}" for reason, count in reasons.items()),
        "unknown_weights": report.unknown_weights,
    }


def shorten(reason: str) -> str:
    """A reason without what differs from block to block, and what would have been known.

    Example:
        >>> shorten("16 channels, below min_width 64")
        'below min_width 64'
        >>> shorten("changes the resolution; known is a stride of 1")
        'changes the resolution'
    """
    return reason.rpartition("channels, ")[2].partition("; known is")[0]


WIDTHS, NARROW = (32, 64, 128, 256), (23, 47, 94, 189)  # of the stages
SMALL_SIZES = {"group_size": 16, "coarse_size": 32, "min_width": 32}
OPTIMIZER = OptimizerSettings(lr=1e-3, weight_decay=1e-4)
IMAGE = (3, 32, 32)


@dataclass(frozen=True)
class Budget:
    """How long is trained, and on what.

    Args:
        first: Epochs of the original network.
        more: Epochs of what follows it.
        num_train: Images.
        batch_size: Images of a step.
    """

    first: int = 8
    more: int = 4
    num_train: int = 1000
    batch_size: int = 32


@dataclass(frozen=True)
class Arm:
    """A row of the table.

    Args:
        name: Of the row and of its results.
        note: What it is there for.
        make: From the trained original to the network that is trained on.
        from_scratch: Whether it does without the original's training and has all epochs instead.
        gradual: Whether the original's blocks are blended out during the first half.
    """

    name: str
    note: str
    make: Callable[[nn.Module], nn.Module]
    from_scratch: bool = False
    gradual: bool = False


def resnet(widths: Sequence[int] = WIDTHS) -> ResNet:
    """An 18-layer ResNet of timm for small images.

    Example:
        >>> resnet()(torch.rand(2, *IMAGE)).shape
        torch.Size([2, 10])
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes=10, channels=tuple(widths))


def converted(model: nn.Module, **options: Any) -> nn.Module:
    """The network with cycles in place of the blocks that keep their width."""
    return convert(model, **SMALL_SIZES, **options, input_size=IMAGE)[0]


def blend_out(network: nn.Module, progress: float) -> None:
    """Set how much of the original's blocks is left at a point of the training."""
    set_blend(network, share_at(progress))


class FineTuned:
    """``convert-finetune``: a small ResNet is trained, converted and trained on."""

    name, title = "convert-finetune", "What conversion costs after a short fine-tuning"
    arms = (
        Arm("original", "trained on", lambda model: model),
        Arm(
            "projected",
            "converted, starts from the block diagonals",
            lambda model: converted(model, project=True),
        ),
        Arm(
            "gradual",
            "the same, beside the original's blocks for half of it",
            lambda model: converted(model, project=True, gradual=True),
            gradual=True,
        ),
        Arm("anew", "converted, its cycles start anew", converted),
        Arm("from-scratch", "converted before all training", converted, from_scratch=True),
        Arm("narrow", "dense, as many weights", lambda _: resnet(NARROW), from_scratch=True),
    )
    questions = (
        ("projected", "anew", "does projection help?"),
        ("gradual", "projected", "does a gradual conversion?"),
        ("projected", "original", "what does conversion cost?"),
        ("projected", "narrow", "is it better than a narrower network?"),
        ("from-scratch", "original", "and without the original's training?"),
        ("from-scratch", "narrow", "at equal weights, both from scratch?"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        runs.add_arguments(parser, "runs/convert")
        parser.add_argument("--first", type=int, default=8, help="epochs of the original")
        parser.add_argument("--more", type=int, default=4, help="epochs of what follows")
        parser.add_argument("--num-train", type=int, default=1000, help="images")

    def run(self, options: argparse.Namespace, changes: Mapping[str, Any]) -> Path:
        """Train what is missing and write the page."""
        budget = Budget(options.first, options.more, options.num_train)
        trials = {
            (arm.name, seed): make_trial(arm, budget, seed, options.runs)
            for seed in range(options.seeds)
            for arm in self.arms
        }
        found = runs.finish(trials, options)
        rows = []
        for arm in self.arms:
            own = runs.over_seeds(found, arm.name).values()
            done = [{"start": math.nan} | result for result in own]
            network = arm.make(resnet())
            if arm.gradual:
                set_blend(network, 0.0)
                network = finish(network)
            costs = summary(network, IMAGE).total
            row: Row = {"model": arm.name, "note": arm.note, "weights": costs.weights}
            row |= {"multiply_adds": costs.multiply_adds, "runs": len(done)}
            row |= {"epochs": options.more + options.first * arm.from_scratch}
            rows.append(row | summarize(done, ["start", "score", "seconds"]))
        text = fill(
            "convert-finetune.md",
            rows=rows,
            comparison=self,
            budget=budget,
            sizes=SMALL_SIZES,
            widths=WIDTHS,
            optimizer=OPTIMIZER,
            seeds=options.seeds,
            missing=len(trials) - len(found),
        )
        return write_page(options.docs, self.name, text, rows, {})


def make_trial(arm: Arm, budget: Budget, seed: int, folder: Path) -> Trial:
    """The training of one arm with one seed."""

    def make_network() -> nn.Module:
        model = new_resnet(seed)
        if not arm.from_scratch:
            model.load_state_dict(original(budget, seed, folder).weights())
        return arm.make(model)

    epochs = budget.more + (budget.first if arm.from_scratch else 0)
    course = make_course(budget, epochs)
    return Trial(
        folder / f"{arm.name}-{seed}.json",
        replace(course, before_step=blend_out) if arm.gradual else course,
        make_network,
        make_batches(budget, epochs, seed),
        asdict(budget),
        score_first=not arm.from_scratch,
    )


def original(budget: Budget, seed: int, folder: Path) -> Trial:
    """The first training of the original, which all that follow it share."""
    return Trial(
        folder / "originals" / f"{seed}-{budget.first}-{budget.num_train}.json",
        make_course(budget, budget.first),
        partial(new_resnet, seed),
        make_batches(budget, budget.first, seed),
        {"num_train": budget.num_train, "batch_size": budget.batch_size},
        keep=True,
    )


def new_resnet(seed: int) -> nn.Module:
    """The original before its training."""
    torch.manual_seed(derive_seed(seed, "weights"))
    return resnet()


def make_course(budget: Budget, epochs: int) -> Course:
    """How all of them are trained."""
    steps = max(1, budget.num_train // budget.batch_size)
    return Course(steps, epochs, OPTIMIZER, functional.cross_entropy, digit_batches, percent_right)


def make_batches(budget: Budget, epochs: int, seed: int) -> Callable[[int], Any]:
    """The images of an epoch, the same for all networks that have as many epochs."""

    def batches(epoch: int) -> Any:
        images, classes = digits("train")
        own = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        own = own[: budget.num_train]  # the same images for all
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epochs))
        orders = (torch.randperm(len(own), generator=generator) for _ in itertools.count())
        order = own[next(itertools.islice(orders, epoch, None))]
        return in_batches(order, min(budget.batch_size, len(own)), images, classes)

    return batches
