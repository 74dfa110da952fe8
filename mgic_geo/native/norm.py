"""Batch norm and the activation behind it, compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from mgic_geo.native import build
from mgic_geo.native.grouped_linear import address, num_shares


def norm_act(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: int
) -> tuple[Tensor, Tensor]:
    """Normalize every channel over the rows; one of ``ACTIVATIONS`` behind it.

    Shape:
        - ``x``: ``(N, C)``, or channels-last ``(B, C, H, W)``, whose pixels are the rows.
        - ``weight``, ``bias``: ``(C,)``.
        - Returns that shape, and ``(3, C)``: mean and biased variance of the rows, and the scale
          that the latter and ``weight`` make.
    """
    x = x.contiguous(memory_format=memory_order(x))
    weight = None if weight is None else weight.contiguous()
    channels, rows = x.size(1), x.numel() // x.size(1)
    shares = num_shares(rows)
    bias = x.new_zeros(channels) if bias is None else bias.contiguous()
    y, statistics = torch.empty_like(x), x.new_empty(3, channels)
    sums = x.new_zeros(2, shares, channels, dtype=torch.double)
    build.loaded().mgic_norm(
        *(x.data_ptr(), rows, channels, address(weight), bias.data_ptr(), eps),
        *(activation, y.data_ptr(), statistics.data_ptr()),
        *(sums.data_ptr(), shares, torch.get_num_threads()),
    )
    return y, statistics


def norm_act_backward(
    grad: Tensor, x: Tensor, bias: Tensor | None, statistics: Tensor, eps: float, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, ``weight`` and ``bias``.

    Shape:
        - As in :func:`norm_act`.
    """
    order = memory_order(x)
    grad, x = grad.contiguous(memory_format=order), x.contiguous(memory_format=order)
    channels, rows = x.size(1), x.numel() // x.size(1)
    shares = num_shares(rows)
    bias = x.new_zeros(channels) if bias is None else bias.contiguous()
    grad_x, room = torch.empty_like(x), x.new_empty(2, channels)
    grad_weight, grad_bias = x.new_empty(channels), x.new_empty(channels)
    sums = x.new_zeros(2, shares, channels, dtype=torch.double)
    build.loaded().mgic_norm_backward(
        *(grad.data_ptr(), x.data_ptr(), rows, channels, bias.data_ptr(), statistics.data_ptr()),
        *(eps, activation, grad_x.data_ptr(), grad_weight.data_ptr(), grad_bias.data_ptr()),
        *(room.data_ptr(), sums.data_ptr(), shares, torch.get_num_threads()),
    )
    return grad_x, grad_weight, grad_bias


def memory_order(x: Tensor) -> torch.memory_format:
    """The order in which the channels of a row, or of a pixel, are side by side."""
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format
