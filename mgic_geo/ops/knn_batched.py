r"""Search for the nearest neighbors without looking at a value: what other devices run.

All clouds are searched together, in as many operations for any number of clouds, of any sizes.
Distances in the precision of ``x`` propose ``k`` candidates and :data:`SPARE` more for every point;
differences in float64 decide between these, as :mod:`mgic_geo.graphs.neighbors` has it. A point
whose other neighbors may be as near as the k-th candidate, within rounding, is in doubt, and
decided over its whole cloud. How many of them there are is not known to the host: there is room for
one in :data:`SHARE` points, and for :data:`ROOM` at least. Where more are in doubt, which takes
clouds with many equal distances, the order among the proposed stands for the rest.

Up to :data:`MAX_DIFFERENCES` columns the proposals are made by differences too: their error is one
of the last place of the distance itself, and equal distances stay equal. With more columns they
come from a product of centered coordinates, which is much faster there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mgic_geo.ops.host import check
from mgic_geo.ops.spmm import pointer_of

SPARE = 9  # candidates beyond k
MAX_DIFFERENCES = 8  # columns up to which differences are worth their memory
CHUNKS = 2  # parts of every cloud, the distances of one of which are there at a time
ROOM, SHARE = 64, 256  # points that are decided over their whole cloud
_SHIFT = 1 << 32  # leaves the low half of a key to a place


def cloud_table(batch: Tensor, num_clouds: int, max_points: int) -> Tensor:
    """Rows of the points of every cloud, in their order; N in places that are left.

    Args:
        batch: Cloud of every point.
        num_clouds: Number of clouds, some of which may be empty.
        max_points: Points of the largest cloud, or more.

    Shape:
        - ``batch``: ``(N,)``. Returns ``(num_clouds, max_points)``.

    Raises:
        ValueError: A number is out of range or a cloud larger; see
            :func:`~mgic_geo.ops.host.check`.

    Example:
        >>> cloud_table(torch.tensor([1, 0, 1]), 2, 2)
        tensor([[1, 3],
                [0, 2]])
    """
    size = batch.size(0)
    cloud, order = batch.sort(stable=True)
    bounds = pointer_of(cloud, num_clouds)
    places = bounds[:-1, None] + torch.arange(max_points, device=batch.device)
    missing = places >= bounds[1:, None]
    rule = (
        f"batch must hold numbers from 0 to {num_clouds - 1}, none of them more than {max_points} "
        "times: batch_size and max_points say so"
    )
    check(missing.sum() == missing.numel() - size, lambda: rule, rule)
    return order[places.clamp_max_(size - 1)].masked_fill_(missing, size)


def search(x: Tensor, table: Tensor, k: int) -> Tensor:
    """Find neighbors in clouds of any order.

    Args:
        x: Finite coordinates.
        table: Of the clouds, as :func:`cloud_table` has it.
        k: Neighbors per point.

    Shape:
        - ``x``: ``(N, D)``. ``table``: ``(B, W)``. Returns ``(N, k)``, int64: row numbers, nearest
          first, -1 where there is none.
    """
    points = functional.pad(x, (0, 0, 0, 1))[table]  # (B, W, D), 0 in places that are left
    largest = torch.linalg.vector_norm(points, torch.inf, (1, 2), keepdim=True)
    check((largest < torch.inf).all(), str, "x must be finite")
    # multiplying by powers of two is exact, and afterwards no square over- or underflows
    largest = largest.double().clamp_(min=2.0**-1000)
    points = points * (torch.frexp(largest).mantissa / largest)
    missing = table == x.size(0)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        found = _search_places(points, table, missing, dtype, k)
    neighbors = found.new_empty(x.size(0) + 1, k)  # what is not there goes to the last row
    return neighbors.index_copy_(0, table.flatten(), found)[:-1]


def _search_places(
    points: Tensor, table: Tensor, missing: Tensor, dtype: torch.dtype, k: int
) -> Tensor:
    """Neighbors of the point at every place of a table, by row number, ``(B * W, k)``."""
    num_clouds, width, dim = points.shape
    propose = (_Differences if dim <= MAX_DIFFERENCES else _Product)(points, missing, dtype)
    places = torch.arange(num_clouds * width, device=points.device).view(num_clouds, width)
    # itself is the nearest or among as near ones, and one candidate more makes up for it
    count = min(k + 1 + SPARE, width)
    candidates, last = _first(propose, places.unsqueeze(1), count)
    coords = points.masked_fill(missing.unsqueeze(2), torch.inf)
    coords = coords.flatten(0, 1).T.contiguous()  # (D, B * W)
    candidates = candidates.sort().values.flatten(0, 1)  # equal distances go by place
    found, distances = _decide(coords, table, places.view(-1), candidates, k)
    if count < width:
        doubt = last.view(-1) < propose.reach(distances)
        room = min(doubt.numel(), max(ROOM, doubt.numel() // SHARE))
        rows = doubt.view(torch.uint8).topk(room, sorted=False).indices
        decided, _ = _decide(coords, table, rows, places[rows // width], k)
        found.index_copy_(0, rows, decided)
    return found


class _Differences:
    def __init__(self, points: Tensor, missing: Tensor, dtype: torch.dtype) -> None:
        self.points, self.missing, self.dtype = points.to(dtype), missing.unsqueeze(1), dtype
        self.error = 2 * (points.size(-1) + 4) * torch.finfo(dtype).eps

    def distances(self, rows: slice) -> Tensor:
        """Squared distances of some points of every cloud to all of its points, ``(B, R, W)``."""
        squares = (self.points[:, rows, None] - self.points[:, None]).square_().sum(-1)
        return squares.masked_fill_(self.missing, torch.inf)

    def reach(self, distances: Tensor) -> Tensor:
        """Proposed distances from which on no point is as near as ``distances``, ``(B * W,)``."""
        return distances * (1 + self.error)


class _Product:
    r"""Squared distances by :math:`|x|^2 - 2 x^\top y + |y|^2`.

    In float32 each coordinate is a sum of two numbers of 11 bits, which TensorFloat32 holds: the
    user's choice of precision in products changes nothing. What is left out is the product of the
    low parts and what TensorFloat32 cuts off theirs, some :math:`2^{-20}` of a term.
    """

    def __init__(self, points: Tensor, missing: Tensor, dtype: torch.dtype) -> None:
        # the mean is among the points only if places that are left hold one of them
        points = torch.where(missing.unsqueeze(2), points[:, :1], points)
        points = (points - points.mean(1, keepdim=True)).to(dtype)
        norms = points.square().sum(-1)
        self.norms, self.dtype = norms.unsqueeze(2), dtype
        self.to_norms = norms.masked_fill(missing, torch.inf).unsqueeze(1)
        # as in knn_reference, where |x|^2 + d bounds the terms of the sum
        self.error = 5 * (points.size(-1) + 8) * torch.finfo(dtype).eps
        self.left = self.right = points
        if dtype == torch.float32:
            high = (points.view(torch.int32) & ~0x1FFF).view(torch.float32)
            low = points - high
            parts, width = torch.cat([high, high, low, high], dim=-1), 3 * points.size(-1)
            self.left, self.right = parts[..., :width], parts[..., -width:]

    def distances(self, rows: slice) -> Tensor:
        """As those by differences; those near 0 may be negative."""
        sums = self.norms[:, rows] + self.to_norms
        return sums.baddbmm_(self.left[:, rows], self.right.mT, alpha=-2)

    def reach(self, distances: Tensor) -> Tensor:
        """As that of differences."""
        slack = self.error * self.norms.view(-1)
        return torch.add(slack, distances, alpha=1 + self.error)


def _first(propose: _Differences | _Product, places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` places for every point by (distance, place), and the last one's distance.

    Shape:
        - ``places``: ``(B, 1, W)``. Returns ``(B, W, count)`` and ``(B, W)``.
    """
    width = places.size(2)
    step = -(-width // CHUNKS)
    chunks = [slice(start, start + step) for start in range(0, width, step)]
    if propose.dtype == torch.float64:
        sorts = [propose.distances(rows).sort(stable=True) for rows in chunks]
        values, order = (
            torch.cat([each[..., :count] for each in s], 1) for s in zip(*sorts, strict=True)
        )
        return places.expand(-1, width, -1).gather(-1, order), values[..., -1]
    # numbers that are not negative are ordered as their bits are
    keys = [
        torch.add(places, propose.distances(rows).view(torch.int32), alpha=_SHIFT)
        .topk(count, largest=False)
        .values
        for rows in chunks
    ]
    first = torch.cat(keys, dim=1)
    last = (first[..., -1] >> 32).to(torch.int32).view(torch.float32)
    return first & (_SHIFT - 1), last


def _decide(
    coords: Tensor, table: Tensor, itself: Tensor, candidates: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The first ``k`` candidates by the rule, by row number, and the distance of the k-th one.

    Args:
        coords: Of all places, infinite where there is no point.
        table: Row number at every place.
        itself: Places to decide.
        candidates: Places in rising order.
        k: How many to choose.

    Shape:
        - ``coords``: ``(D, P)``. ``table``: ``(B, W)``. ``itself``: ``(R,)``. ``candidates``:
          ``(R, count)``. Returns ``(R, k)``, -1 where there are fewer, and ``(R,)``.
    """
    gaps = coords[:, candidates].sub_(coords[:, itself, None])
    # along an outer axis sums are added up one after another, on a GPU as well
    distances = gaps.square_().cumsum_(0)[-1]
    distances.masked_fill_(candidates == itself[:, None], torch.inf)
    distances, order = distances.sort(stable=True)
    distances, order = distances[:, :k], order[:, :k]
    found = table.view(-1)[candidates.gather(1, order)]
    found.masked_fill_(distances == torch.inf, -1)
    if found.size(1) < k:
        found = functional.pad(found, (0, k - found.size(1)), value=-1)
    return found, distances[:, -1]
