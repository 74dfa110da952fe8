"""Neighbors in another set and within a radius against all pairs, scipy and torch-cluster."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree
from torch import Tensor
from torch.testing import assert_close

from mgic_geo.graphs import between, knn, knn_graph, radius, radius_graph
from mgic_geo.ops import knn_compiled
from mgic_geo.ops.csrc import build
from tests.kernels import assert_same_on_any_threads
from tests.neighbor_clouds import CLOUDS, PRODUCT, integers, normal, ragged_batch


def pairs(
    x: Tensor, y: Tensor, k: int, batches: tuple[Tensor, Tensor] | None = None, r: float = torch.inf
) -> Tensor:
    """The first ``k`` of all pairs nearer than ``r`` by (row of y, distance, row of x)."""
    distances = torch.zeros(len(y), len(x), dtype=torch.float64)
    for a, b in zip(x.double().T, y.double().T, strict=True):
        distances += (b[:, None] - a).square()
    distances[distances >= r * r] = torch.inf
    if batches is not None:
        distances[batches[1][:, None] != batches[0]] = torch.inf
    values, order = distances.sort(stable=True)
    found = values[:, :k] < torch.inf
    rows = torch.arange(len(y))[:, None].expand_as(found)
    return torch.stack([rows[found], order[:, :k][found]])


def two_sets() -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Clouds in no order, of which some have points in one set only."""
    x, batch_x = ragged_batch()
    batch_y = integers(12, 90)
    return x, normal(90, 3, seed=3), (batch_x, batch_y)


