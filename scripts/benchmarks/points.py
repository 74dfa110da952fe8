"""Point clouds: a training step of the networks of Table 10, ours and as PyG users write them."""

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from mgic_geo import create_model
from scripts.benchmarks import pyg_baselines
from scripts.benchmarks.timing import Contender, Pair, Suite, inference, training_step

SUMMARY = "networks of Table 10 on point clouds, beside the same from PyG's layers"
NUM_CLASSES = 10

PYG_DYNAMIC = "PyG dgcnn, dynamic"
PYG_STATIC = "PyG dgcnn, static"
EDGE_GRAPH = "authors' diffgcn, static"
DGCNN = "dgcnn, dynamic"
MGIC_DIFFGCN = "mgic_diffgcn, static"

MODELS: dict[str, Callable[..., nn.Module]] = {
    PYG_DYNAMIC: lambda **options: pyg_baselines.pyg_dgcnn(NUM_CLASSES, dynamic=True, **options),
    PYG_STATIC: lambda **options: pyg_baselines.pyg_dgcnn(NUM_CLASSES, dynamic=False, **options),
    EDGE_GRAPH: lambda **options: pyg_baselines.edge_graph_diffgcn(NUM_CLASSES, **options),
    DGCNN: lambda **options: create_model("dgcnn", NUM_CLASSES, **options),
    "dgcnn, static": lambda **options: create_model(
        "dgcnn", NUM_CLASSES, graph="static", **options
    ),
    "mgic_dgcnn, dynamic": lambda **options: create_model("mgic_dgcnn", NUM_CLASSES, **options),
    "diffgcn, static": lambda **options: create_model("diffgcn", NUM_CLASSES, **options),
    MGIC_DIFFGCN: lambda **options: create_model("mgic_diffgcn", NUM_CLASSES, **options),
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
    pos, batch, label = make_clouds(arguments.clouds, arguments.points)
    make_run = inference if arguments.inference else training_step
    inputs = (pos, batch, arguments.clouds)
    contenders = []
    for name, make_model in MODELS.items():
        torch.manual_seed(0)
        contenders.append(Contender(name, make_run(make_model(), inputs, label)))
    work = "inference" if arguments.inference else "training step"
    yield Suite(
        title=f"{work}, {arguments.clouds} clouds of {arguments.points} points, k = 10, float32",
        contenders=contenders,
        pairs=PAIRS,
        notes=() if pyg_baselines.HAS_TORCH_CLUSTER else (NO_TORCH_CLUSTER,),
    )


def make_clouds(clouds: int, points: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random points on the surfaces of random ellipsoids, their clouds and random labels.

    Shape:
        - Returns ``(N, 3)``, ``(N,)`` and ``(clouds,)``.
    """
    generator = torch.Generator().manual_seed(0)
    pos = torch.randn(clouds, points, 3, generator=generator)
    pos = pos / pos.norm(dim=2, keepdim=True)
    pos = pos * (0.3 + 0.7 * torch.rand(clouds, 1, 3, generator=generator))
    label = torch.randint(NUM_CLASSES, (clouds,), generator=generator)
    return pos.view(-1, 3), torch.arange(clouds).repeat_interleave(points), label
