"""``additive``: which part of an additive cycle matters, one part changed at a time."""

import argparse
import functools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import Batch as Clouds

from datasets.augment import Augment
from datasets.mesh_dataset import MeshDataset
from datasets.shapes10 import Shapes10
from mgic_geo import (
    GroupedEdgeConv,
    MGICBlock,
    MGICMessagePassing,
    PointCloudClassifier,
    init_transfer_,
    num_weights,
    transfer,
)
from mgic_geo.nn.correction import GraphCorrection
from mgic_geo.nn.message_passing import ConvNormAct
from scripts.experiments import runs
from scripts.experiments.figures import Panel, dot_rows
from scripts.experiments.pages import as_png, fill, write_page
from scripts.experiments.ranges import Row, judge, summarize
from scripts.experiments.trial import Batch, Course, Trial, percent_right
from scripts.training.optimizer import OptimizerSettings
from scripts.training.reliability.seeds import derive_seed

POINTS, BATCH_SIZE, EPOCHS = 128, 16, 30
OPTIMIZER = OptimizerSettings(lr=0.005, weight_decay=0.01, warmup_epochs=1)
SIZES: dict[str, Any] = {"group_size": 8, "coarse_size": 16}

MakeConv = Callable[[int, int], nn.Module]


def additive(in_channels: int, out_channels: int, **sizes: int) -> nn.Module:
    """An additive cycle in place of the maps of an edge convolution, the default."""
    options = SIZES | sizes
    return MGICMessagePassing(
        in_channels, out_channels, GroupedEdgeConv, cycle="additive", **options
    )


def aggregating(in_channels: int, out_channels: int) -> nn.Module:
    """The same with transfers that start as those of a multiplicative cycle."""
    conv = additive(in_channels, out_channels)
    for block in (module for module in conv.modules() if isinstance(module, MGICBlock)):
        for each in (*block.restrict, *block.prolong):
            init_transfer_(each.weight)  # type: ignore[arg-type]
    return conv


def sum_of_convolutions(
    in_channels: int, out_channels: int, *, cycle: str = "additive", bent: bool = False
) -> nn.Module:
    """A convolution on every level, whose results are summed or run one after another.

    Args:
        in_channels: Channels in; below those out, a dense convolution is all there is.
        out_channels: Channels out.
        cycle: How the levels are combined.
        bent: Whether norm and activation follow the coarser ones.
    """
    if in_channels != out_channels:
        return GroupedEdgeConv(in_channels, out_channels)

    def make_layer(level: Any) -> nn.Module:
        conv = GroupedEdgeConv(level.outer, level.outer, groups=level.groups)
        if level.finest or not bent:
            return conv
        return ConvNormAct(conv, nn.BatchNorm1d(level.outer), nn.ReLU())

    return MGICBlock(
        out_channels,
        make_layer,
        partial(transfer, init="normal"),
        **SIZES,
        make_norm=nn.BatchNorm1d if bent else None,
        make_correction=GraphCorrection,
        cycle=cycle,
    )


def paper(in_channels: int, out_channels: int) -> nn.Module:
    """The paper's cycle, with the entry that :class:`MGICMessagePassing` gives it."""
    return MGICMessagePassing(in_channels, out_channels, GroupedEdgeConv, **SIZES)


#: What is tried, by its name in the table: how convolutions are made, and the width.
VARIANTS: dict[str, tuple[MakeConv, int]] = {
    "additive": (additive, 64),
    "coarse_size 8": (partial(additive, coarse_size=8), 64),
    "coarse_size 32": (partial(additive, coarse_size=32), 64),
    "group_size 4": (partial(additive, group_size=4), 64),
    "group_size 16": (partial(additive, group_size=16), 64),
    "transfers that average": (aggregating, 64),
    "a convolution a level, summed": (sum_of_convolutions, 64),
    "the same, norm and ReLU": (partial(sum_of_convolutions, bent=True), 64),
    "a convolution a level, in sequence": (
        partial(sum_of_convolutions, cycle="multiplicative"),
        64,
    ),
    "the paper's cycle": (paper, 64),
    "narrow dense": (GroupedEdgeConv, 48),
    "dense": (GroupedEdgeConv, 64),
}


