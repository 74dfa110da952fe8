"""The deployed form of graph networks and of networks on vectors equals the trained one."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.testing import assert_close
from torch_geometric.nn import GCNConv

from mgic_geo import (
    MGICGNN,
    MGICMLP,
    MGICMessagePassing,
    create_model,
    fuse,
    list_models,
)
from mgic_geo.ops.grouped_linear import Packing, _kept
from tests.image_networks import assert_equal, norms, shift_norms
from tests.kernels import needs_compiler

BATCH = torch.arange(3).repeat_interleave(14)
POINTS = torch.rand(42, 3, generator=torch.Generator().manual_seed(0)), BATCH


def trained(model: nn.Module, *inputs) -> nn.Module:
    """After a few steps, and with scales and shifts of both signs."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model(*inputs).square().mean().backward()
        optimizer.step()
    return shift_norms(model)


@needs_compiler
def test_weights_of_a_fused_network_stay_packed_until_they_change(monkeypatch):
    model, other = (create_model("mgic_diffgcn", k=4, width=16).eval() for _ in range(2))
    fused, packed = fuse(model), []
    lay_out = Packing.lay_out
    monkeypatch.setattr(Packing, "lay_out", lambda *args: packed.append(args) or lay_out(*args))
    with torch.inference_mode():
        first = fused(*POINTS)
        count = len(packed)
        assert_close(fused(*POINTS), first, rtol=0, atol=0)
    assert len(packed) == count > 0
    fused.load_state_dict(fuse(other).state_dict())
    assert_close(fused(*POINTS), other(*POINTS), rtol=1e-4, atol=1e-4)
    assert len(packed) > count
    for parameter in fused.parameters():  # others in their place
        parameter.data = torch.zeros_like(parameter)
    assert_close(fused(*POINTS), torch.zeros(3, 10))
    assert_close(copy.deepcopy(fused)(*POINTS), torch.zeros(3, 10))
    count = len(packed)
    model(*POINTS)
    assert len(packed) == count  # one that may be trained on is packed by its products


@needs_compiler
def test_a_fused_network_that_is_gone_leaves_nothing_packed():
    gc.collect()
    before = len(_kept)
    fused = fuse(create_model("mgic_diffgcn", k=4, width=16).eval())
    fused(*POINTS)
    assert len(_kept) > before
    del fused
    gc.collect()
    assert len(_kept) == before


def assert_fuses(model: nn.Module, *inputs) -> nn.Module:
    before = copy.deepcopy(model.state_dict())
    fused = fuse(model)
    assert model.training
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    with torch.no_grad():
        y, expected = fused(*inputs), copy.deepcopy(model).eval()(*inputs)
    assert_equal(y, expected)
    assert_close(fused(*inputs), y, rtol=0, atol=0)  # where gradients may be recorded
    return fused


@pytest.mark.parametrize("name", list_models())
def test_fused_point_cloud_network_equals_the_trained_one(name):
    torch.manual_seed(0)
    model = trained(create_model(name, 4, width=32, k=5), *POINTS)
    fused = assert_fuses(model, *POINTS)
    # what stays: a norm behind every edge convolution
    kept = {"mgic_dgcnn": 6 * (1 + 2) + 1, "dgcnn": 6, "random_graph": 6}
    kept |= {"dgcnn_cls": 4, "mgic_dgcnn_cls": 2 * (1 + 2) + (1 + 3) + (1 + 4) + 1}  # to 128
    assert len(norms(fused)) == kept.get(name, 0)


def test_points_without_neighbors_are_fused_right():
    torch.manual_seed(0)
    model = trained(create_model("dgcnn", 4, width=8), torch.rand(20, 3), torch.arange(20) % 4)
    assert_fuses(model, torch.rand(3, 3), torch.arange(3))


def test_fused_perceptron_equals_the_trained_one_and_has_no_norms():
    torch.manual_seed(0)
    x = torch.randn(30, 12)
    fused = assert_fuses(trained(MGICMLP(12, 64, 2, 3), x), x)
    assert norms(fused) == []


def test_convolutions_that_take_no_norm_keep_it():
    torch.manual_seed(0)
    inputs = torch.randn(6, 32), torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]])
    fused = assert_fuses(trained(MGICMessagePassing(32, 32, GCNConv), *inputs), *inputs)
    assert len(norms(fused)) == 2  # of the coarser levels; those of the prolongations are gone
    options = {"num_layers": 2, "conv": GCNConv, "norm": "batch_norm"}
    assert_fuses(trained(MGICGNN(32, 32, **options), *inputs), *inputs)


@pytest.mark.slow
def test_fused_network_is_one_graph():
    torch.compiler.reset()
    fused = fuse(create_model("mgic_diffgcn", 4, width=16, k=4, layers=1))
    compiled = torch.compile(fused, backend="eager", fullgraph=True)
    assert_close(compiled(*POINTS, 3), fused(*POINTS, 3))


def test_a_pruned_weight_stays_as_it_is():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).train()
    model(2 * torch.randn(32, 8) + 1)
    prune.random_unstructured(model[0], "weight", 0.5)
    x = torch.randn(4, 8)
    assert_close(fuse(model)(x), model.eval()(x))
