"""Neighbors against a search that sorts all differences, index for index."""

import sys
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch_geometric import EdgeIndex

from mgic_geo.graphs import neighbors
from mgic_geo.graphs.neighbors import knn_graph, knn_indices
from tests.neighbor_clouds import CLOUDS, PRODUCT, integers, normal, oracle, ragged_batch

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.mark.parametrize(("k", "backend"), [(1, "auto"), (10, "auto"), (6, "exact")])
@pytest.mark.parametrize("name", CLOUDS)
def test_order_is_by_distance_then_index(name: str, k: int, backend: str) -> None:
    x = CLOUDS[name]()
    assert_close(knn_indices(x, k, backend=backend), oracle(x, k))


def test_order_is_that_of_exact_rational_arithmetic() -> None:
    x = normal(30, 3, seed=3) * 1e25
    rows = [[Fraction(value) for value in row] for row in x.tolist()]
    expected = []
    for i, here in enumerate(rows):
        squares = [sum((a - b) ** 2 for a, b in zip(here, row, strict=True)) for row in rows]
        others = [j for j in range(30) if j != i]
        expected.append(sorted(others, key=lambda j, d=squares: (d[j], j))[:4])
    assert_close(knn_indices(x, 4), torch.tensor(expected))


@pytest.mark.parametrize("size", [20, PRODUCT])
@pytest.mark.parametrize("exponent", [-900, 900])
def test_float64_neither_over_nor_underflows(exponent: int, size: int) -> None:
    x = normal(size, 3).double()
    assert_close(knn_indices(x * 2.0**exponent, 5), oracle(x, 5))


@pytest.mark.parametrize("k", [20, 48, 49, 150, 199, 200, 300])
def test_k_may_be_large(k: int) -> None:
    x = normal(PRODUCT, 3)
    assert_close(knn_indices(x, k), oracle(x, k))


# Batches


def batch_of_scales() -> tuple[Tensor, Tensor]:
    batch = torch.arange(3).repeat_interleave(40)
    return normal(120, 3) * torch.tensor([1e-30, 1.0, 1e25])[batch, None], batch


def batch_with_ties() -> tuple[Tensor, Tensor]:
    _, batch = ragged_batch()
    return integers(3, len(batch), 3).float(), batch


BATCHES = {
    "ragged, unsorted, with empty clouds": ragged_batch,
    "with ties": batch_with_ties,
    "many small clouds": lambda: (normal(2000, 2), integers(300, 2000)),
    "clouds of other scales": batch_of_scales,
}


@pytest.mark.fault(33)
@pytest.mark.parametrize("backend", ["auto", "exact"])
@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_is_searched_exactly(name: str, backend: str) -> None:
    x, batch = BATCHES[name]()
    assert_close(knn_indices(x, 6, batch, backend=backend), oracle(x, 6, batch))


def test_cloud_ids_may_be_huge() -> None:
    batch = torch.tensor([2**62, 0, 2**62, 0])
    found = knn_indices(normal(4, 2), 1, batch)
    assert_close(found, torch.tensor([[2], [3], [0], [1]]))


@pytest.mark.fault(33)
def test_no_edge_leaves_its_cloud() -> None:
    x, batch = ragged_batch()
    source, target = knn_graph(x, 40, batch).as_tensor()
    assert_close(batch[source], batch[target])


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("offset", "dtype"),
    [
        *((offset, torch.float32) for offset in (10.0, 1000.0, 2.0**20)),
        *((offset, torch.float64) for offset in (2.0**20, 2.0**45)),
    ],
)
def test_a_cloud_far_from_the_origin_has_the_neighbors_it_has_there(
    offset: float, dtype: torch.dtype
) -> None:
    x = ((normal(PRODUCT, 3) * 8).round() / 8).to(dtype)  # held exactly at every offset
    assert_close(x + offset - offset, x, rtol=0, atol=0)
    assert_close(knn_indices(x + offset, 10), knn_indices(x, 10))


# How many


@pytest.mark.fault(31)
@pytest.mark.parametrize("name", ["half duplicated", "identical points", "dim 3"])
def test_no_point_is_its_own_neighbor(name: str) -> None:
    found = knn_indices(CLOUDS[name](), 10)
    assert not (found == torch.arange(PRODUCT)[:, None]).any()


@pytest.mark.fault(31)
def test_identical_points_have_the_first_others_as_neighbors() -> None:
    expected = torch.tensor([[1, 2], [0, 2], [0, 1], [0, 1]])
    assert_close(knn_indices(torch.ones(4, 3), 2), expected)


@pytest.mark.fault(30)
@pytest.mark.parametrize("size", [1, 2, 5, 6, 7])
def test_a_cloud_gives_every_point_k_or_all_others(size: int) -> None:
    degree = knn_graph(normal(size, 3), 6).as_tensor()[1].bincount(minlength=size)
    assert_close(degree, torch.full((size,), min(6, size - 1)))


@pytest.mark.parametrize("backend", ["auto", "exact"])
def test_no_points_have_no_neighbors(backend: str) -> None:
    nothing, clouds = normal(0, 2), torch.zeros(0, dtype=torch.int64)
    assert knn_indices(nothing, 3, backend=backend).shape == (0, 3)
    assert knn_indices(nothing, 3, clouds, backend=backend).shape == (0, 3)
    assert knn_graph(nothing, 3).shape == (2, 0)


def test_clouds_are_numbered_in_int32_as_well() -> None:
    x, batch = ragged_batch()
    assert_close(knn_indices(x, 3, batch.int()), knn_indices(x, 3, batch))


# Inside PyTorch


