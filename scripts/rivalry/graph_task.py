"""A small graph network on point clouds."""

import functools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from datasets.shapes10 import CLASSES, Shapes10
from mgic_geo import knn_indices
from scripts.rivalry.task import Batch, Block, MakeUnit, Network, Task, percent_wrong
from scripts.rivalry.units import ROWS, WIDTH

POINTS, NEIGHBORS = 64, 8


class Neighborhood(nn.Module):
    """The mean over a node and its neighbors."""

    def forward(self, x: Tensor, neighbors: Tensor) -> Tensor:
        """``(N, width)`` and ``(N, k)``, numbers of nodes, to ``(N, width)``."""
        return (x + x[neighbors].sum(1)) / (1 + neighbors.size(1))


def graph_network(make_unit: MakeUnit) -> nn.Module:
    """Graph convolutions: the mean over the neighbors, then the unit."""
    blocks: list[nn.Module] = [Block(make_unit(), Neighborhood()) for _ in range(2)]
    return Network(
        nn.Linear(3, WIDTH),
        blocks,
        len(CLASSES),
        pool=lambda x: x.unflatten(0, (-1, POINTS)).amax(1),
    )


@functools.cache
def clouds(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Points ``(S, P, 3)``, neighbors within the cloud ``(S, P, k)`` and classes of shapes10."""
    folder = Path("data")
    data = Shapes10(folder, split, num_points=POINTS)
    shapes = [data[row] for row in range(len(data))]
    pos = torch.stack([shape.pos for shape in shapes])
    batch = torch.arange(len(pos)).repeat_interleave(POINTS)
    neighbors = knn_indices(pos.flatten(0, 1), NEIGHBORS, batch).view(len(pos), POINTS, -1)
    neighbors = neighbors - POINTS * torch.arange(len(pos)).view(-1, 1, 1)
    return pos, neighbors, torch.tensor(data.targets)


def _clouds(split: str, rows: Tensor) -> Batch:
    pos, neighbors, classes = clouds(split)
    begins = POINTS * torch.arange(len(rows)).view(-1, 1, 1)
    return pos[rows].flatten(0, 1), (neighbors[rows] + begins).flatten(0, 1), classes[rows]


def graph_batch(generator: torch.Generator) -> Batch:
    """Sixteen clouds."""
    rows = torch.randint(len(clouds("train")[0]), (ROWS // POINTS,), generator=generator)
    return _clouds("train", rows)


def graph_test() -> list[Batch]:
    """The 200 test clouds."""
    return [_clouds("test", rows) for rows in torch.arange(len(clouds("test")[0])).split(50)]


TASK = Task(
    graph_network,
    graph_batch,
    graph_test,
    loss=functional.cross_entropy,
    error=percent_wrong,
    unit="% wrong",
    digits=1,
    about=f"means over neighbors in front of it, on shapes10 with {POINTS} points",
)
