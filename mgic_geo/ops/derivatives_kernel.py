"""Differential convolutions, compiled."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mgic_geo.ops.csrc import build
from mgic_geo.ops.grouped_linear_kernel import (
    Packing,
    grouped_linear_weight,
    num_shares,
    packing,
)

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


def mix_derivatives(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    graph: Graph,
    *,
    relu: bool = False,
    subtrahend: Tensor | None = None,
) -> Tensor:
    """Weighted sum of the features and their derivatives, group by group.

    Perhaps with ReLU, and perhaps less ``subtrahend``, in the same pass.

    Shape:
        - ``x``: ``(N, groups * in)``. ``weight``: ``(groups, out, 7 * in)``, the features in front.
          ``subtrahend``: ``(N, groups * out)``. Returns the same.
    """
    return _multiply(x, weight, bias, graph, relu=relu, subtrahend=subtrahend)


def mix_derivatives_backward(
    grad: Tensor, x: Tensor, weight: Tensor, transposed: Graph
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, ``weight`` and ``bias``.

    Deriving and mixing commute, one acts on nodes and the other on channels. So this is the same
    operation with the graph and the weight transposed, and the gradient of the weight is the
    product of ``x`` with the derivatives of ``grad``: those of ``x`` need not be kept.

    Shape:
        - ``grad``: ``(N, groups * out)``; the others and what is returned: as in
          :func:`mix_derivatives`.
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
    grad_x = _multiply(grad, _swap(weight), None, transposed, products)
    return grad_x, plan.unpack(sums, weight.shape), totals.sum(0)


def mix_derivatives_weight(grad: Tensor, x: Tensor, groups: int, graph: Graph) -> Tensor:
    """Gradient of ``weight`` alone, with the derivatives of ``x``, which should be narrow.

    Shape:
        - As in :func:`mix_derivatives_backward`.
    """
    every = torch.eye(PARTS * x.size(1) // groups).expand(groups, -1, -1)
    return grouped_linear_weight(mix_derivatives(x, every, None, graph), grad, groups)


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
    """The derivatives of ``x`` times ``weight``."""
    x, subtrahend = x.contiguous(), None if subtrahend is None else subtrahend.contiguous()
    groups, rows, columns = weight.shape
    plan = packing(groups, rows, columns // PARTS, PARTS, lanes=build.lanes())
    y = x.new_empty(x.size(0), groups * rows)
    beside = (None, 0, None, 0, None, None)
    if products is not None:
        other, other_plan, sums, totals = products
        beside = other, other.size(1), other_plan.begins, other_plan.inputs, sums, totals
    build.run(
        *("mgic_mix_derivatives", x, *x.shape, *(tensor.contiguous() for tensor in graph)),
        *(plan.begins, plan.inputs, y.size(1), plan.pack(weight), plan.pad(bias, y.size(1)), relu),
        *(subtrahend, y, *beside, num_shares(x.size(0))),
    )
    return y
