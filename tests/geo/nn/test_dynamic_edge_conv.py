"""The dynamic edge convolution is an edge convolution over the graph of its input."""

import pytest
from torch import nn
from torch.testing import assert_close
from torch_geometric.nn import EdgeConv

from mgic_geo.graphs import knn, knn_graph
from mgic_geo.nn.dynamic_edge_conv import DynamicEdgeConv
from tests.neighbor_clouds import normal, ragged_batch


@pytest.mark.parametrize("aggr", ["max", "sum", "mean"])
def test_it_is_an_edge_convolution_over_a_graph_with_loops(aggr):
    x, batch = ragged_batch()
    inner = nn.Linear(6, 5)
    graph = knn_graph(x, 4, batch, loop=True).as_tensor()
    conv, fixed = DynamicEdgeConv(inner, 4, aggr), EdgeConv(inner, aggr)
    assert_close(conv(x, batch), fixed(x, graph))


def test_sources_may_be_other_points():
    x, y, inner = normal(30, 3), normal(20, 3, seed=1), nn.Linear(6, 5)
    conv, fixed = DynamicEdgeConv(inner, 3), EdgeConv(inner)
    assert_close(conv((x, y)), fixed((x, y), knn(x, y, 3).flip(0)))


def test_every_weight_gets_a_gradient_and_the_state_is_that_of_pyg():
    conv = DynamicEdgeConv(nn.Linear(6, 5), 4)
    x = normal(20, 3).requires_grad_()
    conv(x).square().sum().backward()
    assert all(each.grad is not None for each in (x, *conv.parameters()))
    assert conv.state_dict().keys() == EdgeConv(nn.Linear(6, 5)).state_dict().keys()


def test_it_says_what_it_is():
    assert repr(DynamicEdgeConv(nn.ReLU(), 4)) == "DynamicEdgeConv(nn=ReLU(), k=4)"
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        DynamicEdgeConv(nn.ReLU(), 0)
