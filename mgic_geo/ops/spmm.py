"""Sparse-dense product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mgic_geo.ops.host import why_not_on_host
from mgic_geo.ops.inputs import check_axes
from mgic_geo.ops.operator import Kernel, Operation


def targets_of(ptr: Tensor, entries: int) -> Tensor:
    """Row of every entry of a compressed matrix; the number of rows for padding after the last.

    Shape:
        - ``ptr``: ``(rows + 1,)``. Returns ``(entries,)``.

    Example:
        >>> targets_of(torch.tensor([0, 1, 1, 3]), 4)
        tensor([0, 2, 2, 3])
    """
    ends = ptr.new_zeros(entries + 1).index_add(0, ptr[1:], torch.ones_like(ptr[1:]))
    return ends.cumsum(0)[:-1]  # how many rows end before an entry, or right there


def pointer_of(target: Tensor, num_targets: int) -> Tensor:
    """Starts of equal values in a sorted vector of nodes, ``(num_targets + 1,)``.

    Example:
        >>> pointer_of(torch.tensor([0, 2, 2]), 3)
        tensor([0, 1, 1, 3])
    """
    nodes = torch.arange(num_targets + 1, device=target.device, dtype=target.dtype)
    return torch.searchsorted(target.contiguous(), nodes)


def transpose(ptr: Tensor, index: Tensor, num_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pointer and index of the transpose, and for each of its entries the place it had before.

    Shape:
        - ``ptr``: ``(rows + 1,)``. ``index``: ``(entries,)``. Returns ``(num_columns + 1,)`` and
          twice ``(entries,)``.

    Example:
        >>> transpose(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 0]), 2)
        (tensor([0, 2, 3]), tensor([0, 1, 0]), tensor([0, 2, 1]))
    """
    row = targets_of(ptr, index.numel())
    padding = row == ptr.numel() - 1  # stays after the end
    column, perm = index.where(~padding, num_columns).sort(stable=True)
    row = row.clamp_max(ptr.numel() - 2)
    return pointer_of(column, num_columns), row.index_select(0, perm), perm


def check_pointer(ptr: Tensor, index: Tensor) -> None:
    """Raise where ``ptr`` is not one of ``index``.

    Raises:
        ValueError: It has not one axis or no integers, does not start with 0, falls, or ends after
            the entries of ``index``.
    """
    check_axes(ptr=(ptr, 1), index=(index, 1))
    if not {ptr.dtype, index.dtype} <= {torch.int64, torch.int32}:
        raise ValueError(f"ptr and index must be int64 or int32, got {ptr.dtype} and {index.dtype}")
    if not ptr.numel() or ptr[0] != 0 or not 0 <= int(ptr[-1]) <= index.numel():
        raise ValueError(
            f"ptr must start with 0 and end with {index.numel()} at most, the entries of index, "
            f"got {ptr.tolist()[:1]} to {ptr.tolist()[-1:]}"
        )
    if (ptr[1:] < ptr[:-1]).any():
        place = int((ptr[1:] < ptr[:-1]).nonzero()[0])
        raise ValueError(f"ptr must not fall, got {ptr[place : place + 2].tolist()} from {place}")


def _reference(
    x: Tensor,
    ptr: Tensor,
    index: Tensor,
    value: Tensor,
    ptr_t: Tensor,
    index_t: Tensor,
    value_t: Tensor,
) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)  # sums of half precision in float32
    products = x.to(dtype).index_select(0, index) * value.to(dtype).unsqueeze(1)
    sums = products.new_zeros(ptr.numel(), x.size(1))
    return sums.index_add(0, targets_of(ptr, index.numel()), products)[:-1].to(x.dtype)


def _embedding_bag(x: Tensor, ptr: Tensor, index: Tensor, value: Tensor, *_: Tensor) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    check_axes(x=(x, 2))
    if index.shape != value.shape:
        raise ValueError(
            f"index and value must be one number an entry, got shapes {tuple(index.shape)} and "
            f"{tuple(value.shape)}"
        )
    check_pointer(ptr, index)
    entries = slice(int(ptr[-1]))
    sums = functional.embedding_bag(
        index[entries],
        x.to(dtype),
        ptr,
        mode="sum",
        per_sample_weights=value[entries].to(dtype),
        include_last_offset=True,
    )
    return sums.to(x.dtype)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, ptr, index, value, *transposed = ctx.saved_tensors
    grad_x = grad_value = None
    if ctx.needs_input_grad[0]:
        grad_x = spmm(grad, *transposed, ptr, index, value)
    if ctx.needs_input_grad[3]:
        row = targets_of(ptr, index.numel())
        real = row < grad.size(0)
        row = row.clamp_max(grad.size(0) - 1)
        products = grad.index_select(0, row) * x.index_select(0, index)
        grad_value = products.sum(-1).where(real, 0).to(value.dtype)
    return grad_x, None, None, grad_value, None, None, None


#: ``(x, ptr, index, value, ptr_t, index_t, value_t)``: the product of a compressed matrix, which
#: comes with its transpose, and ``x``: :math:`y_i = \sum_e w_e x_{j(e)}`.
spmm = Operation(
    "mgic::spmm",
    _reference,
    Kernel("embedding_bag", _embedding_bag, lambda x, *_: why_not_on_host(x)),
    fake=lambda x, ptr, *_: x.new_empty(ptr.size(0) - 1, x.size(1)),
    setup=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    backward=_backward,
    flops=lambda x, ptr, index, *_, **__: 2 * index[0] * x[1],
)
