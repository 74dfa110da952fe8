"""A network is compiled for the first sizes it sees, and once more for all others."""

import pytest
import torch
from image_networks import build
from torch._dynamo.testing import CompileCounter

from mgic_geo import DiffGCNConv, GroupedEdgeConv, MGICMessagePassing, create_model
from tests.clouds import shorten

SIZES = (40, 50, 61, 33)


def graph(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, 16), torch.randint(0, size, (2, 5 * size))


def weighted(size: int) -> tuple[torch.Tensor, ...]:
    return *graph(size), torch.randn(5 * size, 3)


def clouds(size: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    return torch.rand(size, 3), torch.arange(size) * 2 // size, 2


def images(size: int) -> tuple[torch.Tensor]:
    return (torch.rand(size // 10, 3, size, size + 3),)


NETWORKS = {
    "cycle": (lambda: MGICMessagePassing(16, 16, GroupedEdgeConv, group_size=4), graph),
    "differential": (lambda: DiffGCNConv(16, 16, groups=2), weighted),
    "mgic_dgcnn": (lambda: shorten(create_model("mgic_dgcnn", width=16, k=3)), clouds),
    "mgic_diffgcn": (lambda: shorten(create_model("mgic_diffgcn", width=16, k=3)), clouds),
    "images": (lambda: build("small"), images),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_new_sizes_are_compiled_once(name):
    torch._dynamo.reset()
    make, inputs = NETWORKS[name]
    counter = CompileCounter()
    compiled = torch.compile(make(), backend=counter)
    for size in SIZES:
        compiled(*inputs(size))
    assert counter.frame_count == 2
