"""The tree finds what a search through all pairs finds, place by place, and sooner."""

import pytest
import torch
from hypothesis import given, settings
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn.functional import normalize
from torch.testing import assert_close

from mgic_geo.graphs.neighbors import knn_indices
from mgic_geo.ops import knn_compiled
from mgic_geo.ops.csrc import build
from tests.kernels import assert_same_on_any_threads, needs_compiler
from tests.neighbor_clouds import CLOUDS, grids, integers, normal, oracle, ragged_batch

pytestmark = needs_compiler
N = 700  # more than 2 ** 5 leaves

SHAPES = {
    "uniform": lambda: torch.rand(N, 3, generator=torch.Generator().manual_seed(0)),
    "clustered": lambda: normal(7, 3).repeat_interleave(N // 7, 0) + 1e-4 * normal(N, 3, seed=1),
    "line": lambda: normal(N, 1) * torch.tensor([1.0, 2.0, 3.0]),
    "plane": lambda: normal(N, 2) @ normal(2, 3, seed=1),
    "flat": lambda: normal(N, 3) * torch.tensor([1.0, 1.0, 0.0]),
    "shell": lambda: normalize(normal(N, 3)),
    "shell far away": lambda: normalize(normal(N, 3)) + 1e5,
    "three values": lambda: integers(3, N, 3).float(),
    "identical": lambda: torch.full((N, 3), 0.1),
    "each point twice": lambda: normal(N // 2, 3).repeat(2, 1),
    "each point fifty times": lambda: normal(N // 50, 3).repeat(50, 1),
    "grid": lambda: torch.cartesian_prod(*[torch.arange(9.0)] * 3),
}


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small clouds are searched in trees, too."""
    monkeypatch.setattr(knn_compiled, "LARGE", -1)


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("k", [1, 10, 60])
@pytest.mark.parametrize("name", [*SHAPES, *CLOUDS])
def test_the_tree_orders_by_distance_then_index(name: str, k: int) -> None:
    x = (SHAPES | CLOUDS)[name]()
    assert_close(knn_indices(x, k), oracle(x, k))


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 31, 32, 33, 48, 49, 64, 65, 200])
@pytest.mark.parametrize("k", [1, 16, 300])
def test_clouds_of_any_size_grow_a_tree(size: int, k: int) -> None:
    x = integers(4, size, 3).float()
    assert_close(knn_indices(x, k), oracle(x, k))


@pytest.mark.usefixtures("tree")
def test_clouds_of_other_sizes_grow_a_tree_each() -> None:
    x, batch = ragged_batch()
    x[batch == 3] *= 1e-30
    assert_close(knn_indices(x, 6, batch), oracle(x, 6, batch))


@pytest.mark.usefixtures("tree")
@settings(max_examples=100, deadline=None, derandomize=True)
@given(drawn=grids())
def test_any_grid_cloud_is_searched_exactly_in_the_tree(drawn: tuple[Tensor, int, Tensor]) -> None:
    x, k, batch = drawn
    assert_close(knn_indices(x, k, batch), oracle(x, k, batch))


def test_a_large_cloud_has_the_neighbors_that_scipy_finds() -> None:
    x = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    found = knn_indices(x, 10)
    _, expected = KDTree(x.double().numpy()).query(x.double().numpy(), 11)
    assert_close(found, torch.as_tensor(expected)[:, 1:])


def test_threads_change_nothing() -> None:
    x = torch.cat([normal(4000, 3), integers(9, 4000, 3).float()])
    batch = integers(2, 8000)
    assert_same_on_any_threads(lambda: knn_indices(x, 10, batch))


@pytest.mark.parametrize("kinds", [1, 2, 7])
def test_a_hundred_thousand_ties_are_no_search_through_all_pairs(kinds: int) -> None:
    places = torch.arange(100_000)[:, None]
    found = knn_indices((places % kinds).float(), 4)  # all pairs would take a minute
    first = places % kinds + kinds * torch.arange(5)  # of the same kind, one of them too many
    first = first.masked_fill(first == places, len(places)).sort().values[:, :4]
    assert_close(found, first)


@pytest.mark.parametrize("dim", [3, 70])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_type_has_a_kernel(dim: int, dtype: torch.dtype, ran) -> None:
    x = normal(300, dim).to(dtype)
    assert_close(knn_indices(x, 5), oracle(x, 5))
    assert ran("knn") == {"compiled": 1}


X, STARTS, FOUND = (
    torch.rand(4, 3, dtype=torch.double),
    torch.tensor([0, 1, 4]),
    torch.empty(8).long(),
)
KNN = {"x": X, "dim": 3, "starts": STARTS, "y": None, "starts_y": None, "k": 2, "radius": 1.0}
KNN |= {"neighbors": FOUND}
FARTHEST = {"x": X.T.contiguous(), "dim": 3, "starts": STARTS, "ends": torch.tensor([0, 1, 3])}
FARTHEST |= {"first": torch.tensor([0, 2]), "chosen": FOUND[:3]}
SEARCHES = ("mgic_knn_tree", "mgic_knn_double")


@pytest.mark.parametrize(
    ("names", "right", "wrong", "message"),
    [
        *((SEARCHES, KNN, {"k": k}, "k must be from 1") for k in (0, -1, 2**40)),
        *((SEARCHES, KNN, {"dim": n}, "dim must be from") for n in (0, -3, 2**40)),
        *((SEARCHES, KNN, {"radius": r}, "radius must be 0 or more") for r in (-1.0, torch.nan)),
        (SEARCHES, KNN, {"k": 3}, "neighbors must have 12 numbers, got 8"),
        (SEARCHES, KNN, {"x": X.view(-1)[:11]}, "x must have 9 numbers, got 11"),
        (SEARCHES, KNN, {"starts": STARTS[:0]}, "starts must start with 0"),
        (SEARCHES, KNN, {"starts": STARTS + 1}, "starts must start with 0, got 1"),
        (SEARCHES, KNN, {"starts": STARTS[:2]}, "starts must end with the number of points, 4"),
        (SEARCHES, KNN, {"starts": torch.tensor([0, 5, 4])}, "starts must not fall, got 5"),
        (SEARCHES, KNN, {"starts": STARTS * 2}, "starts must end with 4 edges at most, got 8"),
        (SEARCHES, KNN, {"y": X}, "y must have 0 numbers, got 12"),
        (SEARCHES, KNN, {"y": X, "starts_y": STARTS[:2]}, "starts_y must have 3 numbers, got 2"),
        (
            SEARCHES,
            KNN,
            {"y": X, "starts_y": STARTS * 0},
            "starts_y must end with the rows of y, 4",
        ),
        (SEARCHES, KNN, {"x": X / 0}, "x must be finite, is not in cloud 0"),
        (("mgic_farthest",), FARTHEST, {"first": torch.tensor([0, 3])}, r"first\[1\] must be"),
        (("mgic_farthest",), FARTHEST, {"ends": torch.tensor([0, 2, 3])}, "ends must ask for 1"),
        (("mgic_farthest",), FARTHEST, {"chosen": FOUND}, "chosen must have 3 numbers, got 8"),
        (("mgic_farthest",), FARTHEST, {"dim": 0}, "dim must be from 1"),
    ],
)
def test_compiled_functions_check_sizes_and_indices(names, right, wrong, message: str) -> None:
    for name in names:
        build.run(name, *right.values())
        with pytest.raises(ValueError, match=message):
            build.run(name, *(right | wrong).values())
