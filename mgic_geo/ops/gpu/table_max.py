"""The maximum over neighborhoods, and sums at rows, in Triton."""

# pyright: reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 16, 64  # of a block


@triton.jit
def _maximum(
    x,
    table,
    best,
    row,
    num_sources,
    num_targets,
    channels,
    k,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    target = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (target < num_targets)[:, None] & (channel < channels)[None, :]
    largest = tl.full((ROWS, COLUMNS), float("-inf"), tl.float32)
    holder = tl.zeros((ROWS, COLUMNS), tl.int64) - 1
    for place in range(k):
        source = tl.load(table + target.to(tl.int64) * k + place, target < num_targets, other=0)
        known = (source >= 0) & (source < num_sources)
        real = known[:, None] & there  # else the row of zeros after the last
        at = x + source[:, None] * channels + channel[None, :]
        value = tl.load(at, real, other=0.0).to(tl.float32)
        nan = (value != value) & (largest == largest)
        better = (value > largest) | nan | (holder < 0)
        largest = tl.where(better, value, largest)
        holder = tl.where(better, source[:, None], holder)
    at = target.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(best + at, largest.to(best.dtype.element_ty), there)
    tl.store(row + at, holder, there)


@triton.jit
def _add_at_rows(
    grad,
    row,
    sums,
    num_rows,
    num_targets,
    channels,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    target = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (target < num_targets)[:, None] & (channel < channels)[None, :]
    at = target.to(tl.int64)[:, None] * channels + channel[None, :]
    to = tl.load(row + at, there, other=0)
    value = tl.load(grad + at, there, other=0.0).to(tl.float32)
    real = there & (to >= 0) & (to < num_rows)
    tl.atomic_add(sums + to * channels + channel[None, :], value, real)


def _grid(rows: int, columns: int) -> tuple[int, int]:
    return triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS)


def maximum(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """As :data:`~mgic_geo.ops.table_max.table_max`."""
    x, table = x.contiguous(), table.contiguous()
    best = x.new_empty(table.size(0), x.size(1))
    row = torch.empty_like(best, dtype=torch.int64)
    if best.numel():
        shape = x.size(0), *best.shape, table.size(1)
        _maximum[_grid(*best.shape)](x, table, best, row, *shape, ROWS=ROWS, COLUMNS=COLUMNS)
    return best, row


def sum_at_rows(grad: Tensor, row: Tensor, num_rows: int) -> Tensor:
    """As :data:`~mgic_geo.ops.neighbor_max.add_at_rows`, sums of half precision in float32."""
    grad, row = grad.contiguous(), row.contiguous()
    sums = grad.new_zeros(num_rows, grad.size(1), dtype=torch.float32)
    if grad.numel():
        _add_at_rows[_grid(*grad.shape)](
            *(grad, row, sums, num_rows, *grad.shape), ROWS=ROWS, COLUMNS=COLUMNS
        )
    return sums.to(grad.dtype)
