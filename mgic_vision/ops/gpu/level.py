"""The branch of an inverted residual in Triton: nothing of the inner width is written to memory.

A depthwise tap reads the expansion of another pixel, which is computed again for every tap: groups
are narrow, and so is what that costs.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mgic_geo.ops.gpu.grouped_linear import product, settings


@triton.jit
def _activate(x, bias, channel, wanted, HAS_BIAS: tl.constexpr, ACTIVATION: tl.constexpr):
    if HAS_BIAS:
        x += tl.load(bias + channel, wanted, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == 1:
        x = tl.where(x < 0, 0.0, x)  # NaN propagates
    elif ACTIVATION == 2:
        x = x * tl.minimum(tl.maximum(x + 3, 0.0), 6.0) / 6
    return x


@triton.jit
def _filter(
    x,
    first,
    first_bias,
    taps,
    pixel,
    middle,
    group,
    image,
    sizes,
    dilation,
    HAS_FIRST: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SIDE: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    IN: tl.constexpr,
):
    height, width = image
    num_pixels, groups, inner, _ = sizes
    channel, wanted = group * inner + middle, middle < inner
    total = tl.zeros((ROWS, INNER), tl.float32)
    for tap in range(SIDE * SIDE):
        down, right = (tap // SIDE - SIDE // 2) * dilation, (tap % SIDE - SIDE // 2) * dilation
        row, column = pixel // width % height + down, pixel % width + right
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        # what lies outside is no pixel: the product is 0 there
        source = tl.where(inside & (pixel < num_pixels), pixel + down * width + right, num_pixels)
        if HAS_FIRST:
            hidden = product(x, first, source, middle, group, sizes, WIDEN, ROWS, INNER, IN)
            hidden = _activate(hidden, first_bias, channel, wanted, HAS_BIAS, ACTIVATION)
        else:
            at = source[:, None] * (groups * inner) + channel[None, :]
            there = (source < num_pixels)[:, None] & wanted[None, :]
            hidden = tl.load(x + at, there, other=0.0).to(tl.float32)
        factor = tl.load(taps + channel * SIDE * SIDE + tap, wanted, other=0.0).to(tl.float32)
        total += tl.where((source < num_pixels)[:, None], hidden * factor[None, :], 0.0)
    return total


@triton.jit
def _level(
    x,
    addend,
    first,
    first_bias,
    taps,
    taps_bias,
    last,
    last_bias,
    y,
    num_pixels,
    height,
    width,
    groups,
    outputs,
    inner,
    inputs,
    dilation,
    HAS_ADDEND: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    HAS_FIRST_BIAS: tl.constexpr,
    HAS_TAPS_BIAS: tl.constexpr,
    HAS_LAST_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SIDE: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    INNER: tl.constexpr,
    IN: tl.constexpr,
):
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    group, out = tl.program_id(1), tl.program_id(2) * OUT + tl.arange(0, OUT)
    image, sizes = (height, width), (num_pixels, groups, inner, inputs)
    total = tl.zeros((ROWS, OUT), tl.float32)
    for begin in range(0, inner, INNER):
        middle = begin + tl.arange(0, INNER)
        wanted = middle < inner
        hidden = _filter(
            *(x, first, first_bias, taps, pixel, middle, group, image, sizes, dilation),
            *(HAS_FIRST, HAS_FIRST_BIAS, ACTIVATION, SIDE, WIDEN, ROWS, INNER, IN),
        )
        channel = group * inner + middle
        hidden = _activate(hidden, taps_bias, channel, wanted, HAS_TAPS_BIAS, ACTIVATION)
        # (INNER, OUT): the weight of a group is (outputs, inner)
        at = (group * outputs + out)[None, :] * inner + middle[:, None]
        right = tl.load(last + at, (out < outputs)[None, :] & wanted[:, None], other=0.0)
        if WIDEN:
            right = right.to(tl.float32)
        total = tl.dot(hidden.to(right.dtype), right, total, input_precision="ieee")
    channel = group * outputs + out
    total = _activate(total, last_bias, channel, out < outputs, HAS_LAST_BIAS, 0)
    at = pixel[:, None] * (groups * outputs) + channel[None, :]
    there = (pixel < num_pixels)[:, None] & (out < outputs)[None, :]
    if HAS_ADDEND:
        total += tl.load(addend + at, there, other=0.0).to(tl.float32)
    tl.store(y + at, total.to(y.dtype.element_ty), there)


def run_level(
    x: Tensor,
    addend: Tensor | None,
    first: Tensor | None,
    first_bias: Tensor | None,
    taps: Tensor,
    taps_bias: Tensor | None,
    last: Tensor,
    last_bias: Tensor | None,
    groups: int,
    dilation: int,
    activation: int,
) -> Tensor:
    """As :data:`~mgic_vision.ops.level.level`, channels innermost."""
    order = torch.channels_last
    x = x.contiguous(memory_format=order)
    batch, channels, height, width = x.shape
    inputs, inner, outputs = (size // groups for size in (channels, taps.size(0), last.size(0)))
    y = x.new_empty((batch, last.size(0), height, width)).contiguous(memory_format=order)
    blocks = settings(x, outputs, inputs)
    weights = [first, first_bias, taps, taps_bias, last, last_bias]
    addend = None if addend is None else addend.contiguous(memory_format=order)
    grid = triton.cdiv(y[:, 0].numel(), blocks["ROWS"]), groups, triton.cdiv(outputs, blocks["OUT"])
    _level[grid](
        *(x, x if addend is None else addend),
        *(x if each is None else each.contiguous() for each in weights),
        *(y, y[:, 0].numel(), height, width, groups, outputs, inner, inputs, dilation),
        HAS_ADDEND=addend is not None,
        HAS_FIRST=first is not None,
        HAS_FIRST_BIAS=first_bias is not None,
        HAS_TAPS_BIAS=taps_bias is not None,
        HAS_LAST_BIAS=last_bias is not None,
        ACTIVATION=activation,
        SIDE=taps.size(2),
        INNER=settings(x, inner, inputs)["OUT"],
        **blocks,
    )
    return y
