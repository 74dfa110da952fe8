"""Point clouds on which searches go wrong, and a search that sorts all differences."""

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from mgic_geo.ops import knn_reference as neighbor_search

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
    "just too small for the product": lambda: normal(neighbor_search._SMALL, 3),
    "just large enough for the product": lambda: normal(neighbor_search._SMALL + 1, 3),
}


def ragged_batch() -> tuple[Tensor, Tensor]:
    """Clouds of one, two, few and many points, with ids left out and in no order."""
    ids = torch.tensor([0, 2, 3, 7, 8, 9, 11])
    sizes = torch.tensor([30, 1, PRODUCT, 2, 150, 5, 31])
    batch = ids.repeat_interleave(sizes)
    batch = batch[normal(len(batch)).argsort()]
    return normal(len(batch), 3, seed=1), batch


@st.composite
def grids(draw: st.DrawFn) -> tuple[Tensor, int, Tensor]:
    """Points on a grid, of which many tie; how many neighbors; and the cloud of each point."""
    size, span = draw(st.integers(1, 150)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    x = torch.randint(span, (size, draw(st.integers(1, 3))), generator=generator)
    x = x * draw(st.sampled_from([1.0, 0.1, 1e-30, 1e25])) + draw(st.sampled_from([0.0, 100.0]))
    batch = torch.randint(draw(st.integers(1, 4)), (size,), generator=generator)
    return x, draw(st.integers(1, 20)), batch
