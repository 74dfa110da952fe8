"""Weighted sums over neighborhoods along three axes, and their gradient, in Triton."""

# pyright: reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

AXES = 3
ROWS, COLUMNS = 16, 64  # of a block


@triton.jit
def _weighted_sums(
    x,
    nodes,
    weight,
    y,
    num_nodes,
    num_targets,
    channels,
    k,
    axes,
    AXES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    target = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    axis = tl.program_id(2)
    here, wanted = target < num_targets, (channel < channels)[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for place in range(k):
        source = tl.load(nodes + target * k + place, here, other=-1)
        known = (source >= 0) & (source < num_nodes)
        factor = tl.load(weight + (target * k + place) * AXES + axis, here, other=0.0)
        at = (source * axes + tl.minimum(axis, axes - 1))[:, None] * channels + channel[None, :]
        value = tl.load(x + at, known[:, None] & wanted, other=0.0)
        total += factor.to(tl.float32)[:, None] * value.to(tl.float32)
    at = (target * AXES + axis)[:, None] * channels + channel[None, :]
    tl.store(y + at, total.to(y.dtype.element_ty), here[:, None] & wanted)


@triton.jit
def _spread(
    grad,
    nodes,
    weight,
    sums,
    num_nodes,
    num_targets,
    channels,
    k,
    axes,
    AXES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    target = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    axis = tl.program_id(2)
    here, wanted = target < num_targets, (channel < channels)[None, :]
    at = (target * AXES + axis)[:, None] * channels + channel[None, :]
    value = tl.load(grad + at, here[:, None] & wanted, other=0.0).to(tl.float32)
    for place in range(k):
        source = tl.load(nodes + target * k + place, here, other=-1)
        known = (source >= 0) & (source < num_nodes)
        factor = tl.load(weight + (target * k + place) * AXES + axis, here, other=0.0)
        at = (source * axes + tl.minimum(axis, axes - 1))[:, None] * channels + channel[None, :]
        tl.atomic_add(sums + at, factor.to(tl.float32)[:, None] * value, known[:, None] & wanted)


def _grid(rows: int, columns: int) -> tuple[int, int, int]:
    return triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS), AXES


def weighted_sums(x: Tensor, nodes: Tensor, weight: Tensor) -> Tensor:
    """As :data:`~mgic_geo.ops.table_sums.table_sums`, summed in float32."""
    x, nodes, weight = x.contiguous(), nodes.contiguous(), weight.contiguous()
    targets, k, channels = *nodes.shape, x.size(2)
    y = x.new_empty(targets, AXES, channels)
    if y.numel():
        _weighted_sums[_grid(targets, channels)](
            *(x, nodes, weight, y, x.size(0), targets, channels, k, x.size(1)),
            AXES=AXES,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
        )
    return y


def spread(grad: Tensor, nodes: Tensor, weight: Tensor, num_nodes: int, axes: int) -> Tensor:
    """As :data:`~mgic_geo.ops.table_sums.table_sums_backward`, summed in float32."""
    grad, nodes, weight = grad.contiguous(), nodes.contiguous(), weight.contiguous()
    targets, k, channels = *nodes.shape, grad.size(2)
    sums = grad.new_zeros(num_nodes, axes, channels, dtype=torch.float32)
    if grad.numel():
        _spread[_grid(targets, channels)](
            *(grad, nodes, weight, sums, num_nodes, targets, channels, k, axes),
            AXES=AXES,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
        )
    return sums.to(grad.dtype)
