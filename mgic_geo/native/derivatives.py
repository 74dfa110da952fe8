"""Differential convolutions, compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from mgic_geo.native import build
from mgic_geo.native.grouped_linear import address, num_shares, packing

PARTS = 7  # the features, three first and three second derivatives


def mix_derivatives(
    x: Tensor, weight: Tensor, bias: Tensor | None, ptr: Tensor, index: Tensor, value: Tensor
) -> Tensor:
    """Weighted sum of the features and their derivatives, group by group.

    Shape:
        - ``x``: ``(N, groups * in)``. ``weight``: ``(groups, out, 7 * in)``, the features in front.
        - ``ptr``: ``(N + 1,)``. ``index``: ``(E,)``. ``value``: ``(E, 3)``, the node's own weight
          among the edges. Returns ``(N, groups * out)``.
    """
    return _run(x, weight, bias, ptr, index, value)[0]


def mix_derivatives_backward(
    grad: Tensor, x: Tensor, weight: Tensor, ptr_t: Tensor, index_t: Tensor, value_t: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of ``x`` and ``weight``.

    Deriving and mixing commute, one acts on nodes and the other on channels. So this is the same
    operation with the graph and the weight transposed, and the gradient of the weight is the
    product of ``x`` with the derivatives of ``grad``: those of ``x`` need not be kept.

    Shape:
        - ``grad``: ``(N, groups * out)``; ``ptr_t``, ``index_t``, ``value_t``: the transposed
          graph; the others and what is returned: as in :func:`mix_derivatives`.
    """
    groups, rows, _ = weight.shape
    back = (
        weight.view(groups, rows, PARTS, -1).permute(0, 3, 2, 1).reshape(groups, -1, PARTS * rows)
    )
    grad_x, grad_weight = _run(grad, back, None, ptr_t, index_t, value_t, other=x)
    assert grad_weight is not None
    return grad_x, grad_weight


def _run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ptr: Tensor,
    index: Tensor,
    value: Tensor,
    *,
    other: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    x, ptr, index, value = (tensor.contiguous() for tensor in (x, ptr, index, value))
    (nodes, channels), (groups, rows, columns) = x.shape, weight.shape
    columns //= PARTS
    library, threads = build.loaded(), torch.get_num_threads()
    first = x.new_empty(nodes, 3, channels)
    edges = ptr.data_ptr(), index.data_ptr(), value.data_ptr()
    library.mgic_derive(x.data_ptr(), channels, nodes, *edges, first.data_ptr(), threads)

    plan = packing(groups, rows, columns, PARTS, lanes=build.lanes())
    packed, bias = plan.pack(weight), plan.pad(bias)
    y = x.new_empty(nodes, groups * rows)
    shares = num_shares(nodes)
    products, sums = plan, None
    if other is not None:
        other = other.contiguous()
        products = packing(groups, columns, rows, PARTS, lanes=build.lanes())
        sums = x.new_zeros(shares, *products.index.shape)
    failed = library.mgic_mix_derivatives(
        *(x.data_ptr(), first.data_ptr(), channels, nodes, *edges, *plan.sizes, y.size(1)),
        *(packed.data_ptr(), address(bias), y.data_ptr()),
        *(address(other), groups * rows, *products.sizes, address(sums), shares, threads),
    )
    if failed:
        raise MemoryError(f"no memory for the derivatives of {channels} channels")
    if sums is None:
        return y, None
    return y, products.unpack(sums.sum(0)).view(groups, columns, PARTS * rows)
