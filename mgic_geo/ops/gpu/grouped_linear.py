"""Block-diagonal maps of rows and the gradient of their weights, in Triton."""

# pyright: reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, WIDE = 64, 64  # of a block at most
NARROW = 16  # a product of blocks needs as many in every direction
SHARE = 1024  # rows whose products a program adds up


@triton.jit
def product(
    x,
    weight,
    row,
    out,
    group,
    sizes,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
):
    """Some rows of ``x`` times the weight of a group, some of its outputs: ``(ROWS, OUT)``."""
    num_rows, groups, outputs, inputs = sizes
    here, wanted = (row < num_rows)[:, None], (out < outputs)[None, :]
    total = tl.zeros((ROWS, OUT), tl.float32)
    for begin in range(0, inputs, IN):
        column = begin + tl.arange(0, IN)
        at = row[:, None] * (groups * inputs) + (group * inputs + column)[None, :]
        left = tl.load(x + at, here & (column < inputs)[None, :], other=0.0)
        # (IN, OUT): the weight of a group is (outputs, inputs)
        at = (group * outputs + out)[None, :] * inputs + column[:, None]
        right = tl.load(weight + at, wanted & (column < inputs)[:, None], other=0.0)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision="ieee")
    return total


@triton.jit
def _multiply(
    x,
    weight,
    bias,
    addend,
    y,
    num_rows,
    groups,
    outputs,
    inputs,
    HAS_BIAS: tl.constexpr,
    HAS_ADDEND: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
):
    group = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    out = tl.program_id(2) * OUT + tl.arange(0, OUT)
    here, wanted = (row < num_rows)[:, None], (out < outputs)[None, :]
    sizes = num_rows, groups, outputs, inputs
    total = product(x, weight, row, out, group, sizes, WIDEN, ROWS, OUT, IN)
    if HAS_BIAS:
        total += tl.load(bias + group * outputs + out, out < outputs, other=0.0).to(tl.float32)
    at = row[:, None] * (groups * outputs) + (group * outputs + out)[None, :]
    if HAS_ADDEND:
        total += tl.load(addend + at, here & wanted, other=0.0).to(tl.float32)
    tl.store(y + at, total.to(y.dtype.element_ty), here & wanted)


@triton.jit
def _add_products(
    x,
    grad,
    sums,
    num_rows,
    groups,
    outputs,
    inputs,
    SHARE: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
):
    group = tl.program_id(1)
    blocks = tl.cdiv(inputs, IN)
    out = tl.program_id(2) // blocks * OUT + tl.arange(0, OUT)
    column = tl.program_id(2) % blocks * IN + tl.arange(0, IN)
    total = tl.zeros((OUT, IN), tl.float32)
    first = tl.program_id(0).to(tl.int64) * SHARE
    for begin in range(0, SHARE, ROWS):
        row = first + begin + tl.arange(0, ROWS)
        here = row < num_rows
        at = row[None, :] * (groups * outputs) + (group * outputs + out)[:, None]
        left = tl.load(grad + at, here[None, :] & (out < outputs)[:, None], other=0.0)
        at = row[:, None] * (groups * inputs) + (group * inputs + column)[None, :]
        right = tl.load(x + at, here[:, None] & (column < inputs)[None, :], other=0.0)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision="ieee")
    at = (group * outputs + out)[:, None] * inputs + column[None, :]
    tl.atomic_add(sums + at, total, (out < outputs)[:, None] & (column < inputs)[None, :])


def settings(x: Tensor, outputs: int, inputs: int) -> dict[str, int | bool]:
    """How a product with groups of such a size is cut into blocks."""
    out, into = (min(max(triton.next_power_of_2(size), NARROW), WIDE) for size in (outputs, inputs))
    # the interpreter takes the bits of bfloat16 for whole numbers in a product
    widen = x.is_cpu and x.dtype == torch.bfloat16
    return {"WIDEN": widen, "ROWS": ROWS, "OUT": out, "IN": into}


def multiply(
    x: Tensor, weight: Tensor, bias: Tensor | None, addend: Tensor | None = None
) -> Tensor:
    """As :data:`~mgic_geo.ops.grouped_linear.grouped_linear`."""
    groups, outputs, inputs = weight.shape
    x, weight, y = x.contiguous(), weight.contiguous(), x.new_empty(len(x), groups * outputs)
    sizes = settings(x, outputs, inputs)
    if y.numel():
        grid = triton.cdiv(len(x), ROWS), groups, triton.cdiv(outputs, sizes["OUT"])
        _multiply[grid](
            *(x, weight, x if bias is None else bias.contiguous()),
            *(x if addend is None else addend.contiguous(), y, len(x), groups, outputs, inputs),
            HAS_BIAS=bias is not None,
            HAS_ADDEND=addend is not None,
            **sizes,
        )
    return y


def weight_gradient(x: Tensor, grad: Tensor, groups: int) -> Tensor:
    """As :data:`~mgic_geo.ops.grouped_linear.grouped_linear_weight`, summed in float32."""
    x, grad = x.contiguous(), grad.contiguous()
    outputs, inputs = grad.size(1) // groups, x.size(1) // groups
    sums = x.new_zeros(groups, outputs, inputs, dtype=torch.float32)
    sizes = settings(x, outputs, inputs)
    blocks = triton.cdiv(outputs, sizes["OUT"]) * triton.cdiv(inputs, sizes["IN"])
    if x.numel() and grad.numel():
        _add_products[(triton.cdiv(len(x), SHARE), groups, blocks)](
            *(x, grad, sums, len(x), groups, outputs, inputs), SHARE=SHARE, **sizes
        )
    return sums.to(x.dtype)
