"""Weighted sums of features and their six derivatives on a graph: differential convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mgic_geo.ops.csrc import build
from mgic_geo.ops.grouped_linear import (
    grouped_linear,
    grouped_linear_weight,
    packing,
    sum_rows,
    why_not_multiply,
)
from mgic_geo.ops.host import is_readable
from mgic_geo.ops.inputs import check_axes
from mgic_geo.ops.operator import Kernel, Operation, gradients_of
from mgic_geo.ops.spmm import spmm, targets_of

PARTS = 7  # the features, three first and three second derivatives


def features_and_derivatives(x: Tensor, groups: int, *operators: Tensor) -> Tensor:
    """``(N, groups * 7 * C)``: channels of a group, their first derivatives, their second ones.

    Args:
        x: Features, ``(N, groups * C)``.
        groups: Of channels.
        *operators: Fields of :class:`~mgic_geo.graphs.derivatives.DerivativeOperators`.
    """
    ptr, index, value, ptr_t, index_t, value_t, _ = operators
    if not is_readable(x):
        return _all_axes(x, groups, ptr, index, value)

    def along(axis: int, x: Tensor) -> Tensor:
        forth, back = value[:, axis].contiguous(), value_t[:, axis].contiguous()
        return spmm(x, ptr, index, forth, ptr_t, index_t, back)

    first = [along(axis, x) for axis in range(3)]
    second = [along(axis, slope) for axis, slope in enumerate(first)]
    parts = [part.unflatten(1, (groups, -1)) for part in (x, *first, *second)]
    return torch.cat(parts, dim=2).flatten(1)


def _all_axes(x: Tensor, groups: int, ptr: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """:func:`features_and_derivatives` in few operations, along all three axes at once."""
    dtype = torch.promote_types(x.dtype, torch.float32)  # sums of half precision in float32
    value = value.to(dtype).unsqueeze(2)
    target = targets_of(ptr, index.numel()).clamp_max(x.size(0) - 1)  # padding has no weight

    def sum_edges(x: Tensor) -> Tensor:
        """``(N, 1 or 3, C)`` to ``(N, 3, C)``."""
        products = x.to(dtype).index_select(0, index) * value
        sums = products.new_zeros(x.size(0), *products.shape[1:])
        return sums.index_add(0, target, products).to(x.dtype)

    own = x.unsqueeze(1)
    first = sum_edges(own)
    parts = torch.cat([own, first, sum_edges(first)], dim=1)  # (N, 7, C)
    return parts.unflatten(2, (groups, -1)).transpose(1, 2).flatten(1)


def _reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    subtrahend: Tensor | None,
    relu: bool,
    ptr: Tensor,
    index: Tensor,
    value: Tensor,
    ptr_t: Tensor,
    index_t: Tensor,
    value_t: Tensor,
    crossings: Tensor,
) -> Tensor:
    operators = ptr, index, value, ptr_t, index_t, value_t, crossings
    y = grouped_linear(features_and_derivatives(x, weight.size(0), *operators), weight, bias)
    y = y.relu_() if relu else y
    if subtrahend is None:
        return y
    if not subtrahend.is_floating_point():
        raise ValueError(f"subtrahend must be floating point, got {subtrahend.dtype}")
    return y - subtrahend


def _compiled(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    subtrahend: Tensor | None,
    relu: bool,
    *operators: Tensor,
    products: tuple[Tensor | int | None, ...] = (None, 0, None, 0, None, None, None),
) -> Tensor:
    """The kernel; ``products`` says what it adds up beside the result: see there."""
    ptr, index, value, *_, crossings = (tensor.contiguous() for tensor in operators)
    check_axes(x=(x, 2), ptr=(ptr, 1), index=(index, 1), value=(value, 2), crossings=(crossings, 1))
    groups, rows, columns = weight.shape
    if x.size(1) % groups or PARTS * x.size(1) != groups * columns:
        raise ValueError(
            f"x must be (N, C) and weight (groups, out, {PARTS} * C / groups), got shapes "
            f"{tuple(x.shape)} and {tuple(weight.shape)}"
        )
    plan = packing(groups, rows, columns // PARTS, PARTS, lanes=build.lanes())
    x, y = x.contiguous(), x.new_empty(x.size(0), groups * rows)
    if subtrahend is not None and subtrahend.shape != y.shape:
        given = tuple(subtrahend.shape)
        raise ValueError(f"subtrahend must be {tuple(y.shape)}, got shape {given}")
    build.run(
        *("mgic_mix_derivatives", x, *x.shape, ptr, index, value, crossings, plan.begins),
        *(plan.inputs, y.size(1), *plan.pack(weight), plan.pad(bias, y.size(1)), relu),
        *(None if subtrahend is None else subtrahend.contiguous(), y, *products),
    )
    return y


def _why_not(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    subtrahend: Tensor | None,
    relu: bool,
    *operators: Tensor,
) -> str | None:
    values = {"value": operators[2], "value_t": operators[5]}
    if any(value.requires_grad for value in values.values()):
        return "value needs gradients"
    return why_not_multiply(weight, x=x, bias=bias, subtrahend=subtrahend, **values)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, _, ctx.relu, *operators = inputs
    ctx.save_for_backward(x, weight, bias, *operators)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, *operators = ctx.saved_tensors
    grad_subtrahend = -grad if ctx.needs_input_grad[3] else None
    if ctx.relu:
        y = mix_derivatives(x, weight, bias, None, False, *operators)
        grad = grad.masked_fill(y <= 0, 0)
    if ctx.needs_input_grad[0]:
        grad_x, grad_weight, total = mix_derivatives_backward(grad, x, weight, *operators)
        grad_bias = total if ctx.needs_input_grad[2] else None
    else:  # the derivatives of x, which should be narrow
        groups, _, columns = weight.shape
        every = torch.eye(columns, dtype=x.dtype, device=x.device).expand(groups, -1, -1)
        parts = mix_derivatives(x, every, None, None, False, *operators)
        grad_x, grad_weight = None, grouped_linear_weight(parts, grad, groups)
        grad_bias = sum_rows(grad) if ctx.needs_input_grad[2] else None
    return grad_x, grad_weight, grad_bias, grad_subtrahend, *[None] * 8


#: ``(x, weight, bias, subtrahend, relu, *operators)``: features ``(N, C)`` and their derivatives,
#: mixed group by group with ``weight``, ``(groups, out / groups, 7 * C / groups)``, a group's
#: channels under the first operator in front; then ReLU where that is asked for, less
#: ``subtrahend``, ``(N, out)`` or ``None``. The operators are the fields of
#: :class:`~mgic_geo.graphs.derivatives.DerivativeOperators`.
mix_derivatives = Operation(
    "mgic::mix_derivatives",
    _reference,
    Kernel("compiled", _compiled, _why_not),
    fake=lambda x, weight, *_: x.new_empty(x.size(0), weight.size(0) * weight.size(1)),
    setup=_setup,
    backward=_backward,
    flops=lambda x, weight, bias, subtrahend, relu, ptr, index, *_, **__: (
        2 * (6 * index[0] * x[1] + x[0] * weight.numel())
    ),
)


def _backward_reference(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    ptr: Tensor,
    index: Tensor,
    value: Tensor,
    ptr_t: Tensor,
    index_t: Tensor,
    value_t: Tensor,
    crossings: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    operators = ptr, index, value, ptr_t, index_t, value_t, crossings
    found = gradients_of(
        lambda x, weight: _reference(x, weight, None, None, False, *operators), (x, weight), grad
    )
    return found[0], found[1], grad.sum(0)


def _backward_compiled(
    grad: Tensor, x: Tensor, weight: Tensor, *operators: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Deriving and mixing commute: one acts on nodes, the other on channels.

    So this is the same operation with the graph and the weight transposed, and the gradient of the
    weight is the product of ``x`` with the derivatives of ``grad``: those of ``x`` are not kept.
    """
    groups, rows, columns = weight.shape
    if x.shape != (grad.size(0), groups * columns // PARTS) or grad.size(1) != groups * rows:
        raise ValueError(
            f"x must be (N, {groups * columns // PARTS}) and grad (N, {groups * rows}), got shapes "
            f"{tuple(x.shape)} and {tuple(grad.shape)}"
        )
    plan = packing(groups, rows, columns // PARTS, PARTS, lanes=build.lanes())
    grad_weight, grad_bias = x.new_empty(weight.shape), x.new_empty(grad.size(1))
    products = (
        *(x.contiguous(), x.size(1), plan.begins, plan.inputs, plan.inverse),
        *(grad_weight, grad_bias),
    )
    swapped = weight.reshape(groups, rows, PARTS, -1).transpose(1, 3).flatten(2)
    *forth, crossings = operators
    transposed = *forth[3:], *forth[:3], crossings
    grad_x = _compiled(grad, swapped, None, None, False, *transposed, products=products)
    return grad_x, grad_weight, grad_bias


#: ``(grad, x, weight, *operators)``: gradients of ``x``, ``weight`` and ``bias`` of
#: :data:`mix_derivatives` without subtrahend and ReLU.
mix_derivatives_backward = Operation(
    "mgic::mix_derivatives_backward",
    _backward_reference,
    Kernel(
        "compiled",
        _backward_compiled,
        lambda grad, x, weight, *operators: why_not_multiply(
            weight, grad=grad, x=x, value=operators[2], value_t=operators[5]
        ),
    ),
    fake=lambda grad, x, weight, *_: (
        *(torch.empty_like(x), torch.empty_like(weight)),
        grad.new_empty(grad.size(1)),
    ),
    flops=lambda grad, x, weight, ptr, index, *_, **__: (
        2 * (6 * index[0] * grad[1] + 2 * x[0] * weight.numel())
    ),
)
