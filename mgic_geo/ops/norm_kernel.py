"""Batch norm and the activation behind it, compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from mgic_geo.ops.csrc import build
from mgic_geo.ops.grouped_linear_kernel import num_shares

STATISTICS = 5  # of norm.h


def norm_act(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: int
) -> tuple[Tensor, Tensor]:
    """Normalize every channel over the rows; one of ``ACTIVATIONS`` behind it.

    Shape:
        - ``x``: ``(N, C)``, or channels-last ``(B, C, H, W)``, whose pixels are the rows.
        - ``weight``, ``bias``: ``(C,)``.
        - Returns that shape, and ``(STATISTICS, C)``: mean and biased variance of the rows, and
          what the way back needs beside them.
    """
    x = x.contiguous(memory_format=memory_order(x))
    weight, bias = (None if each is None else each.contiguous() for each in (weight, bias))
    rows, channels = _rows_of(x)
    shares = num_shares(rows)
    y, statistics = torch.empty_like(x), x.new_empty(STATISTICS, channels)
    sums = x.new_zeros(2, shares, channels, dtype=torch.double)
    build.run(
        *("mgic_norm", in_memory(x), rows, channels, weight, bias, eps, activation),
        *(in_memory(y), statistics, sums, shares),
    )
    return y, statistics


def norm_act_backward(
    grad: Tensor, x: Tensor, statistics: Tensor, eps: float, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, ``weight`` and ``bias``.

    Shape:
        - As in :func:`norm_act`.
    """
    order = memory_order(x)
    grad, x = grad.contiguous(memory_format=order), x.contiguous(memory_format=order)
    rows, channels = _rows_of(x)
    shares = num_shares(rows)
    grad_x, room = torch.empty_like(x), x.new_empty(2, channels)
    grad_weight, grad_bias = x.new_empty(channels), x.new_empty(channels)
    sums = x.new_zeros(2, shares, channels, dtype=torch.double)
    build.run(
        *("mgic_norm_backward", in_memory(grad), in_memory(x), rows, channels),
        *(statistics.contiguous(), eps, activation, in_memory(grad_x), grad_weight, grad_bias),
        *(room, sums, shares),
    )
    return grad_x, grad_weight, grad_bias


def _rows_of(x: Tensor) -> tuple[int, int]:
    if x.dim() not in (2, 4) or not x.numel():
        raise ValueError(f"x must be (N, C) or (B, C, H, W), none of them 0, got {tuple(x.shape)}")
    return x.numel() // x.size(1), x.size(1)


def memory_order(x: Tensor) -> torch.memory_format:
    """The order in which the channels of a row, or of a pixel, are side by side."""
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


def in_memory(x: Tensor) -> Tensor:
    """``x`` with its axes in the order of memory: the channels last."""
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x
