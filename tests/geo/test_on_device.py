"""What other devices run, on a processor, against what the processor runs."""

from itertools import product

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mgic_geo import create_segmenter, knn_graph, knn_indices
from mgic_geo.graphs.adjacency import from_neighbors, neighbor_max, to_adjacency
from mgic_geo.graphs.derivatives import derivative_operators, edge_gradients
from mgic_geo.graphs.neighbors import cloud_table
from mgic_geo.graphs.table import NeighborTable, derivative_table
from mgic_geo.nn.norm_act import norm_act
from mgic_geo.ops import knn_batched
from mgic_geo.ops.grouped_linear import grouped_linear
from mgic_geo.ops.host import as_on_device
from tests.clouds import NETWORKS, make_network, outputs_and_gradients
from tests.neighbor_clouds import CLOUDS, PRODUCT, integers, normal, oracle, ragged_batch

MISSING = torch.tensor([[1, 2], [0, -1], [-1, -1], [0, 1]])


pytestmark = pytest.mark.usefixtures("plain")


# Neighbors


@pytest.mark.parametrize(
    ("name", "k"), [*product(CLOUDS, (1, 10)), *product(["dim 3"], (20, 199, 300))]
)
def test_order_is_by_distance_then_index(name, k):
    x = CLOUDS[name]()
    with as_on_device():
        found = knn_indices(x, k)
    assert_close(found, oracle(x, k))


@pytest.mark.parametrize("sizes", [None, (12, PRODUCT), (20, 300)])
def test_clouds_of_unequal_sizes_are_searched_together(sizes):
    x, batch = ragged_batch()
    with as_on_device():
        table = None if sizes is None else cloud_table(batch, *sizes)
        found = knn_indices(x, 6, batch, clouds=table)
    assert_close(found, oracle(x, 6, batch))


def test_places_that_are_left_do_not_move_the_center_of_a_cloud():
    batch = torch.arange(2).repeat_interleave(torch.tensor([90, 250]))
    x = normal(340, 16) + 1000
    with as_on_device():
        found = knn_indices(x, 6, batch)
    assert_close(found, oracle(x, 6, batch))


def test_rows_in_doubt_are_decided_over_their_whole_cloud(monkeypatch):
    x = CLOUDS["binary features"]()
    with as_on_device():
        assert_close(knn_indices(x, 20), oracle(x, 20))
        monkeypatch.setattr(knn_batched._Product, "reach", lambda self, distances: distances * 0)
        assert (knn_indices(x, 20) != oracle(x, 20)).any()


def test_a_graph_of_neighbors_is_the_same():
    x, batch = ragged_batch()
    expected = knn_graph(x, 6, batch)
    with as_on_device():
        assert_close(knn_graph(x, 6, batch).as_tensor(), expected.as_tensor())


