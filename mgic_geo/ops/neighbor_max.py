"""Channel-wise maximum over neighborhoods."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mgic_geo.ops.compiled import why_not_compiled
from mgic_geo.ops.compress import check_nodes
from mgic_geo.ops.csrc import build
from mgic_geo.ops.gpu.choice import why_not_triton
from mgic_geo.ops.host import why_not_on_host
from mgic_geo.ops.inputs import check_axes
from mgic_geo.ops.operator import Kernel, Operation
from mgic_geo.ops.spmm import check_pointer, targets_of

_SPARE_BITS = 29  # of a float64 that holds a float32
_MAX_MODE = 2  # of torch.embedding_bag


def _reference(x: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    num_targets, edges = ptr.numel() - 1, index.numel()
    target = targets_of(ptr, edges).unsqueeze(1).expand(edges, x.size(1))
    values = x.detach().index_select(0, index)
    empty = values.new_full((num_targets + 1, x.size(1)), -torch.inf)
    best = empty.scatter_reduce(0, target, values, "amax")
    found = best.gather(0, target)
    holds = (values == found) | (values.isnan() & found.isnan())
    rows = index.unsqueeze(1).where(holds, x.size(0))
    # of several neighbors that hold the maximum, the one with the lowest number
    first = rows.new_full(best.shape, x.size(0)).scatter_reduce(0, target, rows, "amin")[:-1]
    return functional.pad(x, (0, 0, 0, 1)).gather(0, first), first


def _compiled(x: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    check_axes(x=(x, 2), ptr=(ptr, 1), index=(index, 1))
    x, ptr, index = x.contiguous(), ptr.contiguous(), index.contiguous()
    if not ptr.numel():
        raise ValueError("ptr must start with 0, got none")
    best = x.new_empty(ptr.numel() - 1, x.size(1))
    row = torch.empty_like(best, dtype=torch.long)
    build.run("mgic_neighbor_max", x, *x.shape, ptr, index, best, row)
    return best, row


def _torch(x: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    check_axes(x=(x, 2))
    check_pointer(ptr, index)
    index = index[: int(ptr[-1])]
    check_nodes(index, x.size(0), "source")  # sparse products of PyTorch's do not
    best, row = _plain_max(x if x.dtype == torch.float64 else x.float(), ptr, index)
    return best.to(x.dtype), row


def _plain_max(x: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum and the row it is from: one after the last where there are no neighbors."""
    missing = x.isnan()
    if missing.any():  # a NaN is the maximum wherever it occurs
        best, row = _plain_max(x.masked_fill(missing, 0), ptr, index)
        found, its_row = _plain_max(missing.to(x.dtype), ptr, index)
        return best.masked_fill(found > 0, torch.nan), torch.where(found > 0, its_row, row)
    if x.dtype == torch.float32 and x.size(0) < 1 << _SPARE_BITS - 1:
        best, row = _packed_max(x, ptr, index)
    else:
        best, _, _, row = torch.embedding_bag(
            x, index, ptr, False, _MAX_MODE, include_last_offset=True
        )
    return best, row.masked_fill_((ptr.diff() == 0).unsqueeze(1), x.size(0))


def _packed_max(x: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum and the row it is from, three to four times faster than ``embedding_bag`` finds them.

    A float32 number as a float64 leaves the last 29 bits free. They take the row, which decides
    between equal values only, and a plain maximum over the neighbors carries it along.
    """
    key = x.double()
    # an infinity has no free bits, and 0 would become a number that processors may flush to 0;
    # both limits are out of float32's range and rounded away in the end
    key.clamp_(-(2.0**1000), 2.0**1000).add_(2.0**-1000)
    key.view(torch.long).bitwise_or_(torch.arange(x.size(0), device=x.device).unsqueeze(1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        ones = key.new_ones(index.numel())
        size, device = (ptr.numel() - 1, x.size(0)), x.device
        matrix = torch.sparse_csr_tensor(
            ptr, index, ones, size, device=device, check_invariants=False
        )
    best = torch.sparse.mm(matrix, key, reduce="amax")
    return best.float(), best.view(torch.long).bitwise_and_((1 << _SPARE_BITS) - 1)


def _fake(x: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    best = x.new_empty(ptr.size(0) - 1, x.size(1))
    return best, torch.empty_like(best, dtype=torch.long)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.num_sources = inputs[0].size(0)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    return add_at_rows(grad, ctx.saved_tensors[0], ctx.num_sources), None, None


#: ``(x, ptr, index)``: the maximum of ``x``, ``(N, C)``, over the neighbors of every node, 0 where
#: there are none, and the row it is from, N where there are none. NaN is the largest of all. The
#: gradient goes to one neighbor where several hold the maximum.
neighbor_max = Operation(
    "mgic::neighbor_max",
    _reference,
    Kernel("compiled", _compiled, lambda x, ptr, index: why_not_compiled(x=x)),
    Kernel("torch", _torch, lambda x, *_: why_not_on_host(x)),
    fake=_fake,
    setup=_setup,
    backward=_backward,
)


def _rows_reference(grad: Tensor, row: Tensor, num_rows: int) -> Tensor:
    sums = grad.new_zeros(num_rows + 1, grad.size(1))
    return sums.scatter_add(0, row, grad)[:-1].clone()


def _rows_compiled(grad: Tensor, row: Tensor, num_rows: int) -> Tensor:
    check_axes(grad=(grad, 2), row=(row, 2))
    grad, row = grad.contiguous(), row.contiguous()
    sums = grad.new_zeros(num_rows, grad.size(1))
    build.run("mgic_neighbor_max_backward", grad, row, len(grad), *sums.shape, sums)
    return sums


def _rows_triton(grad: Tensor, row: Tensor, num_rows: int) -> Tensor:
    from mgic_geo.ops.gpu import table_max as kernels

    return kernels.sum_at_rows(grad, row, num_rows)


def _rows_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (row,) = ctx.saved_tensors
    return functional.pad(grad, (0, 0, 0, 1)).gather(0, row), None, None


#: ``(grad, row, num_rows)``: ``grad[t, c]`` added to row ``row[t, c]`` of channel c; what goes to
#: row ``num_rows`` is left out.
add_at_rows = Operation(
    "mgic::add_at_rows",
    _rows_reference,
    Kernel("triton", _rows_triton, lambda grad, row, num_rows: why_not_triton(grad)),
    Kernel("compiled", _rows_compiled, lambda grad, row, num_rows: why_not_compiled(grad=grad)),
    fake=lambda grad, row, num_rows: grad.new_empty(num_rows, grad.size(1)),
    setup=lambda ctx, inputs, output: ctx.save_for_backward(inputs[1]),
    backward=_rows_backward,
)
