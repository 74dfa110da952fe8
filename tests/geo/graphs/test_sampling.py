"""Farthest points against a search of all distances; interpolation against PyG's equation."""

import importlib

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mgic_geo.graphs import fps, knn, knn_interpolate
from tests.kernels import assert_same_on_any_threads
from tests.neighbor_clouds import CLOUDS, PRODUCT, all_distances, integers, normal, ragged_batch

pytestmark = pytest.mark.usefixtures("kernels")


def greedy(x: Tensor, count: int, first: int = 0) -> list[int]:
    """Chooses from a table of all distances."""
    distances = all_distances(x).fill_diagonal_(0)
    chosen = [first]
    while len(chosen) < count:
        chosen.append(int(distances[chosen].amin(0).argmax()))
    return chosen


@pytest.mark.parametrize("name", [name for name in CLOUDS if "sub" not in name])
def test_each_point_is_the_farthest_from_those_before(name: str) -> None:
    x = CLOUDS[name]()
    found = fps(x, ratio=0.3, random_start=False)
    assert found.tolist() == greedy(x, len(found))


def test_clouds_are_sampled_one_by_one() -> None:
    x, batch = ragged_batch()
    found = fps(x, batch, 0.25, random_start=False)
    expected = []
    for cloud in batch.unique():
        rows = (batch == cloud).nonzero()[:, 0]
        expected += rows[greedy(x[rows], -(-len(rows) // 4))].tolist()
    assert found.tolist() == expected
    assert_close(fps(x, batch.int(), 0.25, random_start=False, batch_size=12), found)


def test_a_random_start_comes_from_the_generator_and_is_in_its_cloud() -> None:
    x, batch = ragged_batch()
    torch.manual_seed(3)
    first = fps(x, batch, 0.001)
    assert_close(batch[first], batch.unique())
    torch.manual_seed(3)
    assert_close(fps(x, batch, 0.001), first)
    assert any(not torch.equal(fps(x, batch, 0.001), first) for _ in range(5))


@pytest.mark.parametrize(("ratio", "size", "count"), [(0.07, 100, 7), (1.0, 9, 9), (0.5, 9, 5)])
def test_a_share_is_rounded_upwards(ratio: float, size: int, count: int) -> None:
    assert fps(normal(size, 3), ratio=ratio).unique().numel() == count


def test_nothing_gives_nothing() -> None:
    assert fps(normal(0, 3)).shape == (0,)
    assert knn_interpolate(normal(0, 2), normal(0, 3), normal(0, 3)).shape == (0, 2)


def test_threads_change_nothing() -> None:
    x, batch = ragged_batch()
    assert_same_on_any_threads(lambda: fps(x, batch, random_start=False))


@pytest.mark.parametrize("k", [1, 3, 500])
def test_interpolation_is_a_mean_with_inverse_squares(k: int) -> None:
    x, pos_x, pos_y = normal(PRODUCT, 4), normal(PRODUCT, 3, seed=1), normal(40, 3, seed=2)
    squares = torch.cdist(pos_y.double(), pos_x.double()).square()
    weights, nearest = squares.clamp(min=1e-16).reciprocal().topk(min(k, PRODUCT))
    expected = (x.double()[nearest] * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
    found = knn_interpolate(x, pos_x, pos_y, k=k)
    assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


def test_interpolation_stays_in_its_cloud_and_returns_what_is_known() -> None:
    pos, batch = ragged_batch()
    x = normal(len(pos), 2)
    assert_close(knn_interpolate(x, pos, pos, batch, batch, k=1), x)
    alone = knn_interpolate(x, pos, pos[:4], batch, torch.full((4,), 20))
    assert_close(alone, torch.zeros(4, 2))


def test_interpolation_passes_gradients_to_features_only() -> None:
    x, pos = normal(9, 2).double().requires_grad_(), normal(9, 3).double().requires_grad_()
    torch.autograd.gradcheck(lambda x: knn_interpolate(x, pos, normal(5, 3, seed=1)), (x,))


def test_interpolation_is_that_of_pyg(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("torch_geometric.nn.unpool.knn_interpolate")
    monkeypatch.setattr(module, "knn", knn)
    x, (pos, batch) = normal(419, 4), ragged_batch()
    pos_y, batch_y = normal(60, 3, seed=4), batch[integers(len(batch), 60)]
    arguments = x, pos, pos_y, batch, batch_y
    expected = module.knn_interpolate(*arguments)
    assert_close(knn_interpolate(*arguments), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: fps(x, ratio=0.0), "ratio must be above 0 and at most 1, got 0.0"),
        (lambda x: fps(x, ratio=1.5), "ratio must be above 0 and at most 1, got 1.5"),
        (lambda x: fps(x * torch.nan), "x must be finite"),
        (lambda x: fps(x, torch.tensor([0, 0, -1, 0])), "batch must not be negative"),
        (lambda x: knn_interpolate(x[:2], x, x), r"x must be floating point \(4, C\)"),
        (lambda x: knn_interpolate(x, x, x[:, :1]), "pos_x and pos_y must have as many columns"),
        (lambda x: knn_interpolate(x, x, x, k=0), "k must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_sampled_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(normal(4, 2))


@pytest.mark.cluster
def test_torch_cluster_chooses_the_same_points() -> None:
    theirs = pytest.importorskip("torch_cluster")
    batch = torch.arange(3).repeat_interleave(torch.tensor([40, 7, 25]))  # none may be empty there
    x = normal(len(batch), 3)
    expected = theirs.fps(x, batch, 0.4, random_start=False)
    assert_close(fps(x, batch, 0.4, random_start=False), expected)
