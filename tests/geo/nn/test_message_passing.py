"""MGICMessagePassing with PyG's convolutions and our own, in all that PyG does with layers."""

import copy
import functools

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch.testing import assert_close
from torch_geometric.data import HeteroData

from mgic_geo import (
    DiffGCNConv,
    GroupedEdgeConv,
    MGICMessagePassing,
    edge_gradients,
)
from mgic_geo.nn.grouped_conv import LoopConv, VmapConv, WideConv
from tests.graphs import CONVS, EDGES, NODES

X = torch.randn(NODES, 32, generator=torch.Generator().manual_seed(1))
TAKE_PAIRS = [conv for conv in CONVS.values() if conv is not pyg.GCNConv]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def channels_seen(layer: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
    """(out, in): whether an output channel, of all nodes, depends on an input channel of some."""
    layer = layer.double().eval()
    x, *rest = inputs
    for module in layer.modules():  # a fresh norm after P passes on what R and P carry
        if isinstance(module, nn.ReLU):
            module.forward = lambda z: torch.nn.functional.softplus(z)  # no dead channels
    jacobian = torch.autograd.functional.jacobian(lambda z: layer(z, *rest).sum(0), x.double())
    return jacobian.abs().sum(1) > 0


@pytest.mark.parametrize("conv", CONVS.values())
def test_every_output_channel_sees_every_input_channel(conv):
    assert channels_seen(MGICMessagePassing(32, 32, conv), X, EDGES).all()


@pytest.mark.parametrize("conv", TAKE_PAIRS)
def test_bipartite_input_gives_a_row_a_target(conv):
    x = torch.randn(7, 16), torch.randn(5, 24)
    edge_index = torch.tensor([[0, 6, 3, 2], [0, 0, 4, 1]])
    layer = MGICMessagePassing((16, 24), 32, conv)
    out = layer(x, edge_index)
    assert out.shape == (5, 32)
    out.square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_sources_equal_to_targets_make_bipartite_equal_to_plain():
    layer = MGICMessagePassing(32, 32, pyg.SAGEConv, min_levels=0, coarse_size=32).eval()
    assert_close(layer((X, X), EDGES), layer(X, EDGES))


@pytest.mark.parametrize("width", [8, 16, 32, 40])
def test_a_lazy_layer_takes_its_width_from_the_first_input(width):
    lazy = MGICMessagePassing(-1, 32, pyg.SAGEConv)
    copied = copy.deepcopy(lazy)
    copied.reset_parameters()
    assert lazy(torch.randn(12, width), EDGES).shape == (12, 32)
    eager = MGICMessagePassing(width, 32, pyg.SAGEConv)
    assert {k: v.shape for k, v in lazy.state_dict().items()} == {
        k: v.shape for k, v in eager.state_dict().items()
    }
    copied.load_state_dict(eager.state_dict())
    x = torch.randn(12, width)
    assert_close(copied.eval()(x, EDGES), eager.eval()(x, EDGES))


def test_a_lazy_layer_can_be_saved_and_loaded_before_its_first_input():
    lazy = MGICMessagePassing(-1, 32, pyg.SAGEConv)
    other = MGICMessagePassing(-1, 32, pyg.SAGEConv)
    other.load_state_dict(lazy.state_dict())
    x, edge_index = torch.randn(3, 8), torch.tensor([[0], [1]])
    assert other(x, edge_index).shape == (3, 32)


def test_num_hops_is_how_far_an_output_sees():
    path = torch.stack([torch.arange(9), torch.arange(1, 10)])  # 0 -> 1 -> ... -> 9
    for widths, group_size in ((32, 32), 8), ((32, 32), 16), ((3, 32), 8), ((16, 32), 8):
        layer = MGICMessagePassing(*widths, pyg.SAGEConv, group_size=group_size).double().eval()
        x = torch.randn(10, widths[0], dtype=torch.double)
        jacobian = torch.autograd.functional.jacobian(lambda z, f=layer: f(z, path)[-1], x)
        reached = jacobian.abs().sum(dim=(0, 2)).nonzero().min()
        assert 9 - int(reached) == layer.num_hops


def test_edge_weights_reach_every_level():
    weight, layer, seen = torch.rand(EDGES.size(1)), MGICMessagePassing(32, 32, pyg.GCNConv), []
    for part in layer.block.layers:
        part.register_forward_hook(lambda *call: seen.append(call[2]), with_kwargs=True)
    layer(X, EDGES, edge_weight=weight)
    assert len(seen) == len(layer.levels) == 3
    assert all(kwargs["edge_weight"] is weight for kwargs in seen)


def test_diff_gcn_takes_its_edge_gradients():
    edge_attr = edge_gradients(torch.rand(12, 3), EDGES)
    layer = MGICMessagePassing(32, 32, DiffGCNConv).eval()
    expected = layer(X, EDGES, edge_attr)
    order = torch.randperm(EDGES.size(1))
    assert_close(layer(X, EDGES[:, order], edge_attr=edge_attr[order]), expected)


@pytest.mark.parametrize(
    ("strategy", "form"),
    [("auto", WideConv), ("wide", WideConv), ("vmap", VmapConv), ("loop", LoopConv)],
)
def test_the_strategy_decides_how_the_grouped_levels_run(strategy, form):
    layer = MGICMessagePassing(32, 32, pyg.SAGEConv, strategy=strategy, normalize=False)
    finest, middle, coarsest = layer.block.layers
    assert type(finest) is type(middle.conv) is form
    assert type(coarsest.conv) is pyg.SAGEConv
    assert layer(X, EDGES).shape == (12, 32)


def test_the_strategy_is_not_passed_to_the_convolution():
    def conv(in_channels, out_channels, **kwargs):
        assert kwargs == {"aggr": "max"}
        return pyg.SAGEConv(in_channels, out_channels, **kwargs)

    MGICMessagePassing(3, 32, conv, strategy="vmap", aggr="max")


def test_an_unknown_strategy_is_refused_before_anything_is_built():
    def conv(in_channels, out_channels):
        raise AssertionError("built")

    with pytest.raises(ValueError, match=r"strategy must be one of \['auto', .* got 'fast'"):
        MGICMessagePassing(32, 32, conv, strategy="fast")


@pytest.mark.parametrize("conv", [pyg.SGConv, functools.partial(pyg.SSGConv, alpha=0.1)])
def test_cached_features_are_refused_as_coarse_weights_would_stop_counting(conv):
    with pytest.raises(ValueError, match=r"SS?GConv keeps features .* take cached=False"):
        MGICMessagePassing(32, 32, conv, cached=True)
    assert_coarse_weights_count(MGICMessagePassing(32, 32, conv))


def test_a_cached_graph_leaves_coarse_weights_counting():
    assert_coarse_weights_count(MGICMessagePassing(32, 32, pyg.GCNConv, cached=True))


def assert_coarse_weights_count(layer):
    layer = layer.eval()
    for norm in layer.block.norms:
        nn.init.constant_(norm.module.weight, 1.0)
    before = layer(X, EDGES)
    with torch.no_grad():
        for parameter in layer.block.layers[-1].parameters():
            parameter.add_(0.5)
    assert (layer(X, EDGES) != before).any()


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = MGICMessagePassing((-1, -1), 32, pyg.SAGEConv)
        self.second = MGICMessagePassing((-1, -1), 16, pyg.SAGEConv)

    def forward(self, x, edge_index):
        return self.second(self.first(x, edge_index).relu(), edge_index)


def test_to_hetero_gives_every_edge_type_its_own_lazy_layer():
    data = HeteroData()
    data["paper"].x, data["author"].x = torch.randn(6, 24), torch.randn(4, 10)
    data["author", "writes", "paper"].edge_index = torch.tensor([[0, 1, 3, 3], [0, 5, 2, 1]])
    data["paper", "of", "author"].edge_index = torch.tensor([[0, 5, 2, 1], [0, 1, 3, 3]])
    data["paper", "cites", "paper"].edge_index = torch.tensor([[0, 1], [2, 3]])
    model = pyg.to_hetero(TwoLayers(), data.metadata())
    out = model(data.x_dict, data.edge_index_dict)
    assert out["paper"].shape == (6, 16)
    assert out["author"].shape == (4, 16)
    restrict = model.first["author__writes__paper"].block.restrict[0].weight
    other = model.first["paper__of__author"].block.restrict[0].weight
    assert (restrict - other).abs().max() > 0  # drawn for each type,
    assert_close(restrict.sum(-1), torch.ones_like(restrict.sum(-1)))  # by the same rule


def test_a_lone_node_stays_finite_while_training():
    layer = MGICMessagePassing(32, 32, GroupedEdgeConv)
    assert layer(torch.randn(1, 32), torch.empty(2, 0, dtype=torch.long)).isfinite().all()


def test_weights_grow_linearly_with_the_width():
    def weights(width: int) -> int:
        return sum(p.numel() for p in MGICMessagePassing(width, width, pyg.SAGEConv).parameters())

    assert weights(512) / weights(256) < 2.1
    assert weights(512) < sum(p.numel() for p in pyg.SAGEConv(512, 512).parameters()) / 10


def test_the_first_layer_on_coordinates_is_dense():
    layer = MGICMessagePassing(3, 32, GroupedEdgeConv)
    assert isinstance(layer.entry.conv, GroupedEdgeConv)
    assert layer.entry.conv.groups == 1


def test_the_representation_names_widths_groups_and_convolution():
    text = repr(MGICMessagePassing(32, 32, pyg.SAGEConv))
    assert "MGICMessagePassing(32, 32, channels/groups=32/4 > 16/2 > 8/1" in text
    assert "SAGEConv" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1"),
        ({"in_channels": (4, 4, 4)}, "a pair"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
        ({"group_size": 0}, "group_size must be at least 1, got 0"),
        ({"coarse_size": 0}, "coarse_size must be at least 1, got 0"),
        ({"strategy": "wide", "normalize": True}, "'wide' would mix the groups of SAGEConv"),
    ],
)
def test_options_that_cannot_be_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MGICMessagePassing(
            **{"in_channels": 32, "out_channels": 32, "conv": pyg.SAGEConv, **arguments}
        )


@pytest.mark.parametrize(
    ("in_channels", "target", "message"),
    [(8, None, r"got \(x_source, None\)"), (-1, torch.ones(2, 4), "in_channels as a pair")],
)
def test_targets_that_do_not_fit_are_refused_with_advice(in_channels, target, message):
    layer = MGICMessagePassing(in_channels, 32, pyg.SAGEConv)
    with pytest.raises(ValueError, match=message):
        layer((torch.ones(3, 8), target), torch.tensor([[0], [1]]))
