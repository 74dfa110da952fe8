"""Depthwise convolutions that keep the resolution, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mgic_geo.ops.compiled import why_not_in_autocast
from mgic_geo.ops.operator import Kernel, Operation, gradients_of
from mgic_vision.ops.kernel import (
    MAX_KERNEL,
    MAX_MARGIN,
    in_order,
    run_kernel,
    why_not_compiled,
)


def _reference(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    if not x.size(1) == weight.size(0) > 0:
        shapes = f"{tuple(x.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"x and weight must be (B, C, H, W) and (C, 1, k, k), got shapes {shapes}")
    padding = weight.size(2) // 2 * dilation
    return functional.conv2d(x, weight, None, 1, padding, dilation, x.size(1))


def _compiled(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    x, weight = in_order(x), weight.contiguous()
    y = torch.empty_like(x)
    run_kernel("mgic_depthwise", x, weight, y, *_sizes(x, weight, dilation))
    return y


def _why_not(x: Tensor, weight: Tensor, dilation: int) -> str | None:
    kernel = weight.size(2)
    if kernel == 1 or kernel > MAX_KERNEL or kernel // 2 * dilation > MAX_MARGIN:
        return f"a kernel of {kernel} taps, {dilation} apart, is not one from 3 to {MAX_KERNEL}"
    if not x.is_contiguous(memory_format=torch.channels_last):
        return "x is not channels-last"
    return why_not_in_autocast() or why_not_compiled(x=x, weight=weight)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.dilation = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight = ctx.saved_tensors
    of_x, of_weight = depthwise_backward(grad, x, weight, ctx.dilation, *ctx.needs_input_grad[:2])
    needed = ctx.needs_input_grad
    return of_x if needed[0] else None, of_weight if needed[1] else None, None


#: ``(x, weight, dilation)``: every channel of ``(B, C, H, W)`` filtered with ``(C, 1, k, k)``; the
#: size stays.
depthwise = Operation(
    "mgic_vision::depthwise",
    _reference,
    Kernel("compiled", _compiled, _why_not),
    fake=lambda x, weight, dilation: torch.empty_like(x, memory_format=torch.channels_last),
    setup=_setup,
    backward=_backward,
    flops=lambda x, weight, *_, **__: 2 * x.numel() * weight[2] * weight[3],
)


def _backward_reference(
    grad: Tensor, x: Tensor, weight: Tensor, dilation: int, of_x: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    found = gradients_of(lambda x, w: _reference(x, w, dilation), (x, weight), grad)
    return found[0], found[1]


def _backward_compiled(
    grad: Tensor, x: Tensor, weight: Tensor, dilation: int, of_x: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    grad, x, weight = in_order(grad), in_order(x), weight.contiguous()
    grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
    run_kernel(
        *("mgic_depthwise_backward", grad, x, weight, grad_x if of_x else None),
        *(grad_weight if of_weight else None, *_sizes(x, weight, dilation)),
    )
    return grad_x, grad_weight


#: ``(grad, x, weight, dilation, of_x, of_weight)``: gradients of ``x`` and ``weight``; what nobody
#: asks for is not computed, and holds no values.
depthwise_backward = Operation(
    "mgic_vision::depthwise_backward",
    _backward_reference,
    Kernel(
        "compiled",
        _backward_compiled,
        lambda grad, x, weight, *_: why_not_compiled(grad=grad, x=x, weight=weight),
    ),
    fake=lambda grad, x, weight, *_: (
        torch.empty_like(x, memory_format=torch.channels_last),
        torch.empty_like(weight, memory_format=torch.contiguous_format),
    ),
    flops=lambda grad, x, weight, *_, **__: 4 * x.numel() * weight[2] * weight[3],
)


def _sizes(x: Tensor, weight: Tensor, dilation: int) -> tuple[int, ...]:
    return x.size(0), x.size(2), x.size(3), x.size(1), weight.size(2), dilation