def test_a_function_that_searches_compiles_in_one_graph() -> None:
    def reach(x: Tensor, batch: Tensor) -> Tensor:
        return x[knn_indices(x * 2, 3, batch).clamp(min=0)].amax(1)

    x, batch = normal(40, 3), torch.arange(4).repeat_interleave(10)
    compiled = torch.compile(reach, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x, batch), reach(x, batch))


def test_the_operator_without_a_batch_is_registered_as_torch_expects() -> None:
    torch.library.opcheck(neighbors.knn.registered, (normal(12, 3), None, 2, "auto"))


def test_no_gradient_flows() -> None:
    assert not knn_indices(normal(5, 2).requires_grad_(), 2).requires_grad


def test_autocast_changes_nothing() -> None:
    x = normal(PRODUCT, 64) + 10
    with torch.autocast("cpu", torch.bfloat16):
        found = knn_indices(x, 10)
    assert_close(found, oracle(x, 10))


def test_the_input_is_left_as_it_was() -> None:
    x, batch = ragged_batch()
    before = x.clone(), batch.clone()
    knn_indices(x, 3, batch)
    assert_close((x, batch), before)


def test_strided_input_is_fine() -> None:
    x = normal(6, PRODUCT).T[:, ::2]
    assert_close(knn_indices(x, 4), oracle(x, 4))


# Graphs


def graph() -> tuple[EdgeIndex, Tensor, Tensor]:
    x, batch = ragged_batch()
    return knn_graph(x, 6, batch), x, batch


def test_a_graph_lists_neighbors_center_by_center() -> None:
    edge_index, x, batch = graph()
    found = oracle(x, 6, batch)
    centers = torch.arange(len(x))[:, None].expand_as(found)
    expected = torch.stack([found[found >= 0], centers[found >= 0]])
    assert_close(edge_index.as_tensor(), expected)


def test_a_graph_is_a_valid_edge_index_sorted_by_center() -> None:
    edge_index, x, _ = graph()
    edge_index.validate()
    assert edge_index.is_sorted_by_col
    assert edge_index.sparse_size() == (len(x), len(x))


def test_a_graph_brings_its_compressed_form() -> None:
    edge_index, _, _ = graph()
    assert edge_index._indptr is not None
    fresh = EdgeIndex(
        edge_index.as_tensor(), sparse_size=edge_index.sparse_size(), sort_order="col"
    )
    (expected, _), _ = fresh.get_csc()
    assert_close(edge_index._indptr, expected)


# Errors


def bad(value: float) -> Tensor:
    x = normal(6, 2)
    x[4, 1] = value
    return x


@pytest.mark.fault(30, 36)
@pytest.mark.parametrize("search", [knn_indices, knn_graph])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((normal(4, 2), 0), "k must be at least 1, got 0"),
        ((normal(4), 1), r"x must be \(N, D\).*got shape \(4,\)"),
        ((normal(1, 4, 2), 1), r"x must be \(N, D\).*got shape \(1, 4, 2\)"),
        ((normal(4, 0), 1), r"x must be \(N, D\).*got shape \(4, 0\)"),
        ((integers(9, 4, 2), 1), "x must be floating point, got torch.int64"),
        ((normal(4, 2), 1, torch.zeros(3, dtype=torch.int64)), r"batch must.*\(4,\), got.*\(3,\)"),
        ((normal(4, 2), 1, torch.zeros(4)), "batch must be int64 or int32.*got torch.float32"),
        ((normal(4, 2), 1, torch.tensor([0, 1, -3, -1])), "not be negative, got -3 in row 2"),
        ((bad(torch.nan), 1), r"x must be finite, got \[.*nan\] in row 4"),
        ((bad(-torch.inf), 1), r"x must be finite, got \[.*-inf\] in row 4"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    search: Callable[..., Tensor], arguments: tuple, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        search(*arguments)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="one of auto, exact, torch_cluster, got 'faiss'"):
        knn_indices(normal(4, 2), 1, backend="faiss")


def test_a_missing_torch_cluster_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_cluster", None)
    with pytest.raises(ImportError, match="make cluster"):
        knn_indices(normal(4, 2), 1, backend="torch_cluster")


# torch-cluster


def sorted_distances(x: Tensor, found: Tensor) -> Tensor:
    """Squared distances of the neighbors, infinite where there are none."""
    gaps = x[found.clamp(min=0)].double() - x[:, None].double()
    return gaps.square().sum(-1).masked_fill(found < 0, torch.inf)


TIES = ("integer grid", "half duplicated", "identical points")


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["dim 3", "dim 64", "relu features", "float64", *TIES])
def test_torch_cluster_agrees_in_distance_and_where_nothing_ties_in_order(name: str) -> None:
    pytest.importorskip("torch_cluster")
    x = CLOUDS[name]()
    ours, theirs = knn_indices(x, 10), knn_indices(x, 10, backend="torch_cluster")
    assert_close(sorted_distances(x, ours), sorted_distances(x, theirs))
    assert name in TIES or torch.equal(ours, theirs)


@pytest.mark.cluster
def test_torch_cluster_agrees_on_a_ragged_unsorted_batch() -> None:
    pytest.importorskip("torch_cluster")
    x, batch = ragged_batch()
    assert_close(knn_indices(x, 6, batch), knn_indices(x, 6, batch, backend="torch_cluster"))


@pytest.mark.cluster
def test_torch_cluster_finds_no_point_itself() -> None:
    pytest.importorskip("torch_cluster")
    found = knn_indices(torch.ones(50, 3), 5, backend="torch_cluster")
    assert not (found == torch.arange(50)[:, None]).any()