class Additive:
    """The comparison and its options."""

    name, title = "additive", "Which part of an additive cycle matters"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        runs.add_arguments(parser, "runs/additive")

    def run(self, options: argparse.Namespace, changes: Mapping[str, Any]) -> Path:
        """Train what is missing and write the page."""
        trials = {
            (name, seed): make_trial(name, seed, options.runs)
            for seed in range(options.seeds)
            for name in VARIANTS
        }
        found = runs.finish(trials, options)
        rows: list[Row] = []
        for name in VARIANTS:
            results = list(runs.over_seeds(found, name).values())
            scores = [{"accuracy": run["score"], "loss": run["loss"]} for run in results]
            row: Row = {"model": name, "note": "control" if "dense" in name else "MGIC"}
            row |= {"weights": num_weights(make_network(name))}
            rows.append(row | {"runs": len(results)} | summarize(scores, ["accuracy", "loss"]))
        for row in rows:
            known = row["runs"] and rows[0]["runs"]
            row["verdict"] = judge(row, rows[0], "accuracy") if known else "open"
        text = fill(
            "additive.md",
            rows=rows,
            options=options,
            points=POINTS,
            epochs=EPOCHS,
            batch_size=BATCH_SIZE,
            optimizer=OPTIMIZER,
            missing=len(trials) - len(found),
            minutes=sum(run["seconds"] for run in found.values()) / 60,
        )
        return write_page(
            options.docs,
            self.name,
            text,
            rows,
            {"": as_png(dot_rows, [Panel("test and test-hard", rows, "accuracy", "accuracy, %")])},
        )


def make_network(name: str) -> nn.Module:
    """Build a network of :data:`VARIANTS`."""
    make_conv, width = VARIANTS[name]
    return PointCloudClassifier(make_conv, 10, graph="dynamic", width=width)


def make_trial(name: str, seed: int, folder: Path) -> Trial:
    """The training of one network; its batches are those of the same seed of every other."""

    def make() -> nn.Module:
        torch.manual_seed(derive_seed(seed, "weights"))
        return make_network(name)

    def batches(epoch: int) -> Iterable[Batch]:
        data = _open("train")
        place = derive_seed(seed, "order", epoch)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(place))
        for rows in order[: len(data) // BATCH_SIZE * BATCH_SIZE].split(BATCH_SIZE):
            yield _join([data[1000 * seed + epoch, int(row)] for row in rows])

    steps = len(_open("train")) // BATCH_SIZE
    loss = partial(functional.cross_entropy, label_smoothing=0.1)
    course = Course(steps, EPOCHS, OPTIMIZER, loss, _tests, percent_right)
    settings = {"variant": name, "points": POINTS, "weights": num_weights(make())}
    file = "".join(letter if letter.isalnum() else "_" for letter in name)
    return Trial(folder / f"{file}-{seed}.json", course, make, batches, settings)


@functools.cache
def _open(split: str) -> MeshDataset:
    augment = Augment(rotate_z=180.0, scale=(0.8, 1.25), jitter=0.01) if split == "train" else None
    return Shapes10("data/shapes10", split, num_points=POINTS, augment=augment)


@functools.cache
def _tests() -> list[Batch]:
    samples = [_open(split)[row] for split in ("test", "test-hard") for row in range(200)]
    return [_join(samples[start : start + 40]) for start in range(0, len(samples), 40)]


def _join(samples: list[Any]) -> tuple[Tensor, ...]:
    clouds: Any = Clouds.from_data_list(samples)
    return clouds.pos, clouds.batch, clouds.y
