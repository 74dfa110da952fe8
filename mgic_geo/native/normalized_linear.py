r"""A grouped map and the batch norm behind it, added to features, compiled.

The result of the map is never written: its means and variances are those of its inputs, mapped.
With :math:`C` the covariances of the inputs of a group, :math:`\bar x` their means and :math:`P`
the map, outputs have means :math:`P \bar x` and variances :math:`(P C P^T)_{ii}`; and the two sums
over rows of the norm's backward pass follow from the products of gradients and inputs, which the
gradient of :math:`P` needs anyway.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

from mgic_geo.native import build
from mgic_geo.native.grouped_linear import address, num_shares, packing


class _Layout(ctypes.Structure):
    """``layout`` of normalized_linear.c."""

    _fields_ = (
        ("begins", ctypes.c_void_p),
        ("pieces", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("index", ctypes.c_void_p),
        ("inverse", ctypes.c_void_p),
    )


@lru_cache(maxsize=256)
def _layout(groups: int, rows: int, columns: int, lanes: int) -> _Layout:
    """How a map, ``(groups, rows, columns)``, is packed."""
    plan = packing(groups, rows, columns, lanes=lanes)
    layout = _Layout(*plan.sizes, plan.index.data_ptr(), plan.inverse.data_ptr())
    layout.plan = plan  # whose tensors these are
    return layout


def add_normalized_linear(
    addend: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``addend`` and the batch norm of the map of ``x``.

    Shape:
        - ``addend``: ``(N, groups * out)``. ``x``: ``(N, groups * in)``. ``weight``:
          ``(groups, out, in)``. ``scale``, ``shift``: ``(groups * out,)``.
        - Returns ``(N, groups * out)``, mean and biased variance of the map's results,
          ``(groups * out,)`` both, the means of ``x``, ``(groups * in,)``, and its covariances
          within groups, ``(groups, in, in)``.
    """
    addend, x, weight = addend.contiguous(), x.contiguous(), weight.contiguous()
    scale, shift = (None if each is None else each.contiguous() for each in (scale, shift))
    groups, outputs, inputs = weight.shape
    y, covariance = torch.empty_like(addend), x.new_empty(groups, inputs, inputs)
    mean, variance = x.new_empty(groups * outputs), x.new_empty(groups * outputs)
    center = x.new_empty(groups * inputs)
    forth, own = (_layout(groups, rows, inputs, build.lanes()) for rows in (outputs, inputs))
    failed = build.loaded().mgic_add_normalized_linear(
        *(addend.data_ptr(), x.data_ptr(), x.size(0), groups, outputs, inputs),
        *(weight.data_ptr(), address(scale), address(shift), eps),
        *(ctypes.byref(forth), ctypes.byref(own), y.data_ptr(), mean.data_ptr()),
        *(variance.data_ptr(), center.data_ptr(), covariance.data_ptr()),
        *(num_shares(x.size(0)), torch.get_num_threads()),
    )
    _check(failed, x)
    return y, mean, variance, center, covariance


def add_normalized_linear_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    variance: Tensor,
    center: Tensor,
    covariance: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``x``, ``weight``, ``scale`` and ``shift``.

    Shape:
        - As in :func:`add_normalized_linear`.
    """
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    scale = None if scale is None else scale.contiguous()
    groups, outputs, inputs = weight.shape
    grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
    grad_scale, grad_shift = torch.empty_like(variance), torch.empty_like(variance)
    shapes = (outputs, inputs), (inputs, inputs), (inputs, outputs)
    forth, own, back = (_layout(groups, *shape, build.lanes()) for shape in shapes)
    failed = build.loaded().mgic_add_normalized_linear_backward(
        *(grad.data_ptr(), x.data_ptr(), x.size(0), groups, outputs, inputs),
        *(weight.data_ptr(), address(scale), variance.data_ptr(), center.data_ptr()),
        *(covariance.data_ptr(), eps, *map(ctypes.byref, (forth, own, back))),
        *(grad_x.data_ptr(), grad_weight.data_ptr(), grad_scale.data_ptr()),
        *(grad_shift.data_ptr(), num_shares(x.size(0)), torch.get_num_threads()),
    )
    _check(failed, x)
    return grad_x, grad_weight, grad_scale, grad_shift


def _check(failed: int, x: Tensor) -> None:
    if failed:
        raise MemoryError(f"no memory for {x.size(1)} channels")
