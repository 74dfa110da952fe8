"""Depthwise convolutions that keep the resolution and their gradients, compiled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mgic_geo.ops.operator import differentiable_gradients, is_observed, is_transformed
from mgic_vision.ops.kernel import in_order, keeps_size, run_kernel
from mgic_vision.ops.native import computable


def can_filter(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether to do what ``conv`` does in the kernel: to record gradients, where nobody looks on.

    It knows one channel a group and every pixel, channels-last. Without gradients torch is as fast.
    """
    return (
        torch.is_grad_enabled()
        and (x.requires_grad or conv.weight.requires_grad)
        and conv.groups == conv.in_channels == conv.out_channels == x.size(1)
        and conv.bias is None
        and conv.kernel_size != (1, 1)
        and keeps_size(conv)
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and not is_observed((x, conv.weight))
        and not is_transformed()
        and computable(x, conv.weight)
    )


def depthwise(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Filter every channel; the size stays.

    Shape:
        - ``x``: ``(B, C, H, W)``, channels-last. ``weight``: ``(C, 1, k, k)``. Returns as ``x``.
    """
    return _Depthwise.apply(x, weight, dilation)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        x, weight = in_order(x), weight.contiguous()
        y = torch.empty_like(x)
        run_kernel("mgic_depthwise", x, weight, y, *_sizes(x, weight, dilation))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        if torch.is_grad_enabled():  # to differentiate again
            padding = weight.size(2) // 2 * ctx.dilation
            y = functional.conv2d(x, weight, None, 1, padding, ctx.dilation, x.size(1))
            of_x, of_weight = differentiable_gradients(y, (x, weight), grad)
            return of_x, of_weight, None
        grad, x, weight = in_order(grad), in_order(x), weight.contiguous()
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        run_kernel(
            *("mgic_depthwise_backward", grad, x, weight, of_x, of_weight),
            *_sizes(x, weight, ctx.dilation),
        )
        return of_x, of_weight, None


def _sizes(x: Tensor, weight: Tensor, dilation: int) -> tuple[int, ...]:
    return x.size(0), x.size(2), x.size(3), x.size(1), weight.size(2), dilation
