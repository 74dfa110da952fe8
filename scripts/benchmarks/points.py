"""Point clouds: a training step of the networks of Table 10, ours and as PyG users write them.

A step is like one of ``scripts.train_modelnet10``: furniture of shapes10, other shapes in every
step, and AdamW at its rate, without its schedule and decay. What a search for neighbors costs
depends on the features: on one batch again and again, which a network soon knows by heart,
torch-cluster's gets cheaper from step to step.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from datasets.shapes10_parts import Shapes10Parts
from mgic_geo import create_model
from scripts.benchmarks import pyg_baselines
from scripts.benchmarks.timing import ADAMW, Batch, Pair, Suite, inference, training_step

SUMMARY = "networks of Table 10 on point clouds, beside the same from PyG's layers"
NUM_CLASSES = 10
STEPS = 48  # until the first batch comes again

PYG_DYNAMIC = "PyG dgcnn, dynamic"
PYG_STATIC = "PyG dgcnn, static"
EDGE_GRAPH = "authors' diffgcn, static"
DGCNN = "dgcnn, dynamic"
MGIC_DIFFGCN = "mgic_diffgcn, static"

MODELS: dict[str, Callable[[], nn.Module]] = {
    PYG_DYNAMIC: partial(pyg_baselines.pyg_dgcnn, dynamic=True),
    PYG_STATIC: partial(pyg_baselines.pyg_dgcnn, dynamic=False),
    EDGE_GRAPH: pyg_baselines.edge_graph_diffgcn,
    DGCNN: partial(create_model, "dgcnn", NUM_CLASSES),
    "dgcnn, static": partial(create_model, "dgcnn", NUM_CLASSES, graph="static"),
    "mgic_dgcnn, dynamic": partial(create_model, "mgic_dgcnn", NUM_CLASSES),
    "diffgcn, static": partial(create_model, "diffgcn", NUM_CLASSES),
    MGIC_DIFFGCN: partial(create_model, "mgic_diffgcn", NUM_CLASSES),
}
PAIRS = (
    Pair(PYG_DYNAMIC, DGCNN),
    Pair(PYG_DYNAMIC, MGIC_DIFFGCN),
    Pair(PYG_STATIC, MGIC_DIFFGCN),
    Pair(EDGE_GRAPH, MGIC_DIFFGCN),
)
NO_TORCH_CLUSTER = (
    "torch-cluster is not installed: PyG's networks and the authors' find neighbors by torch.cdist "
    "and topk instead, cloud by cloud; `make cluster` installs it"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark alone."""
    parser.add_argument("--clouds", type=int, default=16, help="clouds in a batch")
    parser.add_argument("--points", type=int, default=1024, help="points in a cloud")
    parser.add_argument("--inference", action="store_true", help="time the forward pass only")


def make_suites(arguments: argparse.Namespace) -> Iterator[Suite]:
    """Build every network anew and what is timed of it."""
    if arguments.clouds < 2 or arguments.points < 2:
        raise ValueError(
            "--clouds and --points must be at least 2, "
            f"got {arguments.clouds} and {arguments.points}"
        )
    batches = make_batches(arguments.clouds, arguments.points, 1 if arguments.inference else STEPS)
    contenders = {}
    for name, make_model in MODELS.items():
        torch.manual_seed(0)
        model = make_model()
        if arguments.inference:
            contenders[name] = inference(model, batches[0][0])
        else:
            contenders[name] = training_step(model, batches, ADAMW)
    work = "inference" if arguments.inference else "training step"
    yield Suite(
        title=f"{work}, {arguments.clouds} clouds of {arguments.points} points, k = 10, float32",
        contenders=contenders,
        pairs=PAIRS,
        notes=() if pyg_baselines.HAS_TORCH_CLUSTER else (NO_TORCH_CLUSTER,),
    )


def make_batches(clouds: int, points: int, count: int) -> list[Batch]:
    """Batches of generated furniture in any order: points, their clouds, how many, and the classes.

    Shape:
        - ``(N, 3)``, ``(N,)`` and ``clouds``; ``(clouds,)``.
    """
    shapes = Shapes10Parts("train", num_points=points, num_shapes=-(-clouds * count // NUM_CLASSES))
    order = torch.randperm(len(shapes), generator=torch.Generator().manual_seed(0)).tolist()
    batch = torch.arange(clouds).repeat_interleave(points)
    batches: list[Batch] = []
    for begin in range(0, clouds * count, clouds):
        drawn = [shapes[index] for index in order[begin : begin + clouds]]
        pos, label = (torch.cat([shape[key] for shape in drawn]) for key in ("pos", "y"))
        batches.append(((pos, batch, clouds), label))
    return batches
