"""Nearest neighbors in Triton: every distance by the rule, a running list, nothing of size n x n.

The rule is that of :mod:`mgic_geo.graphs.neighbors`. Its sum in float64 needs no scale here:
squares of what float32 holds neither over- nor underflow.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mgic_geo.ops.host import check

ROWS, COLUMNS = 16, 64  # of a block


@triton.jit
def _search(
    x,
    cloud,
    starts,
    ends,
    found,
    num_points,
    dim,
    k,
    NOWHERE: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first = tl.program_id(0) * ROWS
    row = first + tl.arange(0, ROWS)
    there = row < num_points
    own = tl.load(cloud + row, there, other=-1)
    slot = tl.arange(0, K)
    best = tl.full((ROWS, K), float("inf"), tl.float64)
    nearest = tl.full((ROWS, K), NOWHERE, tl.int32)
    last_row = tl.minimum(first + ROWS, num_points) - 1
    # clouds lie one after another, so that those of the block are a range
    for begin in range(tl.load(starts + first), tl.load(ends + last_row), COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        known = column < num_points
        other = tl.load(cloud + column, known, other=-2)
        distance = tl.zeros((ROWS, COLUMNS), tl.float64)
        for c in range(dim):
            left = tl.load(x + row.to(tl.int64) * dim + c, there, other=0.0).to(tl.float64)
            right = tl.load(x + column.to(tl.int64) * dim + c, known, other=0.0).to(tl.float64)
            gap = left[:, None] - right[None, :]
            distance += gap * gap  # without fusion: each operation rounds
        real = (own[:, None] == other[None, :]) & (row[:, None] != column[None, :])
        distance = tl.where(real, distance, float("inf"))
        worst = tl.max(tl.where((slot < k)[None, :], best, float("-inf")), 1)
        nearer = tl.sum(tl.sum((distance <= worst[:, None]).to(tl.int32) * real, 1), 0)
        if nearer > 0:
            place = tl.broadcast_to(column[None, :].to(tl.int32), (ROWS, COLUMNS))
            merged = tl.full((ROWS, K), float("inf"), tl.float64)
            order = tl.full((ROWS, K), NOWHERE, tl.int32)
            for s in range(k):
                here = tl.min(distance, 1)
                here_at = tl.min(tl.where(distance == here[:, None], place, NOWHERE), 1)
                kept = tl.min(best, 1)
                kept_at = tl.min(tl.where(best == kept[:, None], nearest, NOWHERE), 1)
                takes = (here < kept) | ((here == kept) & (here_at < kept_at))
                value = tl.where(takes, here, kept)
                at = tl.where(takes, here_at, kept_at)
                chosen = (slot == s)[None, :]
                merged = tl.where(chosen, value[:, None], merged)
                order = tl.where(chosen, at[:, None], order)
                distance = tl.where(place == at[:, None], float("inf"), distance)
                best = tl.where(nearest == at[:, None], float("inf"), best)
            best, nearest = merged, order
    nearest = tl.where(best < float("inf"), nearest, -1)
    at = row.to(tl.int64)[:, None] * k + slot[None, :]
    tl.store(found + at, nearest.to(tl.int64), there[:, None] & (slot < k)[None, :])


def search(x: Tensor, batch: Tensor | None, k: int) -> Tensor:
    """As :data:`~mgic_geo.ops.knn.knn`."""
    check(x.isfinite().all(), lambda: "x must be finite", "x must be finite")
    size = x.size(0)
    if batch is None:
        batch = torch.zeros(size, dtype=torch.int64, device=x.device)
    cloud, order = batch.sort(stable=True)
    check(cloud[0] >= 0, lambda: "batch must not be negative", "batch must not be negative")
    starts = torch.searchsorted(cloud, cloud)
    ends = torch.searchsorted(cloud, cloud, right=True)
    # clouds go by their first places, whatever their numbers are
    found = torch.full((size, k), -1, dtype=torch.int64, device=x.device)
    _search[(triton.cdiv(size, ROWS),)](
        *(x[order].contiguous(), starts, starts, ends, found, *x.shape, k),
        NOWHERE=2**31 - 1,
        K=max(2, triton.next_power_of_2(k)),
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        enable_fp_fusion=False,
    )
    rows = order[found.clamp_min(0)].masked_fill_(found < 0, -1)
    return torch.empty_like(rows).index_copy_(0, order, rows)
