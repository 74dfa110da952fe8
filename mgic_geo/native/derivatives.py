"""Differential convolutions, compiled."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mgic_geo.native import build
from mgic_geo.native.grouped_linear import address, grouped_linear_weight, num_shares, packing

CHUNK = 32  # channels that the kernel works through together
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


def mix_derivatives(x: Tensor, weight: Tensor, bias: Tensor | None, graph: Graph) -> Tensor:
    """Weighted sum of the features and their derivatives, group by group.

    Shape:
        - ``x``: ``(N, groups * in)``. ``weight``: ``(groups, out, 7 * in)``, the features in front.
          Returns ``(N, groups * out)``.
    """
    return _multiply(x, weight, bias, graph)[0]


def mix_derivatives_backward(
    grad: Tensor, x: Tensor, weight: Tensor, transposed: Graph
) -> tuple[Tensor, Tensor]:
    """Gradients of ``x`` and ``weight``.

    Deriving and mixing commute, one acts on nodes and the other on channels. So this is the same
    operation with the graph and the weight transposed, and the gradient of the weight is the
    product of ``x`` with the derivatives of ``grad``: those of ``x`` need not be kept.

    Shape:
        - ``grad``: ``(N, groups * out)``; the others and what is returned: as in
          :func:`mix_derivatives`.
    """
    back = _swap(weight)
    grad_x, grad_weight = _multiply(grad, back, None, transposed, other=x)
    assert grad_weight is not None
    return grad_x, grad_weight


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


def _multiply(
    x: Tensor, weight: Tensor, bias: Tensor | None, graph: Graph, *, other: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The derivatives of ``x`` times ``weight``, and their products with ``other``."""
    x, other = x.contiguous(), None if other is None else other.contiguous()
    graph = Graph(*(tensor.contiguous() for tensor in graph))
    (nodes, channels), (groups, rows, _) = x.shape, weight.shape
    columns, lanes, shares = channels // groups, build.lanes(), num_shares(nodes)
    plan = packing(groups, rows, columns, PARTS, lanes=lanes)
    packed, bias = plan.pack(weight), plan.pad(bias)
    y = x.new_empty(nodes, groups * rows)
    products = sums = None
    if other is not None:
        products = packing(groups, columns, other.size(1) // groups, PARTS, lanes=lanes)
        sums = x.new_zeros(shares, *products.index.shape)
    failed = build.loaded().mgic_mix_derivatives(
        *(x.data_ptr(), channels, nodes, *(tensor.data_ptr() for tensor in graph)),
        *(*plan.sizes, y.size(1), _is_narrow(groups, rows, columns, lanes)),
        *(packed.data_ptr(), address(bias), y.data_ptr()),
        *(address(other), 0 if other is None else other.size(1)),
        *(products.sizes if products else (0, 0, 0)),
        *(address(sums), shares, torch.get_num_threads()),
    )
    if failed:
        raise MemoryError(f"no memory for the derivatives of {channels} channels")
    if products is None or sums is None:
        return y, None
    return y, products.unpack(sums, (groups, columns, PARTS * other.size(1) // groups))


@lru_cache(maxsize=256)
def _is_narrow(groups: int, rows: int, columns: int, lanes: int) -> bool:
    """Whether no piece of outputs has inputs from two chunks of channels."""
    plan = packing(groups, rows, columns, PARTS, lanes=lanes)
    last = plan.begins + plan.index.size(2) - 1
    return torch.equal(plan.begins // CHUNK, last // CHUNK)