def test_a_search_needs_less_than_all_distances_of_a_batch(monkeypatch):
    batch = torch.arange(8).repeat_interleave(64)
    with as_on_device():
        table = cloud_table(batch, 8, 64)
    largest = []
    distances = knn_batched._Differences.distances

    def watch(self, rows):
        found = distances(self, rows)
        largest.append(found.numel())
        return found

    monkeypatch.setattr(knn_batched._Differences, "distances", watch)
    knn_batched.search(normal(512, 3), table, 5)
    assert largest == [8 * 64 * 64 // knn_batched.CHUNKS] * knn_batched.CHUNKS


def test_what_does_not_fit_is_refused():
    batch = torch.tensor([0, 0, 1])
    with as_on_device():
        with pytest.raises(ValueError, match="3 points in 2 clouds, so clouds of unequal sizes"):
            cloud_table(batch, 2)
        with pytest.raises(ValueError, match="max_points must be at least 1, got 0"):
            cloud_table(batch, 2, 0)
        with pytest.raises(RuntimeError, match="numbers from 0 to 1, none of them more than 1"):
            cloud_table(batch, 2, 1)
        with pytest.raises(RuntimeError, match="numbers from 0 to 0"):
            cloud_table(batch, 1, 3)
        with pytest.raises(RuntimeError, match="x must be finite"):
            knn_indices(torch.tensor([[0.0], [torch.nan], [1.0]]), 1)
        with pytest.raises(RuntimeError, match="batch must not be negative"):
            knn_indices(normal(3, 3), 1, batch - 1)


# Graphs


def test_a_table_has_the_maximum_of_its_adjacency():
    x = normal(4, 3).requires_grad_()
    expected = neighbor_max(from_neighbors(MISSING), x)
    found = neighbor_max(NeighborTable.of(MISSING, 4), x)
    assert_close(found, expected)
    weights = normal(4, 3, seed=1)
    assert_close(
        torch.autograd.grad((found * weights).sum(), x),
        torch.autograd.grad((expected * weights).sum(), x),
    )


def test_nan_is_the_maximum_of_a_table():
    x = torch.tensor([[1.0], [torch.nan], [0.0], [2.0]])
    table = NeighborTable.of(MISSING, 4)
    assert_close(table.maximum(x), neighbor_max(from_neighbors(MISSING), x), equal_nan=True)


def test_a_table_says_which_nodes_have_neighbors():
    found = NeighborTable.of(MISSING, 4).is_reached()
    assert_close(found, from_neighbors(MISSING).is_reached())


def test_a_table_has_the_derivatives_of_its_adjacency():
    pos, x, batch = normal(4, 3), normal(4, 6, seed=1), torch.tensor([0, 0, 1, 1])
    graph = from_neighbors(MISSING)
    edge_attr = edge_gradients(pos, graph, batch, softening=0.5)
    expected = derivative_operators(graph, edge_attr).derive(x, 2)
    table = derivative_table(pos, MISSING, batch, softening=0.5)
    assert_close(table.derive(x, 2), expected)


def test_operators_derive_along_all_axes_at_once():
    pos, x = normal(20, 3), normal(20, 6, seed=1)
    with as_on_device():  # padded
        graph = from_neighbors(knn_indices(pos, 4, torch.tensor([0] * 3 + [1] * 17)))
        operators = derivative_operators(graph, edge_gradients(pos, graph))
        found = operators.derive(x, 3)
    assert_close(found, operators.derive(x, 3))


def test_edges_in_any_order_are_compressed_alike():
    edges = integers(30, 2, 90)
    expected = to_adjacency(edges, 30, 30)
    with as_on_device():
        found = to_adjacency(edges, 30, 30)
    assert_close(found[:2], expected[:2])


def test_nodes_out_of_range_raise_where_they_are_used():
    with as_on_device(), pytest.raises((IndexError, RuntimeError), match="out of range"):
        to_adjacency(torch.tensor([[0], [5]]), 3, 3)


# Layers


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_products_in_place_are_those_of_the_reference(groups, bias):
    torch.manual_seed(0)
    inputs = [normal(5, 8), normal(groups, 6 // groups, 8 // groups), normal(6) if bias else None]
    for each in inputs:
        if each is not None:
            each.requires_grad_()
    needed = [each for each in inputs if each is not None]
    expected = grouped_linear.reference(*inputs)
    with as_on_device():
        found = grouped_linear(*inputs)
        grads = torch.autograd.grad(found.square().sum(), needed)
    assert_close(found, expected)
    assert_close(grads, torch.autograd.grad(expected.square().sum(), needed))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_norm_moves_its_statistics_alike(momentum):
    norms = [nn.BatchNorm1d(3, momentum=momentum) for _ in range(2)]
    for seed in range(3):
        x = normal(7, 3, seed=seed) + 2
        expected = norm_act(norms[0], nn.ReLU(), x)
        with as_on_device():
            assert_close(norm_act(norms[1], nn.ReLU(), x), expected)
    assert_close(norms[0].state_dict(), norms[1].state_dict())


# Networks


@pytest.mark.parametrize("sizes", [(20, 20, 20), (35, 4, 21)])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_same_outputs_and_gradients(name, sizes):
    model = make_network(name, 3, k=5, width=16).double()
    batch = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    pos = normal(60, 3).double()
    expected = outputs_and_gradients(model, pos, batch, 3)
    with as_on_device():
        found = outputs_and_gradients(model, pos, batch, 3, max(sizes))
    assert_close(found, expected)


def test_parts_are_scored_alike():
    torch.manual_seed(0)
    model = create_segmenter("dgcnn", 4, k=5, width=16).double().eval()
    batch, pos = torch.arange(3).repeat_interleave(10), normal(30, 3).double()
    expected = model(pos, batch, 3)
    with as_on_device():
        assert_close(model(pos, batch, 3), expected)
