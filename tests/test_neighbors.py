"""Neighbors against a search that sorts all differences, index for index."""

import sys
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch_geometric import EdgeIndex

from mgic_geo import neighbors
from mgic_geo.native import build
from mgic_geo.neighbors import knn_graph, knn_indices

pytestmark = pytest.mark.usefixtures("kernels")

PRODUCT = 200  # points of a cloud that is large enough for the matrix product


def all_distances(x: Tensor, batch: Tensor | None = None) -> Tensor:
    """Squared distances by the rule, infinite for the point itself and for other clouds."""
    x = x.double()
    distances = torch.zeros(len(x), len(x), dtype=torch.float64)
    for coord in x.unbind(1):
        distances += (coord[:, None] - coord).square()
    batch = torch.zeros(len(x), dtype=torch.int64) if batch is None else batch
    distances[batch[:, None] != batch] = torch.inf
    return distances.fill_diagonal_(torch.inf)


def oracle(x: Tensor, k: int, batch: Tensor | None = None) -> Tensor:
    """Sorts all points by (distance, index); where there is no k-th one, -1."""
    distances, order = all_distances(x, batch).sort(stable=True)
    order[distances.isinf()] = -1
    return torch.nn.functional.pad(order, (0, k), value=-1)[:, :k]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(0))


def relu_features() -> Tensor:
    return (normal(PRODUCT, 3) @ normal(3, 64, seed=1)).relu()


