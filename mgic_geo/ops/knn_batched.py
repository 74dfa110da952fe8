r"""Search for the nearest neighbors without looking at a value: what other devices run.

All clouds are searched together, in as many operations for any number of clouds, of any sizes.
Distances in the precision of ``x`` propose ``k`` candidates and :data:`SPARE` more for every point;
differences in float64 decide between these, as :mod:`mgic_geo.graphs.neighbors` has it.

Up to :data:`MAX_DIFFERENCES` columns the proposals are made by differences too: their error is one
of the last place of the distance itself, and equal distances stay equal. With more columns they
come from a product of centered coordinates. In it a distance errs by some :math:`2^{-20}` of the
squared distance from the center. Points whose distances differ by less than the error of their
proposals, and are not in their order there, are told apart among the candidates only: the answer
is exact where no more than :data:`SPARE` points are that close to the k-th distance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mgic_geo.ops.host import check
from mgic_geo.ops.spmm import pointer_of

SPARE = 9  # candidates beyond k
MAX_DIFFERENCES = 8  # columns up to which differences are worth their memory
CHUNKS = 4  # parts of every cloud whose distances are there at the same time
_SHIFT = 1 << 32  # leaves the low half of a key to a place


class Layout(NamedTuple):
    """Points in a table with a row for each cloud.

    Args:
        members: Row of ``x`` at every place, N where there is none.
        scale: Powers of two that bring each cloud's largest coordinate into [1/2, 1).
        coords: Coordinates times that, infinite where there is no point.

    Shape:
        - ``members``: ``(B, W)``. ``scale``: ``(B, 1, 1)``. ``coords``: ``(B, W, D)``, float64.
    """

    members: Tensor
    scale: Tensor
    coords: Tensor


def search(x: Tensor, batch: Tensor | None, k: int, num_clouds: int, max_points: int) -> Tensor:
    """Find neighbors in clouds of any order.

    Args:
        x: Finite coordinates.
        batch: Cloud of every point.
        k: Neighbors per point.
        num_clouds: One more than the largest number in ``batch``, or more.
        max_points: Points of the largest cloud, or more.

    Shape:
        - ``x``: ``(N, D)``. ``batch``: ``(N,)``. Returns ``(N, k)``, int64: row numbers, nearest
          first, -1 where there is none.
    """
    with torch.autocast(x.device.type, enabled=False):
        layout = _lay_out(x, batch, num_clouds, max_points)
        places = _search_table(layout.coords, _proposing(x.dtype), k)
    rows = functional.pad(layout.members.flatten(), (0, 1), value=-1)[places]
    found = rows.new_empty(x.size(0) + 1, k)  # what is not there goes to the last row
    return found.index_copy_(0, layout.members.flatten(), rows)[:-1]


def _proposing(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _lay_out(x: Tensor, batch: Tensor | None, num_clouds: int, max_points: int) -> Layout:
    places = torch.arange(max_points, device=x.device)
    if batch is None:
        members, there = places[None], torch.ones_like(places, dtype=torch.bool)[None]
    else:
        cloud, order = batch.sort(stable=True)
        bounds = pointer_of(cloud, num_clouds)
        slots = bounds[:-1, None] + places
        there = slots < bounds[1:, None]
        members = order[slots.clamp_max_(x.size(0) - 1)].masked_fill_(~there, x.size(0))
    points = functional.pad(x, (0, 0, 0, 1))[members]
    largest = points.abs().amax((1, 2), keepdim=True)
    check(
        (there.sum() == x.size(0)) & largest.isfinite().all(),
        str,
        "knn: x must be finite, batch must hold numbers from 0 up to below batch_size, and no cloud "
        "more than max_points (without it: as many as every other)",
    )
    # multiplying by powers of two is exact, and afterwards no square over- or underflows
    largest = largest.double().clamp_(min=2.0**-1000)
    scale = torch.frexp(largest).mantissa / largest
    coords = (points * scale).masked_fill_(~there[:, :, None], torch.inf)
    return Layout(members, scale, coords)


def _search_table(coords: Tensor, dtype: torch.dtype, k: int) -> Tensor:
    """Neighbors by their places in the flat table, ``(B * W, k)``; ``B * W`` where there are none.

    Shape:
        - ``coords``: ``(B, W, D)``.
    """
    num_clouds, width, dim = coords.shape
    propose = _Differences(coords.to(dtype)) if dim <= MAX_DIFFERENCES else _Product(coords, dtype)
    columns = torch.arange(num_clouds * width, device=coords.device).view(num_clouds, width)
    flat = coords.flatten(0, 1).T.contiguous()  # (D, B * W)
    step = -(-width // CHUNKS)
    found = []
    for start in range(0, width, step):
        rows = slice(start, start + step)
        # itself is the nearest or among as near ones, and one candidate more makes up for it
        candidates = _first(propose(rows), columns[:, None], min(k + 1 + SPARE, width))
        found.append(_decide(flat, columns[:, rows], candidates, k))
    return torch.cat(found, dim=1).flatten(0, 1)


class _Differences:
    def __init__(self, points: Tensor) -> None:
        self.points = points

    def __call__(self, rows: slice) -> Tensor:
        """Squared distances of some points of every cloud to all of its points, ``(B, R, W)``."""
        return (self.points[:, rows, None] - self.points[:, None]).square_().sum(-1)


class _Product:
    r"""Squared distances by :math:`|x|^2 - 2 x^\top y + |y|^2`.

    In float32 each coordinate is a sum of two numbers of 11 bits, which TensorFloat32 holds: the
    user's choice of precision in products changes nothing.
    """

    def __init__(self, coords: Tensor, dtype: torch.dtype) -> None:
        there = coords[:, :, :1].isfinite()
        points = coords.where(there, 0.0)
        points = (points - points.mean(1, keepdim=True)).to(dtype)
        norms = points.square().sum(-1)
        self.norms = norms.unsqueeze(-1)
        self.to_norms = norms.where(there.squeeze(-1), torch.inf).unsqueeze(1)
        self.left = self.right = points
        if dtype == torch.float32:
            high = (points.view(torch.int32) & ~0x1FFF).view(torch.float32)
            low = points - high
            self.left, self.right = (
                torch.cat(parts, dim=-1) for parts in ((high, high, low), (high, low, high))
            )

    def __call__(self, rows: slice) -> Tensor:
        sums = self.norms[:, rows] + self.to_norms
        return sums.baddbmm_(self.left[:, rows], self.right.mT, alpha=-2).clamp_min_(0)


def _first(distances: Tensor, columns: Tensor, count: int) -> Tensor:
    """The first ``count`` columns of every row by (distance, column)."""
    if distances.dtype == torch.float64:
        order = distances.sort(stable=True).indices[..., :count]
        return columns.expand_as(distances).gather(-1, order)
    # numbers that are not negative are ordered as their bits are
    keys = torch.add(columns, distances.view(torch.int32), alpha=_SHIFT)
    return keys.topk(count, largest=False, sorted=False).values.bitwise_and_(_SHIFT - 1)


def _decide(flat: Tensor, itself: Tensor, candidates: Tensor, k: int) -> Tensor:
    """The first ``k`` candidates by the rule, and as many places as there are where none is left.

    Shape:
        - ``flat``: ``(D, places)``. ``itself``: ``(B, R)``. ``candidates``: ``(B, R, count)``, all
          of them places. Returns ``(B, R, k)``.
    """
    candidates = candidates.sort().values  # ties go by place
    gaps = flat[:, candidates] - flat[:, itself, None]
    # along an outer axis sums are added up one after another, on a GPU as well
    distances = gaps.square_().cumsum(0)[-1]
    distances.masked_fill_(candidates == itself[:, :, None], torch.inf)
    distances, order = distances.sort(stable=True)
    candidates = candidates.gather(-1, order).masked_fill_(~(distances < torch.inf), flat.size(1))
    missing = k - candidates.size(-1)
    if missing > 0:
        return functional.pad(candidates, (0, missing), value=flat.size(1))
    return candidates[..., :k]
