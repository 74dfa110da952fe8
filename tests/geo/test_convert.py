import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch.testing import assert_close

from mgic_geo import MGICMessagePassing, convert, num_weights

EDGES = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
MODELS = {
    "GCN": lambda: pyg.GCN(8, 32, 3, out_channels=4),
    "GraphSAGE": lambda: pyg.GraphSAGE(8, 32, 3, out_channels=4, bias=False),
    "GIN": lambda: pyg.GIN(8, 32, 3, out_channels=4, train_eps=True),
    "GAT": lambda: pyg.GAT(8, 32, 3, out_channels=4, heads=2),
    "GATv2": lambda: pyg.GAT(8, 32, 3, out_channels=4, v2=True, edge_dim=3),
}


@pytest.mark.parametrize("name", MODELS)
def test_convolutions_of_equal_width_become_cycles_around_the_same(name):
    model = MODELS[name]()
    new, report = convert(model, group_size=8)
    assert [row.name for row in report.changed] == ["convs.1"]
    cycle, old = new.convs[1], model.convs[1]
    assert isinstance(cycle, MGICMessagePassing)
    coarsest = cycle.block.layers[-1].conv
    assert type(coarsest) is type(old)
    assert [row.before for row in report.changed] == [num_weights(old)]
    assert report.weights_after == num_weights(new)
    x, more = torch.randn(5, 8), {}
    if name == "GATv2":
        more = {"edge_attr": torch.randn(6, 3)}
    assert new(x, EDGES, **more).shape == model(x, EDGES, **more).shape == (5, 4)
    new(x, EDGES, **more).square().sum().backward()
    assert all(parameter.grad is not None for parameter in cycle.parameters())


def test_wrapped_model_is_refused_by_name():
    wrapped = nn.DataParallel(MODELS["GCN"]())
    with pytest.raises(ValueError, match=r"model is wrapped in DataParallel: .* model\.module"):
        convert(wrapped, group_size=8)


def test_options_are_those_of_the_convolution():
    conv = pyg.GATConv(32, 8, heads=4, negative_slope=0.4, dropout=0.3, add_self_loops=False)
    new, _ = convert(conv, group_size=16)
    coarsest = new.block.layers[-1].conv
    assert coarsest.negative_slope == 0.4
    assert coarsest.dropout == 0.3
    assert not coarsest.add_self_loops
    assert coarsest.heads == 4
    gcn, _ = convert(pyg.GCNConv(32, 32, improved=True, bias=False), group_size=16)
    assert gcn.block.layers[-1].conv.improved
    assert gcn.block.layers[-1].conv.bias is None
    gin, _ = convert(pyg.GINConv(pyg.MLP([32, 64, 32]), eps=0.5, train_eps=True), group_size=16)
    assert gin.block.layers[-1].conv.initial_eps == 0.5
    assert gin.block.layers[-1].conv.nn.channel_list == [16, 32, 16]


def test_one_level_has_the_value_of_the_convolution():
    model = pyg.GCN(8, 32, 3, out_channels=4).eval()
    new, _ = convert(model, group_size=32, coarse_size=16)
    finest = new.convs[1].block.layers[0]
    finest.load_state_dict(model.convs[1].state_dict())
    with torch.no_grad():
        for norm in new.eval().convs[1].block.norms:
            norm.module.weight.zero_()
    x = torch.randn(5, 8)
    assert_close(new(x, EDGES), model(x, EDGES))


class Own(nn.Module):
    """A user's network, with a convolution of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Doubled(32, 32, 3.0), pyg.GraphConv(32, 32, aggr="max")

    def forward(self, x, edge_index):
        return self.second(self.first(x, edge_index).relu(), edge_index)


class Doubled(pyg.GCNConv):
    """Keeps its own option under another name than its constructor's."""

    def __init__(self, in_channels, out_channels, factor):
        super().__init__(in_channels, out_channels)
        self.by = factor

    def forward(self, x, edge_index):
        return self.by * super().forward(x, edge_index)


def test_users_modules_are_rewritten_and_what_cannot_be_read_is_left_or_given():
    model = Own().double().eval()
    new, report = convert(model, group_size=8)
    assert [row.name for row in report.changed] == ["second"]
    assert new.second.block.layers[-1].conv.aggr == "max"
    assert "give `factories`" in report.left[0].reason
    new, report = convert(model, group_size=8, factories={Doubled: lambda i, o: Doubled(i, o, 3.0)})
    assert len(report.changed) == 2
    assert {p.dtype for p in new.parameters()} == {torch.float64}
    assert not any(module.training for module in new.modules())
    assert new(torch.randn(5, 32, dtype=torch.float64), EDGES).shape == (5, 32)


def test_reasons_are_said():
    model = pyg.GCN(32, 32, 2, out_channels=4)
    reasons = {row.name: row.reason for row in convert(model, group_size=8)[1].left}
    assert reasons == {"convs.1": "changes the width from 32 to 4"}
    _, report = convert(model, group_size=8, min_width=64)
    assert report.left[0].reason == "32 channels, below min_width 64"
    _, report = convert(model, group_size=8, exclude=["convs.0"])
    assert report.left[0].reason == "in `exclude`"
    lazy = pyg.GCN(-1, 32, 1)
    with pytest.raises(ValueError, match="run it once before"):
        convert(lazy, group_size=8)
    lazy(torch.randn(5, 32), EDGES)
    _, report = convert(lazy, group_size=8)
    assert report.left[0].reason.startswith("was made without a width")
    _, report = convert(pyg.GATConv(32, 4, heads=8), group_size=4)
    assert report.left[0].reason == "4 channels of a group cannot be shared by 8 heads"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": ["conv"]}, r"no known block fits 'conv'; there are convs\.0, convs\.1"),
        ({"group_size": 0}, "group_size must be at least 1, got 0"),
        ({"coarse_size": 0}, "coarse_size must be at least 1, got 0"),
        ({"min_width": 0}, "min_width must be at least 1, got 0"),
        ({"norm": "no_norm"}, "no_norm"),
        ({"cycle": "v"}, "cycle must be one of multiplicative, additive, got 'v'"),
    ],
)
def test_what_cannot_be_done_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        convert(pyg.GCN(8, 32, 2), **({"group_size": 8} | options))


def test_model_without_convolutions_is_refused():
    with pytest.raises(ValueError, match="MLP has no block that is known here"):
        convert(pyg.MLP([4, 4]), group_size=8)


def test_a_convolution_that_keeps_features_is_left():
    model = nn.Sequential(pyg.SGConv(64, 64, cached=True))
    _, report = convert(model, group_size=16)
    assert "take cached=False" in str(report)