def half_duplicated() -> Tensor:
    return normal(PRODUCT // 2, 3).repeat(2, 1)


def with_outlier(distance: float) -> Tensor:
    x = normal(PRODUCT, 3)
    x[17] = distance
    return x


CLOUDS: dict[str, Callable[[], Tensor]] = {
    "dim 1": lambda: normal(PRODUCT, 1),
    "dim 3": lambda: normal(PRODUCT, 3),
    "dim 64": lambda: normal(PRODUCT, 64),
    "float64": lambda: normal(PRODUCT, 3).double() + 1e-9 * normal(PRODUCT, 3, seed=1).double(),
    "bfloat16": lambda: normal(PRODUCT, 3).bfloat16(),
    "float16": lambda: normal(PRODUCT, 3).half(),
    "relu features": relu_features,
    "offset 10": lambda: normal(PRODUCT, 3) + 10,
    "offset 100": lambda: normal(PRODUCT, 3) + 100,
    "offset 1000": lambda: normal(PRODUCT, 3) + 1000,
    "offset 1e6, mostly ties": lambda: normal(PRODUCT, 3) + 1e6,
    "integer grid": lambda: integers(5, PRODUCT, 3).float(),
    "integer line": lambda: torch.arange(float(PRODUCT))[:, None],
    "binary features": lambda: integers(2, PRODUCT, 64).float(),
    "half duplicated": half_duplicated,
    "half duplicated in 64 dimensions": lambda: normal(PRODUCT // 2, 64).repeat(2, 1),
    "identical points": lambda: torch.full((PRODUCT, 3), 0.1),
    "identical points in the origin": lambda: torch.zeros(PRODUCT, 3),
    "outlier 1e4": lambda: with_outlier(1e4),
    "outlier 1e9": lambda: with_outlier(1e9),
    "two far clusters": lambda: torch.cat([normal(PRODUCT, 3), normal(PRODUCT, 3, seed=1) + 1e7]),
    "scaled by 1e-30": lambda: normal(PRODUCT, 3) * 1e-30,
    "scaled by 1e25": lambda: normal(PRODUCT, 3) * 1e25,
    "subnormal": lambda: normal(PRODUCT, 3) * 1e-41,
    "near the largest float": lambda: normal(PRODUCT, 3) * 5e37,
    "size not a multiple of the groups": lambda: normal(331, 5),
    "just too small for the product": lambda: normal(neighbors._SMALL, 3),
    "just large enough for the product": lambda: normal(neighbors._SMALL + 1, 3),
}


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("name", CLOUDS)
def test_order_is_by_distance_then_index(name: str, k: int) -> None:
    x = CLOUDS[name]()
    assert_close(knn_indices(x, k), oracle(x, k))


@pytest.mark.parametrize("name", CLOUDS)
def test_backend_exact_gives_the_same_answer(name: str) -> None:
    x = CLOUDS[name]()
    assert_close(knn_indices(x, 6, backend="exact"), oracle(x, 6))


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


def test_clouds_of_one_batch_may_differ_in_scale() -> None:
    scales = torch.tensor([1e-30, 1.0, 1e25]).repeat_interleave(40)
    batch = torch.arange(3).repeat_interleave(40)
    x = normal(120, 3) * scales[:, None]
    assert_close(knn_indices(x, 5, batch), oracle(x, 5, batch))


def test_rows_of_a_large_cloud_are_searched_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.cat([normal(PRODUCT, 3), integers(3, PRODUCT, 3).float()])
    monkeypatch.setattr(neighbors, "_ROWS", 7)
    monkeypatch.setattr(neighbors, "_BLOCK", 7 * len(x))
    assert_close(knn_indices(x, 6), oracle(x, 6))


@pytest.mark.parametrize("k", [20, 48, 49, 150, 199, 200, 300])
def test_k_may_be_large(k: int) -> None:
    x = normal(PRODUCT, 3)
    assert_close(knn_indices(x, k), oracle(x, k))


# Batches


def ragged_batch() -> tuple[Tensor, Tensor]:
    """Clouds of one, two, few and many points, with ids left out and in no order."""
    ids = torch.tensor([0, 2, 3, 7, 8, 9, 11])
    sizes = torch.tensor([30, 1, PRODUCT, 2, 150, 5, 31])
    batch = ids.repeat_interleave(sizes)
    batch = batch[normal(len(batch)).argsort()]
    return normal(len(batch), 3, seed=1), batch


@pytest.mark.parametrize("backend", ["auto", "exact"])
def test_a_ragged_unsorted_batch_with_empty_clouds_is_searched_exactly(backend: str) -> None:
    x, batch = ragged_batch()
    assert_close(knn_indices(x, 6, batch, backend=backend), oracle(x, 6, batch))


def test_ties_in_an_unsorted_batch_go_to_the_smaller_index() -> None:
    _, batch = ragged_batch()
    x = integers(3, len(batch), 3).float()
    assert_close(knn_indices(x, 6, batch), oracle(x, 6, batch))


def test_many_small_clouds_are_searched_exactly() -> None:
    batch = integers(300, 2000)
    x = normal(2000, 2)
    assert_close(knn_indices(x, 4, batch), oracle(x, 4, batch))


def test_a_batch_equals_its_clouds_one_by_one() -> None:
    x = normal(3, PRODUCT, 3)
    together = knn_indices(x.flatten(0, 1), 5, torch.arange(3).repeat_interleave(PRODUCT))
    alone = torch.cat([knn_indices(cloud, 5) + PRODUCT * i for i, cloud in enumerate(x)])
    assert_close(together, alone)


def test_cloud_ids_may_be_huge() -> None:
    batch = torch.tensor([2**62, 0, 2**62, 0])
    found = knn_indices(normal(4, 2), 1, batch)
    assert_close(found, torch.tensor([[2], [3], [0], [1]]))


def test_no_edge_leaves_its_cloud() -> None:
    x, batch = ragged_batch()
    source, target = knn_graph(x, 40, batch).as_tensor()
    assert_close(batch[source], batch[target])


def test_permuting_points_permutes_neighbors() -> None:
    x, batch = ragged_batch()
    order = normal(len(x), seed=5).argsort()
    rank = torch.nn.functional.pad(order.argsort(), (0, 1), value=-1)
    assert_close(knn_indices(x[order], 6, batch[order]), rank[knn_indices(x, 6, batch)[order]])


# How many


@pytest.mark.parametrize("name", ["half duplicated", "identical points", "dim 3"])
def test_no_point_is_its_own_neighbor(name: str) -> None:
    found = knn_indices(CLOUDS[name](), 10)
    assert not (found == torch.arange(PRODUCT)[:, None]).any()


def test_identical_points_have_the_first_others_as_neighbors() -> None:
    expected = torch.tensor([[1, 2], [0, 2], [0, 1], [0, 1]])
    assert_close(knn_indices(torch.ones(4, 3), 2), expected)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7])
def test_a_cloud_gives_every_point_k_or_all_others(size: int) -> None:
    degree = knn_graph(normal(size, 3), 6).as_tensor()[1].bincount(minlength=size)
    assert_close(degree, torch.full((size,), min(6, size - 1)))


def test_places_that_do_not_exist_hold_minus_one() -> None:
    found = knn_indices(torch.tensor([[0.0], [1.0]]), 3)
    assert_close(found, torch.tensor([[1, -1, -1], [0, -1, -1]]))


def test_a_lone_point_has_no_neighbors() -> None:
    assert knn_graph(torch.zeros(1, 3), 2).shape == (2, 0)


# Which rows the product may decide


