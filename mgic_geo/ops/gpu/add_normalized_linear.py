"""A grouped map, the batch norm after it and a sum, in Triton.

The result of the map, z, is never kept: it is found again wherever it is needed. Every program says
what its share of the rows comes to, and those that need all of them add the shares up in one order,
so that results are the same again and again.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mgic_geo.ops.batch_norm_act import empty_statistics
from mgic_geo.ops.gpu.grouped_linear import ROWS, multiply, product, settings, weight_gradient

SHARE, MAX_SHARES = 256, 64  # rows of a share at least


@triton.jit
def _sum_moments(
    x,
    weight,
    totals,
    spreads,
    num_rows,
    groups,
    outputs,
    inputs,
    share,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * share
    group, out = tl.program_id(1), tl.program_id(2) * OUT + tl.arange(0, OUT)
    total, spread = tl.zeros((OUT,), tl.float32), tl.zeros((OUT,), tl.float32)
    mean = tl.zeros((OUT,), tl.float32)
    sizes = num_rows, groups, outputs, inputs
    for begin in range(0, tl.minimum(share, num_rows - first), ROWS):
        row = first + begin + tl.arange(0, ROWS)
        here = (row < num_rows)[:, None]
        z = product(x, weight, row, out, group, sizes, WIDEN, ROWS, OUT, IN)
        count = tl.minimum(num_rows - first - begin, ROWS).to(tl.float32)
        added = tl.sum(tl.where(here, z, 0.0), 0)
        # squares of what is off by the block's own mean do not cancel
        off = tl.where(here, z - (added / count)[None, :], 0.0)
        gap = added / count - mean
        spread += tl.sum(off * off, 0) + gap * gap * (begin * count / (begin + count))
        total += added
        mean = total / (begin + count)
    at = tl.program_id(0) * groups * outputs + group * outputs + out
    tl.store(totals + at, total, out < outputs)
    tl.store(spreads + at, spread, out < outputs)


@triton.jit
def _normalize(
    addend,
    x,
    weight,
    scale,
    shift,
    totals,
    spreads,
    y,
    statistics,
    num_rows,
    groups,
    outputs,
    inputs,
    share,
    shares,
    eps,
    HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
):
    group, out = tl.program_id(1), tl.program_id(2) * OUT + tl.arange(0, OUT)
    width, channel, wanted = groups * outputs, group * outputs + out, out < outputs
    mean, variance = tl.zeros((OUT,), tl.float32), tl.zeros((OUT,), tl.float32)
    for n in range(shares):
        mean += tl.load(totals + n * width + channel, wanted, other=0.0)
    mean /= num_rows
    for n in range(shares):
        count = tl.minimum(num_rows - n * share, share).to(tl.float32)
        gap = tl.load(totals + n * width + channel, wanted, other=0.0) / count - mean
        spread = tl.load(spreads + n * width + channel, wanted, other=0.0)
        variance += spread + count * gap * gap
    variance /= num_rows
    factor = 1 / tl.sqrt(variance + eps)
    if HAS_SCALE:
        factor *= tl.load(scale + channel, wanted, other=0.0).to(tl.float32)
    offset = tl.zeros((OUT,), tl.float32)
    if HAS_SHIFT:
        offset = tl.load(shift + channel, wanted, other=0.0).to(tl.float32)
    if tl.program_id(0) == 0:
        tl.store(statistics + channel, mean, wanted)
        tl.store(statistics + width + channel, variance, wanted)
        tl.store(statistics + 2 * width + channel, factor, wanted)
        tl.store(statistics + 3 * width + channel, offset, wanted)
        tl.store(statistics + 4 * width + channel, tl.zeros((OUT,), tl.float32), wanted)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    sizes = num_rows, groups, outputs, inputs
    z = product(x, weight, row, out, group, sizes, WIDEN, ROWS, OUT, IN)
    result = (z - mean[None, :]) * factor[None, :] + offset[None, :]
    at, there = row[:, None] * width + channel[None, :], (row < num_rows)[:, None] & wanted[None, :]
    result += tl.load(addend + at, there, other=0.0).to(tl.float32)
    tl.store(y + at, result.to(y.dtype.element_ty), there)


@triton.jit
def _sum_gradients(
    grad,
    x,
    weight,
    statistics,
    totals,
    alongs,
    num_rows,
    groups,
    outputs,
    inputs,
    share,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * share
    group, out = tl.program_id(1), tl.program_id(2) * OUT + tl.arange(0, OUT)
    width, channel, wanted = groups * outputs, group * outputs + out, out < outputs
    mean = tl.load(statistics + channel, wanted, other=0.0)
    total, along = tl.zeros((OUT,), tl.float32), tl.zeros((OUT,), tl.float32)
    sizes = num_rows, groups, outputs, inputs
    for begin in range(0, tl.minimum(share, num_rows - first), ROWS):
        row = first + begin + tl.arange(0, ROWS)
        there = (row < num_rows)[:, None] & wanted[None, :]
        z = product(x, weight, row, out, group, sizes, WIDEN, ROWS, OUT, IN)
        at = row[:, None] * width + channel[None, :]
        g = tl.load(grad + at, there, other=0.0).to(tl.float32)
        total += tl.sum(g, 0)
        along += tl.sum(tl.where(there, g * (z - mean[None, :]), 0.0), 0)
    at = tl.program_id(0) * width + channel
    tl.store(totals + at, total, wanted)
    tl.store(alongs + at, along, wanted)


@triton.jit
def _differentiate(
    grad,
    x,
    weight,
    statistics,
    totals,
    alongs,
    grad_z,
    grad_scale,
    grad_shift,
    num_rows,
    groups,
    outputs,
    inputs,
    shares,
    eps,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
):
    group, out = tl.program_id(1), tl.program_id(2) * OUT + tl.arange(0, OUT)
    width, channel, wanted = groups * outputs, group * outputs + out, out < outputs
    total, along = tl.zeros((OUT,), tl.float32), tl.zeros((OUT,), tl.float32)
    for n in range(shares):
        total += tl.load(totals + n * width + channel, wanted, other=0.0)
        along += tl.load(alongs + n * width + channel, wanted, other=0.0)
    mean = tl.load(statistics + channel, wanted, other=0.0)
    inverse = 1 / (tl.load(statistics + width + channel, wanted, other=0.0) + eps)
    factor = tl.load(statistics + 2 * width + channel, wanted, other=0.0)
    if tl.program_id(0) == 0:
        tl.store(grad_scale + channel, along * tl.sqrt(inverse), wanted)
        tl.store(grad_shift + channel, total, wanted)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    sizes = num_rows, groups, outputs, inputs
    z = product(x, weight, row, out, group, sizes, WIDEN, ROWS, OUT, IN)
    at, there = row[:, None] * width + channel[None, :], (row < num_rows)[:, None] & wanted[None, :]
    g = tl.load(grad + at, there, other=0.0).to(tl.float32) - (total / num_rows)[None, :]
    g -= (z - mean[None, :]) * (inverse * along / num_rows)[None, :]
    tl.store(grad_z + at, (g * factor[None, :]).to(grad_z.dtype.element_ty), there)


class _Launch:
    """How a map of rows is cut into blocks, and its rows into shares."""

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        groups, outputs, inputs = weight.shape
        self.blocks = settings(x, outputs, inputs)
        rows = max(SHARE, triton.cdiv(len(x), MAX_SHARES))
        self.share = triton.cdiv(rows, ROWS) * ROWS
        self.shares = triton.cdiv(len(x), self.share)
        self.sizes = len(x), groups, outputs, inputs
        columns = groups, triton.cdiv(outputs, self.blocks["OUT"])
        self.by_share, self.by_block = (
            (self.shares, *columns),
            (triton.cdiv(len(x), ROWS), *columns),
        )
        self.sums = x.new_empty(2, self.shares, groups * outputs, dtype=torch.float32)


def add_normalized(
    addend: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """As :data:`~mgic_geo.ops.add_normalized_linear.add_normalized_linear`, rows in float32."""
    addend, x, weight = addend.contiguous(), x.contiguous(), weight.contiguous()
    plan, y, statistics = _Launch(x, weight), torch.empty_like(addend), empty_statistics(addend)
    _sum_moments[plan.by_share](x, weight, *plan.sums, *plan.sizes, plan.share, **plan.blocks)
    _normalize[plan.by_block](
        *(addend, x, weight, x if scale is None else scale.contiguous()),
        *(x if shift is None else shift.contiguous(), *plan.sums, y, statistics),
        *(*plan.sizes, plan.share, plan.shares, eps),
        HAS_SCALE=scale is not None,
        HAS_SHIFT=shift is not None,
        **plan.blocks,
    )
    return y, statistics


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, statistics: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of ``x``, ``weight``, scale and shift."""
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    plan, grad_z = _Launch(x, weight), torch.empty_like(grad)
    of_norm = x.new_empty(2, grad.size(1))
    inputs = grad, x, weight, statistics.contiguous(), *plan.sums
    _sum_gradients[plan.by_share](*inputs, *plan.sizes, plan.share, **plan.blocks)
    _differentiate[plan.by_block](
        *(*inputs, grad_z, *of_norm, *plan.sizes, plan.shares, eps), **plan.blocks
    )
    grad_x = multiply(grad_z, weight.transpose(1, 2), None)
    return grad_x, weight_gradient(x, grad_z, weight.size(0)), of_norm[0], of_norm[1]
