"""Weighted sums of features and their six derivatives on a graph: differential convolutions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mgic_geo.ops.compiled import why_not_compiled
from mgic_geo.ops.csrc import build
from mgic_geo.ops.grouped_linear import (
    Packing,
    grouped_linear,
    grouped_linear_weight,
    num_shares,
    packing,
    sum_rows,
    why_not_multiply,
)
from mgic_geo.ops.operator import Kernel, Operation
from mgic_geo.ops.spmm import spmm, targets_of

PARTS = 7  # the features, three first and three second derivatives


class Graph(NamedTuple):
    """The derivatives along three axes, or their transposes, and where clouds end.

    Shape:
        - ``ptr``, ``crossings``: ``(N + 1,)``. ``index``: ``(E,)``. ``value``: ``(E, 3)``.
    """

    ptr: Tensor
    index: Tensor
    value: Tensor
    crossings: Tensor

    def derive(self, x: Tensor) -> list[Tensor]:
        """``x`` and its derivatives, in the order in which a weight has them, each as ``x``."""
        target = targets_of(self.ptr, self.index.numel())

        def along(axis: int, x: Tensor) -> Tensor:
            products = x.index_select(0, self.index) * self.value[:, axis : axis + 1]
            sums = products.new_zeros(x.size(0) + 1, x.size(1))
            return sums.index_add(0, target, products)[:-1].to(x.dtype)

        first = [along(axis, x) for axis in range(3)]
        return [x, *first, *(along(axis, slope) for axis, slope in enumerate(first))]


def _join(parts: list[Tensor], groups: int) -> Tensor:
    """``(N, groups * 7 * C)``: channels of a group under the first operator, the second, ..."""
    return torch.cat([part.unflatten(1, (groups, -1)) for part in parts], dim=2).flatten(1)


def features_and_derivatives(
    x: Tensor,
    groups: int,
    ptr: Tensor,
    index: Tensor,
    value: Tensor,
    ptr_t: Tensor,
    index_t: Tensor,
    value_t: Tensor,
) -> Tensor:
    """``(N, groups * 7 * C)``: what a weight mixes, by products with the derivatives."""

    def along(axis: int, x: Tensor) -> Tensor:
        columns = value[:, axis].contiguous(), value_t[:, axis].contiguous()
        return spmm(x, ptr, index, columns[0], ptr_t, index_t, columns[1])

    first = [along(axis, x) for axis in range(3)]
    second = [along(axis, slope) for axis, slope in enumerate(first)]
    return _join([x, *first, *second], groups)


def _swap(weight: Tensor) -> Tensor:
    """Inputs and outputs of every part exchanged."""
    groups, rows, _ = weight.shape
    parts = weight.view(groups, rows, PARTS, -1)
    return parts.permute(0, 3, 2, 1).reshape(groups, -1, PARTS * rows)


class _Products(NamedTuple):
    """What is added up beside a product: with ``other``, and over the rows."""

    other: Tensor
    plan: Packing
    sums: Tensor
    totals: Tensor


def _multiply(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    graph: Graph,
    products: _Products | None = None,
    *,
    relu: bool = False,
    subtrahend: Tensor | None = None,
) -> Tensor:
    """The derivatives of ``x`` times ``weight``; then ReLU, and less ``subtrahend``."""
    groups, rows, columns = weight.shape
    plan = packing(groups, rows, columns // PARTS, PARTS, lanes=build.lanes())
    x, y = x.contiguous(), x.new_empty(x.size(0), groups * rows)
    beside = (None, 0, None, 0, None, None)
    if products is not None:
        other, other_plan, sums, totals = products
        beside = other, other.size(1), other_plan.begins, other_plan.inputs, sums, totals
    build.run(
        *("mgic_mix_derivatives", x, *x.shape, *(tensor.contiguous() for tensor in graph)),
        *(plan.begins, plan.inputs, y.size(1), plan.pack(weight), plan.pad(bias, y.size(1))),
        *(relu, None if subtrahend is None else subtrahend.contiguous(), y, *beside),
        num_shares(x.size(0)),
    )
    return y


def _reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ptr: Tensor,
    index: Tensor,
    value: Tensor,
    ptr_t: Tensor,
    index_t: Tensor,
    value_t: Tensor,
    crossings: Tensor,
) -> Tensor:
    parts = features_and_derivatives(x, weight.size(0), ptr, index, value, ptr_t, index_t, value_t)
    return grouped_linear(parts, weight, bias)


def _compiled(x: Tensor, weight: Tensor, bias: Tensor | None, *graphs: Tensor) -> Tensor:
    ptr, index, value, *_, crossings = graphs
    return _multiply(x, weight, bias, Graph(ptr, index, value, crossings))


def _why_not(x: Tensor, weight: Tensor, bias: Tensor | None, *graphs: Tensor) -> str | None:
    value, value_t = graphs[2], graphs[5]
    if value.requires_grad or value_t.requires_grad:
        return "value needs gradients"
    return why_not_multiply(weight, x=x, bias=bias, value=value, value_t=value_t)


def _fake(x: Tensor, weight: Tensor, *_: Tensor | None) -> Tensor:
    return x.new_empty(x.size(0), weight.size(0) * weight.size(1))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, *graphs = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight, *graphs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, ptr, index, value, *transposed, crossings = ctx.saved_tensors
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x, grad_weight, grad_bias = mix_derivatives_backward(
            grad, x, weight, *transposed, crossings
        )
    else:
        grad_weight = mix_derivatives_weight(grad, x, weight.size(0), ptr, index, value, crossings)
        grad_bias = sum_rows(grad) if ctx.has_bias else None
    return grad_x, grad_weight, grad_bias if ctx.has_bias else None, *[None] * 7


#: ``(x, weight, bias, ptr, index, value, ptr_t, index_t, value_t, crossings)``: features ``(N, C)``
#: and their derivatives on the graph, mixed group by group with ``weight``,
#: ``(groups, out / groups, 7 * C / groups)``, a group's channels under the first operator in front.
mix_derivatives = Operation(
    "mgic::mix_derivatives",
    _reference,
    Kernel("compiled", _compiled, _why_not),
    fake=_fake,
    setup=_setup,
    backward=_backward,
    flops=lambda x, weight, bias, ptr, index, *_, **__: (
        2 * (6 * index[0] * x[1] + x[0] * weight.numel())
    ),
)


def _apply_reference(
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
    y = mix_derivatives(x, weight, bias, ptr, index, value, ptr_t, index_t, value_t, crossings)
    y = y.relu_() if relu else y
    return y if subtrahend is None else y - subtrahend


def _apply_compiled(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    subtrahend: Tensor | None,
    relu: bool,
    *graphs: Tensor,
) -> Tensor:
    ptr, index, value, *_, crossings = graphs
    graph = Graph(ptr, index, value, crossings)
    return _multiply(x, weight, bias, graph, relu=relu, subtrahend=subtrahend)


def _apply_why_not(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    subtrahend: Tensor | None,
    relu: bool,
    *graphs: Tensor,
) -> str | None:
    return _why_not(x, weight, bias, *graphs) or why_not_compiled(subtrahend=subtrahend)


#: ``(x, weight, bias, subtrahend, relu, ...)``: :data:`mix_derivatives`, then ReLU where that is
#: asked for, less ``subtrahend``, ``(N, out)`` or ``None``, in one pass; for inference.
apply_derivatives = Operation(
    "mgic::apply_derivatives",
    _apply_reference,
    Kernel("compiled", _apply_compiled, _apply_why_not),
    fake=_fake,
    flops=lambda x, weight, bias, other, relu, ptr, index, *_, **__: (
        2 * (6 * index[0] * x[1] + x[0] * weight.numel())
    ),
)


def _backward_reference(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    ptr_t: Tensor,
    index_t: Tensor,
    value_t: Tensor,
    crossings: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    groups, rows, _ = weight.shape
    parts = Graph(ptr_t, index_t, value_t, crossings).derive(grad)
    grad_x = grouped_linear.reference(_join(parts, groups), _swap(weight), None)
    products = grouped_linear_weight.reference(x, _join(parts, groups), groups)
    grad_weight = products.unflatten(1, (PARTS, rows)).permute(0, 2, 1, 3).flatten(2)
    return grad_x, grad_weight, grad.sum(0)


def _backward_compiled(
    grad: Tensor, x: Tensor, weight: Tensor, *transposed: Tensor
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
    shares = num_shares(x.size(0))
    sums, totals = grad.new_zeros(shares, *plan.index.shape), grad.new_zeros(shares, grad.size(1))
    products = _Products(x.contiguous(), plan, sums, totals)
    grad_x = _multiply(grad, _swap(weight), None, Graph(*transposed), products)
    return grad_x, plan.unpack(sums, weight.shape), totals.sum(0)


def _backward_fake(
    grad: Tensor, x: Tensor, weight: Tensor, *_: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), grad.new_empty(grad.size(1))


#: ``(grad, x, weight, ptr_t, index_t, value_t, crossings)``: gradients of ``x``, ``weight`` and
#: ``bias`` of :data:`mix_derivatives`, with the transposed derivatives.
mix_derivatives_backward = Operation(
    "mgic::mix_derivatives_backward",
    _backward_reference,
    Kernel(
        "compiled",
        _backward_compiled,
        lambda grad, x, weight, ptr, index, value, _: why_not_multiply(
            weight, grad=grad, x=x, value=value
        ),
    ),
    fake=_backward_fake,
    flops=lambda grad, x, weight, ptr, index, *_, **__: (
        2 * (6 * index[0] * grad[1] + 2 * x[0] * weight.numel())
    ),
)


def _weight_reference(
    grad: Tensor,
    x: Tensor,
    groups: int,
    ptr: Tensor,
    index: Tensor,
    value: Tensor,
    crossings: Tensor,
) -> Tensor:
    parts = Graph(ptr, index, value, crossings).derive(x)
    return grouped_linear_weight.reference(_join(parts, groups), grad, groups)


def _weight_compiled(grad: Tensor, x: Tensor, groups: int, *graph: Tensor) -> Tensor:
    every = torch.eye(PARTS * x.size(1) // groups).expand(groups, -1, -1)
    return grouped_linear_weight(_multiply(x, every, None, Graph(*graph)), grad, groups)


def _weight_fake(grad: Tensor, x: Tensor, groups: int, *_: Tensor) -> Tensor:
    rows, columns = grad.size(1) // groups, x.size(1) // groups
    return grad.new_empty(groups, rows, PARTS * columns)


#: ``(grad, x, groups, ptr, index, value, crossings)``: the gradient of the weight alone, from the
#: derivatives of ``x``, which should be narrow.
mix_derivatives_weight = Operation(
    "mgic::mix_derivatives_weight",
    _weight_reference,
    Kernel(
        "compiled",
        _weight_compiled,
        lambda grad, x, groups, ptr, index, value, _: why_not_compiled(grad=grad, x=x, value=value),
    ),
    fake=_weight_fake,
    flops=lambda grad, x, groups, ptr, index, *_, **__: (
        2 * (6 * index[0] * x[1] + PARTS * grad[0] * grad[1] * x[1] // groups)
    ),
)
