"""Networks train in mixed precision."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from mgic_geo.graphs import neighbors
from mgic_geo.ops.host import as_on_device
from tests.clouds import NETWORKS, make_network, shorten
from tests.image_networks import KINDS, MODELS, build, make_input
from tests.kernels import kernels_off
from tests.neighbor_clouds import normal
from tests.slow import some

POINTS, CLOUDS = 48, 3


def assert_trains(model: nn.Module, *inputs: object) -> None:
    """A step in bf16 has a finite gradient for every parameter that has one in float32."""
    with torch.autocast("cpu", torch.bfloat16):
        y = model(*inputs)
        target = torch.arange(len(y)) % y.size(1)
        loss = functional.cross_entropy(y, target) if y.dim() == 2 else y.float().square().mean()
    assert y.dtype == torch.bfloat16
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.dtype == parameter.dtype


def make_points(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor, int]:
    batch = torch.arange(CLOUDS).repeat_interleave(POINTS)
    return shorten(make_network(name)), normal(CLOUDS * POINTS, 3), batch, CLOUDS


@pytest.mark.parametrize("name", NETWORKS)
def test_point_networks_train_in_bf16(name):
    assert_trains(*make_points(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_point_networks_train_in_bf16_on_other_devices(name):
    with kernels_off(), as_on_device():
        assert_trains(*make_points(name))


@pytest.mark.parametrize("name", some(MODELS, *KINDS))
def test_image_networks_train_in_bf16(name):
    model = build(name).train()
    assert_trains(model, make_input(model))


def test_distances_of_neighbors_stay_precise():
    x = normal(200, 64) + 10
    expected = neighbors.knn_indices(x, 10)
    with torch.autocast("cpu", torch.bfloat16), as_on_device():
        assert_close(neighbors.knn_indices(x, 10), expected)
