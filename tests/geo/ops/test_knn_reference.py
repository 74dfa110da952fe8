"""Which rows the product may decide, and which need differences."""

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

from mgic_geo.graphs.neighbors import knn_indices
from mgic_geo.ops import knn_reference as neighbor_search
from tests.neighbor_clouds import (
    CLOUDS,
    PRODUCT,
    all_distances,
    grids,
    half_duplicated,
    integers,
    normal,
    oracle,
    relu_features,
)

pytestmark = pytest.mark.usefixtures("plain")


def test_distinct_points_need_no_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError("a row fell back")

    monkeypatch.setattr(neighbor_search, "_rank", refuse)
    monkeypatch.setattr(neighbor_search, "_search_differences", refuse)
    for x in (normal(PRODUCT, 3) + 1000, relu_features()):
        assert_close(knn_indices(x, 10), oracle(x, 10))


def test_duplicates_are_decided_among_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise AssertionError("a row fell back to its whole cloud")

    monkeypatch.setattr(neighbor_search, "_search_differences", refuse)
    x = half_duplicated()
    assert_close(knn_indices(x, 10), oracle(x, 10))


@pytest.mark.parametrize("name", ["outlier 1e9", "two far clusters"])
def test_without_its_bound_the_product_would_err(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbor_search, "_rounding", lambda dim: 0.0)
    x = CLOUDS[name]()
    assert (knn_indices(x, 10) != oracle(x, 10)).any()


@pytest.mark.parametrize("name", ["dim 64", "offset 1000", "outlier 1e9", "two far clusters"])
def test_the_product_errs_by_less_than_its_bound(name: str) -> None:
    x = CLOUDS[name]().double()
    coords = x.T.contiguous()
    centered = coords - coords.mean(1, keepdim=True)
    norms = centered.square().sum(0)
    candidates, approximate = neighbor_search._propose(centered, norms, len(x) // 4)
    exact = all_distances(x).gather(1, candidates)
    bound = neighbor_search._rounding(x.size(1)) * (norms[:, None] + exact)
    assert ((approximate - exact).abs() <= bound).all()


@pytest.mark.fault(30, 31)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(drawn=grids())
def test_any_grid_cloud_is_searched_exactly(drawn: tuple[Tensor, int, Tensor]) -> None:
    x, k, batch = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbor_search, "_SMALL", 0)
        assert_close(knn_indices(x, k, batch), oracle(x, k, batch))


def test_rows_of_a_large_cloud_are_searched_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.cat([normal(PRODUCT, 3), integers(3, PRODUCT, 3).float()])
    monkeypatch.setattr(neighbor_search, "_ROWS", 7)
    monkeypatch.setattr(neighbor_search, "_BLOCK", 7 * len(x))
    assert_close(knn_indices(x, 6), oracle(x, 6))
