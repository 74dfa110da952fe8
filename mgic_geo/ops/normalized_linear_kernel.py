"""A grouped map and the batch norm behind it, added to features, compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from mgic_geo.ops.csrc import build
from mgic_geo.ops.grouped_linear_kernel import num_shares, packing
from mgic_geo.ops.norm_kernel import STATISTICS


def add_normalized_linear(
    addend: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """``addend`` and the batch norm of the map of ``x``.

    Shape:
        - ``addend``: ``(N, groups * out)``. ``x``: ``(N, groups * in)``. ``weight``:
          ``(groups, out, in)``. ``scale``, ``shift``: ``(groups * out,)``.
        - Returns ``(N, groups * out)``, and ``(STATISTICS, groups * out)``: mean and biased
          variance of the map's results, and what the way back needs beside them.
    """
    if addend.shape != (x.size(0), weight.size(0) * weight.size(1)):
        raise ValueError(
            f"addend must be ({x.size(0)}, {weight.size(0) * weight.size(1)}), got shape "
            f"{tuple(addend.shape)}"
        )
    addend, x = addend.contiguous(), x.contiguous()
    scale, shift = (None if each is None else each.contiguous() for each in (scale, shift))
    plan, out = packing(*weight.shape, lanes=build.lanes()), addend.size(1)
    y, statistics, shares = (
        torch.empty_like(addend),
        x.new_empty(STATISTICS, out),
        num_shares(x.size(0)),
    )
    sums = x.new_zeros(2, shares, out, dtype=torch.double)
    build.run(
        *("mgic_add_normalized_linear", addend, x, *x.shape, plan.begins, plan.inputs, out),
        *(plan.pack(weight), scale, shift, eps, y, statistics, sums),
        *(x.new_zeros(3, plan.index.size(0) * plan.index.size(3)), shares),
    )
    return y, statistics


def add_normalized_linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, statistics: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``x``, ``weight``, ``scale`` and ``shift``.

    Shape:
        - As in :func:`add_normalized_linear`.
    """
    grad, x, statistics = grad.contiguous(), x.contiguous(), statistics.contiguous()
    groups, rows, columns = weight.shape
    if x.shape != (grad.size(0), groups * columns) or grad.size(1) != groups * rows:
        raise ValueError(
            f"x must be (N, {groups * columns}) and grad (N, {groups * rows}), got shapes "
            f"{tuple(x.shape)} and {tuple(grad.shape)}"
        )
    plan = packing(groups, rows, columns, lanes=build.lanes())
    back = packing(groups, columns, rows, lanes=build.lanes())
    out, shares, grad_x = grad.size(1), num_shares(x.size(0)), torch.empty_like(x)
    grad_map = x.new_zeros(shares, *plan.index.shape)
    grad_scale, grad_shift = x.new_empty(out), x.new_empty(out)
    room = x.new_zeros(3, plan.index.size(0) * plan.index.size(3))
    build.run(
        *("mgic_add_normalized_linear_backward", grad, x, *x.shape, plan.begins, plan.inputs, out),
        *(plan.pack(weight), back.begins, back.inputs, back.pack(weight.transpose(1, 2))),
        *(statistics, eps, grad_x, grad_map, grad_scale, grad_shift, room),
        *(x.new_zeros(2, shares, out, dtype=torch.double), shares),
    )
    return grad_x, plan.unpack(grad_map, weight.shape), grad_scale, grad_shift
