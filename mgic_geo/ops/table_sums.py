"""Sums over neighborhoods of one size with weights along three axes, and their gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mgic_geo.ops.gpu.choice import why_not_triton
from mgic_geo.ops.host import is_readable
from mgic_geo.ops.operator import Kernel, Operation, is_observed, is_transformed


def gather(x: Tensor, nodes: Tensor) -> Tensor:
    """Rows of the neighbors, ``(N, ...)`` and ``(N, k)`` to ``(N, k, ...)``."""
    return x.index_select(0, nodes.flatten()).unflatten(0, nodes.shape)


def _check(nodes: Tensor, weight: Tensor, num_nodes: int, name: str, x: Tensor, fits: bool) -> None:
    """Raise where types, shapes or nodes do not fit, by the name of the first that does not."""
    if nodes.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"nodes must be int64 or int32, got {nodes.dtype}")
    if x.dtype != weight.dtype:
        raise ValueError(f"{name} must be {weight.dtype} like weight, got {x.dtype}")
    pairs = nodes.dim() == 2 and weight.shape == (*nodes.shape, 3)
    for each, given, right in (("weight", weight, pairs), (name, x, fits)):
        if not right:
            wanted, shape = tuple(nodes.shape), tuple(given.shape)
            raise ValueError(f"{each} does not fit nodes {wanted}, got shape {shape}")
    if nodes.numel() and is_readable(nodes) and not (is_observed((nodes,)) or is_transformed()):
        low, high = (int(value) for value in nodes.aminmax())
        if low < 0 or high >= num_nodes:
            raise ValueError(f"nodes must be from 0 to {num_nodes - 1}, got {low} to {high}")


def _reference(x: Tensor, nodes: Tensor, weight: Tensor) -> Tensor:
    _check(nodes, weight, x.size(0), "x", x, x.dim() == 3 and x.size(1) in (1, 3))
    if x.size(1) == 1:
        return weight.mT @ gather(x.squeeze(1), nodes)
    return (weight.unsqueeze(3) * gather(x, nodes)).sum(1)


def _triton(x: Tensor, nodes: Tensor, weight: Tensor) -> Tensor:
    from mgic_geo.ops.gpu import table_sums as kernels

    return kernels.weighted_sums(x, nodes, weight)


def _why_not(x: Tensor, nodes: Tensor, weight: Tensor, *_: int) -> str | None:
    reason = why_not_triton(x, weight)
    return "weight needs gradients" if reason is None and weight.requires_grad else reason


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *table = inputs
    ctx.save_for_backward(*table)
    ctx.sizes = tuple(x.shape[:2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return table_sums_backward(grad, *ctx.saved_tensors, *ctx.sizes), None, None


#: ``(x, nodes, weight)``: along each of three axes the sum over the neighbors, ``(T, k)``, of
#: ``weight``, ``(T, k, 3)``, times ``x``, ``(N, 1, C)`` for the same features along all axes or
#: ``(N, 3, C)``. Returns ``(T, 3, C)``.
table_sums = Operation(
    "mgic::table_sums",
    _reference,
    Kernel("triton", _triton, _why_not),
    fake=lambda x, nodes, weight: x.new_empty(nodes.size(0), 3, x.size(2)),
    setup=_setup,
    backward=_backward,
    flops=lambda x, nodes, weight, **_: 2 * weight[0] * weight[1] * 3 * x[2],
)


def _backward_reference(
    grad: Tensor, nodes: Tensor, weight: Tensor, num_nodes: int, axes: int
) -> Tensor:
    _check(nodes, weight, num_nodes, "grad", grad, grad.shape[:-1] == (nodes.size(0), 3))
    products = weight.unsqueeze(3) * grad.unsqueeze(1)  # (T, k, 3, C)
    if axes == 1:
        products = products.sum(2, keepdim=True)
    sums = grad.new_zeros(num_nodes, axes, grad.size(2))
    return sums.index_add(0, nodes.flatten(), products.flatten(0, 1))


def _backward_triton(
    grad: Tensor, nodes: Tensor, weight: Tensor, num_nodes: int, axes: int
) -> Tensor:
    from mgic_geo.ops.gpu import table_sums as kernels

    return kernels.spread(grad, nodes, weight, num_nodes, axes)


def _twice(ctx: Any, change: Tensor) -> tuple[Tensor, None, None, None, None]:
    return table_sums(change, *ctx.saved_tensors), None, None, None, None


#: ``(grad, nodes, weight, num_nodes, axes)``: the gradient of ``x`` of :data:`table_sums`.
table_sums_backward = Operation(
    "mgic::table_sums_backward",
    _backward_reference,
    Kernel("triton", _backward_triton, _why_not),
    fake=lambda grad, nodes, weight, num_nodes, axes: grad.new_empty(num_nodes, axes, grad.size(2)),
    setup=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[1:3]),
    backward=_twice,
    flops=lambda grad, nodes, weight, *_, **__: 2 * weight[0] * weight[1] * 3 * grad[2],
)