@pytest.fixture(params=["panels", "tree", "plain"], autouse=True)
def search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both compiled searches, where there are few dimensions, and plain PyTorch."""
    if request.param == "plain":
        monkeypatch.setattr(build, "library", lambda *_: None)
    elif build.library() is None:
        pytest.skip("no C compiler")
    monkeypatch.setattr(knn_compiled, "LARGE", 10**9 if request.param == "panels" else -1)


@pytest.mark.parametrize("k", [1, 7, 250])
@pytest.mark.parametrize("name", CLOUDS)
def test_neighbors_in_another_set_are_ordered_by_distance_then_index(name: str, k: int) -> None:
    x = CLOUDS[name]()
    y = torch.cat([x[::7], x[:20] + x[20:40]]).to(x.dtype)
    y = y if y.isfinite().all() else x[::7]
    scale = 2.0 ** -int(x.abs().max().double().clamp(min=1e-300).log2())
    expected = pairs(x.double() * scale, y.double() * scale, k)
    assert_close(knn(x, y, k), expected)


@pytest.mark.parametrize("k", [1, 6, 300])
def test_neighbors_come_from_the_same_cloud(k: int) -> None:
    x, y, batches = two_sets()
    assert_close(knn(x, y, k, *batches), pairs(x, y, k, batches))


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize("r", [0.0, 0.05, 0.5, 20.0])
def test_points_in_a_radius_are_those_of_scipy(r: float, dim: int) -> None:
    x, y = normal(300, dim), normal(100, dim, seed=1)
    expected = KDTree(x.double().numpy()).query_ball_point(y.double().numpy(), r)
    found = radius(x, y, r, max_num_neighbors=300)
    lists = [sorted(found[1, found[0] == row].tolist()) for row in range(100)]
    assert lists == [sorted(row) for row in expected]


@pytest.mark.parametrize("most", [1, 5, 500])
def test_the_nearest_in_a_radius_are_returned(most: int) -> None:
    x, y, batches = two_sets()
    assert_close(radius(x, y, 0.8, *batches, most), pairs(x, y, most, batches, 0.8))


def test_a_point_at_the_radius_does_not_count() -> None:
    x = torch.arange(5.0)[:, None]
    assert_close(radius(x, x[:1], 2.0), torch.tensor([[0, 0], [0, 1]]))


def test_time_and_memory_for_a_radius_grow_with_what_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, batch = ragged_batch()
    expected = radius(x, x, 0.7, batch, batch, 50), radius_graph(x, 0.7, batch).as_tensor()
    monkeypatch.setattr(between, "_AT_ONCE", 170)
    monkeypatch.setattr(between, "_FIRST", 2)
    found = radius(x, x, 0.7, batch, batch, 50), radius_graph(x, 0.7, batch).as_tensor()
    assert_close(found, expected)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_two_grid_clouds_are_searched_exactly(data: st.DataObject) -> None:
    sizes, dim = [data.draw(st.integers(1, 80)) for _ in range(2)], data.draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**16)))
    span, clouds = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    x, y = (torch.randint(span, (n, dim), generator=generator) * 0.5 for n in sizes)
    batches = tuple(torch.randint(clouds, (n,), generator=generator) for n in sizes)
    k, r = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([0.5, 1.0, 2.0]))
    assert_close(knn(x, y, k, *batches), pairs(x, y, k, batches))
    assert_close(radius(x, y, r, *batches, k), pairs(x, y, k, batches, r))


def test_threads_change_nothing() -> None:
    x, y, batches = two_sets()
    assert_same_on_any_threads(lambda: knn(x, y, 5, *batches))


# Graphs


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
def test_a_graph_within_a_radius_is_that_of_all_pairs(loop: bool, flow: str) -> None:
    x, batch = ragged_batch()
    graph = radius_graph(x, 0.6, batch, loop, 400, flow)
    graph.validate()
    expected = pairs(x, x, 400, (batch, batch), 0.6)
    expected = expected if loop else expected[:, expected[0] != expected[1]]
    assert_close(graph.as_tensor(), expected.flip(0) if flow == "source_to_target" else expected)


def test_duplicates_do_not_hide_neighbors_nor_add_one() -> None:
    degree = radius_graph(torch.ones(50, 3), 1.0, max_num_neighbors=7).as_tensor()[1].bincount()
    assert_close(degree, torch.full((50,), 7))


@pytest.mark.parametrize("cosine", [True, False])
def test_a_point_may_be_its_own_neighbor(cosine: bool) -> None:
    x, batch = ragged_batch()
    graph = knn_graph(x, 5, batch, loop=True, cosine=cosine)
    first = graph.as_tensor()[0, graph._indptr[:-1]]
    assert_close(first, torch.arange(len(x)))
    others = knn_graph(x, 4, batch, cosine=cosine).as_tensor()
    loops = graph.as_tensor()
    assert_close(loops[:, loops[0] != loops[1]], others)


def test_the_flow_may_be_turned() -> None:
    x, batch = ragged_batch()
    graph, turned = knn_graph(x, 5, batch), knn_graph(x, 5, batch, flow="target_to_source")
    turned.validate()
    assert turned.is_sorted_by_row
    assert_close(turned.as_tensor(), graph.as_tensor().flip(0))
    assert_close(turned._indptr, graph._indptr)


def test_angles_are_those_of_cosines() -> None:
    x = (
        normal(PRODUCT, 8).double()
        * torch.logspace(-200, 150, PRODUCT, dtype=torch.double)[:, None]
    )
    unit = x / x.abs().amax(1, keepdim=True)
    unit /= unit.norm(dim=1, keepdim=True)
    similar = (unit @ unit.T).fill_diagonal_(-2)
    expected = similar.sort(descending=True).indices[:, :4]
    assert_close(knn_graph(x, 4, cosine=True).as_tensor()[0].view(-1, 4), expected)
    similar = unit[:30] @ unit[30:].T
    expected = similar.sort(descending=True).indices[:, :4]
    assert_close(knn(x[30:], x[:30], 4, cosine=True)[1].view(-1, 4), expected)


# What is little


def test_clouds_without_points_have_no_edges() -> None:
    nothing, some = normal(0, 3), normal(4, 3)
    none, one = torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    for x, y, of_x, of_y in (
        (nothing, some, none, one),
        (some, nothing, one, none),
        (nothing, nothing, none, none),
    ):
        for found in (knn(x, y, 2), knn(x, y, 2, of_x, of_y)):
            assert found.shape == (2, 0)
        for found in (radius(x, y, 1.0), radius(x, y, 1.0, of_x, of_y)):
            assert found.shape == (2, 0)
    for graph in (knn_graph(nothing, 3), knn_graph(nothing, 3, none, loop=True)):
        assert graph.shape == (2, 0)
    assert radius_graph(nothing, 1.0).shape == radius_graph(nothing, 1.0, none).shape == (2, 0)


def test_clouds_are_numbered_in_int32_as_well() -> None:
    x, y, (batch_x, batch_y) = two_sets()
    assert_close(knn(x, y, 3, batch_x.int(), batch_y.int()), knn(x, y, 3, batch_x, batch_y))
    short, long = (radius_graph(x, 0.5, batch).as_tensor() for batch in (batch_x.int(), batch_x))
    assert_close(short, long)


# Errors

ONE, FOUR = torch.zeros(1, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: knn(x, x[:, :1], 1), "x and y must have as many columns, got 2 and 1"),
        (lambda x: knn(x, x, 0), "k must be at least 1, got 0"),
        (lambda x: knn(x, x[0], 1), r"y must be \(N, D\).*got shape \(2,\)"),
        (lambda x: knn(x, x, 1, FOUR), "batch_x and batch_y must both be given"),
        (lambda x: knn(x, x, 1, FOUR, ONE), r"batch_y must be.*\(4,\), got.*\(1,\)"),
        (lambda x: knn(x, x * torch.nan, 1), "y must be finite, got .*nan.* in row 0"),
        (lambda x: knn(x, x.long(), 1), "y must be floating point, got torch.int64"),
        (lambda x: knn(x, x, 1, FOUR, FOUR - 1), "batch_y must not be negative, got -1 in row 0"),
        (
            lambda x: knn(x, x, 1, FOUR, FOUR + 5, batch_size=3),
            "batch_size is 3, but batch_y has 5",
        ),
        (lambda x: radius(x, x, -1.0), "r must be 0 or more, got -1.0"),
        (lambda x: radius(x, x, torch.nan), "r must be 0 or more, got nan"),
        (lambda x: radius(x, x, 1.0, max_num_neighbors=0), "max_num_neighbors must be at least 1"),
        (lambda x: radius_graph(x, 1.0, flow="up"), "flow must be one of .*, got 'up'"),
        (lambda x: knn_graph(x, 1, flow="up"), "flow must be one of .*, got 'up'"),
        (lambda x: knn_graph(x, 1, FOUR, batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda x: knn_graph(x, 1, loop=True, backend="exact"), "backend must be auto"),
    ],
)
def test_what_cannot_be_searched_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(normal(4, 2))


# torch-cluster


def as_sets(edges: Tensor) -> set[tuple[int, ...]]:
    return set(map(tuple, edges.T.tolist()))


@pytest.mark.cluster
@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("flow", ["source_to_target", "target_to_source"])
def test_torch_cluster_finds_the_same_graphs(loop: bool, flow: str) -> None:
    theirs = pytest.importorskip("torch_cluster")
    x, batch = ragged_batch()
    batch, order = batch.sort(stable=True)
    x = x[order]
    found = knn_graph(x, 6, batch, loop, flow, batch_size=12).as_tensor()
    assert as_sets(found) == as_sets(theirs.knn_graph(x, 6, batch, loop, flow, batch_size=12))
    found = radius_graph(x, 0.7, batch, loop, 400, flow, batch_size=12).as_tensor()
    expected = theirs.radius_graph(x, 0.7, batch, loop, 400, flow, batch_size=12)
    assert as_sets(found) == as_sets(expected)


@pytest.mark.cluster
def test_torch_cluster_finds_the_same_in_another_set() -> None:
    theirs = pytest.importorskip("torch_cluster")
    x, y, (batch_x, batch_y) = two_sets()
    (batch_x, of_x), (batch_y, of_y) = batch_x.sort(stable=True), batch_y.sort(stable=True)
    x, y = x[of_x], y[of_y]
    assert as_sets(knn(x, y, 4, batch_x, batch_y)) == as_sets(theirs.knn(x, y, 4, batch_x, batch_y))
    found = radius(x, y, 0.9, batch_x, batch_y, 400)
    assert as_sets(found) == as_sets(theirs.radius(x, y, 0.9, batch_x, batch_y, 400))