def test_distinct_points_need_no_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "library", lambda: None)

    def refuse(*_: object) -> Tensor:
        raise AssertionError("a row fell back")

    monkeypatch.setattr(neighbors, "_rank", refuse)
    monkeypatch.setattr(neighbors, "_search_differences", refuse)
    for x in (normal(PRODUCT, 3) + 1000, relu_features()):
        assert_close(knn_indices(x, 10), oracle(x, 10))


def test_duplicates_are_decided_among_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "library", lambda: None)

    def refuse(*_: object) -> Tensor:
        raise AssertionError("a row fell back to its whole cloud")

    monkeypatch.setattr(neighbors, "_search_differences", refuse)
    x = half_duplicated()
    assert_close(knn_indices(x, 10), oracle(x, 10))


@pytest.mark.parametrize("name", ["outlier 1e9", "two far clusters"])
def test_without_its_bound_the_product_would_err(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "library", lambda: None)
    monkeypatch.setattr(neighbors, "_rounding", lambda dim: 0.0)
    x = CLOUDS[name]()
    assert (knn_indices(x, 10) != oracle(x, 10)).any()


@pytest.mark.parametrize("name", ["dim 64", "offset 1000", "outlier 1e9", "two far clusters"])
def test_the_product_errs_by_less_than_its_bound(name: str) -> None:
    x = CLOUDS[name]().double()
    coords = x.T.contiguous()
    centered = coords - coords.mean(1, keepdim=True)
    norms = centered.square().sum(0)
    candidates, approximate = neighbors._propose(centered, norms, len(x) // 4)
    exact = all_distances(x).gather(1, candidates)
    bound = neighbors._rounding(x.size(1)) * (norms[:, None] + exact)
    assert ((approximate - exact).abs() <= bound).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), k=st.integers(1, 5), dim=st.integers(1, 3))
def test_any_grid_cloud_is_searched_exactly(data: st.DataObject, k: int, dim: int) -> None:
    size = data.draw(st.integers(1, 40))
    span, num_clouds = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    x = torch.randint(span, (size, dim), generator=generator) * data.draw(
        st.sampled_from([1.0, 0.1, 1e-30, 1e25])
    )
    batch = torch.randint(num_clouds, (size,), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "_SMALL", 0)
        assert_close(knn_indices(x, k, batch), oracle(x, k, batch))


# Inside PyTorch


def test_a_function_that_searches_compiles_in_one_graph() -> None:
    def reach(x: Tensor, batch: Tensor) -> Tensor:
        return x[knn_indices(x * 2, 3, batch).clamp(min=0)].amax(1)

    x, batch = normal(40, 3), torch.arange(4).repeat_interleave(10)
    compiled = torch.compile(reach, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x, batch), reach(x, batch))


def test_the_operator_is_registered_as_torch_expects() -> None:
    x, batch = normal(12, 3), torch.arange(3).repeat_interleave(4)
    torch.library.opcheck(neighbors._knn, (x, batch, 2, "auto"))
    torch.library.opcheck(neighbors._knn, (x, None, 2, "auto"))


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


@pytest.mark.parametrize("search", [knn_indices, knn_graph])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((normal(4, 2), 0), "k must be at least 1, got 0"),
        ((normal(4), 1), r"x must be \(N, D\).*got shape \(4,\)"),
        ((normal(1, 4, 2), 1), r"x must be \(N, D\).*got shape \(1, 4, 2\)"),
        ((normal(0, 2), 1), r"x must be \(N, D\).*got shape \(0, 2\)"),
        ((normal(4, 0), 1), r"x must be \(N, D\).*got shape \(4, 0\)"),
        ((integers(9, 4, 2), 1), "x must be floating point, got torch.int64"),
        ((normal(4, 2), 1, torch.zeros(3, dtype=torch.int64)), r"batch must.*\(4,\), got.*\(3,\)"),
        ((normal(4, 2), 1, torch.zeros(4)), "batch must be int64.*got torch.float32"),
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


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["dim 3", "dim 64", "relu features", "float64"])
def test_torch_cluster_agrees_where_nothing_ties(name: str) -> None:
    pytest.importorskip("torch_cluster")
    x = CLOUDS[name]()
    assert_close(knn_indices(x, 10), knn_indices(x, 10, backend="torch_cluster"))


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["integer grid", "half duplicated", "identical points"])
def test_torch_cluster_agrees_in_distance_where_points_tie(name: str) -> None:
    pytest.importorskip("torch_cluster")
    x = CLOUDS[name]()
    ours, theirs = knn_indices(x, 10), knn_indices(x, 10, backend="torch_cluster")
    assert_close(sorted_distances(x, ours), sorted_distances(x, theirs))


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
