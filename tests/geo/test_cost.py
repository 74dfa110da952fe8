"""Multiply-adds are those of the Cost lines, however the products are computed."""

import pytest
import torch

from mgic_geo import DiffGCNConv, GroupedEdgeConv, edge_gradients, multiply_adds, num_weights

EDGES = torch.tensor([[1, 2, 0], [0, 1, 2]])


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_an_edge_convolution_costs_its_weights_a_node(groups):
    conv = GroupedEdgeConv(64, 64, groups=groups, bias=False)
    assert multiply_adds(conv, torch.ones(3, 64), EDGES) == 3 * num_weights(conv)


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_a_differential_convolution_costs_its_weights_and_derivatives(groups):
    conv = DiffGCNConv(64, 64, groups=groups, bias=False)
    edge_attr = edge_gradients(torch.rand(3, 3), EDGES)
    derivatives = 6 * (3 + 3) * 64  # six operators, edges and a loop at every node
    measured = multiply_adds(conv, torch.ones(3, 64), EDGES, edge_attr)
    assert measured == 3 * num_weights(conv) + derivatives


def test_counting_leaves_the_mode_as_it_was():
    layer = torch.nn.Linear(2, 2).train()
    multiply_adds(layer, torch.ones(1, 2))
    assert layer.training
