"""Nearest points of one set to every point of another, cloud by cloud and within a radius.

The rule is that of :mod:`mgic_geo.graphs.neighbors`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mgic_geo.ops import knn_compiled, knn_reference
from mgic_geo.ops.inputs import check_clouds, check_finite
from mgic_geo.ops.operator import Kernel, Operation

Search = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _reference(
    x: Tensor, y: Tensor, batch_x: Tensor | None, batch_y: Tensor | None, k: int, radius: float
) -> Tensor:
    def search(x: Tensor, counts: Tensor, y: Tensor, counts_y: Tensor) -> Tensor:
        starts = (counts.cumsum(0) - counts).tolist()
        parts = zip(starts, x.split(counts.tolist()), y.split(counts_y.tolist()), strict=True)
        found = []
        for start, points, others in parts:
            places = knn_reference.search_between(points, others, k, radius)
            found.append(torch.where(places < 0, -1, places + start))
        return torch.cat(found)

    return _by_cloud(x, y, batch_x, batch_y, search)


def _compiled(
    x: Tensor, y: Tensor, batch_x: Tensor | None, batch_y: Tensor | None, k: int, radius: float
) -> Tensor:
    def search(x: Tensor, counts: Tensor, y: Tensor, counts_y: Tensor) -> Tensor:
        return knn_compiled.search(x, counts, k, y, counts_y, radius)

    return _by_cloud(x, y, batch_x, batch_y, search)


def _by_cloud(
    x: Tensor, y: Tensor, batch_x: Tensor | None, batch_y: Tensor | None, search: Search
) -> Tensor:
    """Neighbors by a search ``(x, counts, y, counts_y)`` in clouds that lie one after another."""
    if x.dim() != 2 or y.dim() != 2 or x.size(1) != y.size(1):
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"x and y must be (N, D) and (M, D), got shapes {shapes}")
    check_finite(x=x, y=y)
    if batch_x is None and batch_y is None:
        sizes = torch.tensor([[len(x)], [len(y)]], device=x.device)
        return search(x, sizes[0], y, sizes[1])
    if batch_x is None or batch_y is None:
        raise ValueError("batch_x and batch_y must both be given, or neither")
    check_clouds(len(x), batch_x=batch_x)
    check_clouds(len(y), batch_y=batch_y)
    numbers, cloud = torch.unique(torch.cat([batch_x, batch_y]), return_inverse=True)
    if not numbers.numel():
        cloud, numbers = cloud.new_zeros(0), cloud.new_zeros(1)
    counts, counts_y = (
        part.bincount(minlength=numbers.numel()) for part in (cloud[: len(x)], cloud[len(x) :])
    )
    # The stable sort keeps points of a cloud in order: ties by place are ties by index.
    order, order_y = cloud[: len(x)].argsort(stable=True), cloud[len(x) :].argsort(stable=True)
    places = search(x[order], counts, y[order_y], counts_y)
    neighbors = torch.empty_like(places)
    neighbors[order_y] = F.pad(order, (0, 1), value=-1)[places]  # place -1 reads the padding
    return neighbors


#: ``(x, y, batch_x, batch_y, k, radius)``: the ``k`` nearest rows of ``x``, ``(N, D)``, to every
#: row of ``y``, ``(M, D)``, that are in its cloud and nearer than the radius: ``(M, k)``, -1 where
#: there are fewer. A point is its own neighbor where it is in both.
knn_between = Operation(
    "mgic::knn_between",
    _reference,
    Kernel("compiled", _compiled, lambda x, y, *_: knn_compiled.why_not(x, y)),
    fake=lambda x, y, batch_x, batch_y, k, radius: y.new_empty((y.size(0), k), dtype=torch.int64),
    opaque=True,
)
