"""Channel-wise maximum over neighborhoods, as a custom operator that is differentiable twice."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional

from mgic_geo.graphs.adjacency import Adjacency, check_nodes, check_pointer
from mgic_geo.ops import native
from mgic_geo.ops.operator import Operator


def neighbor_max(adjacency: Adjacency, x: Tensor) -> Tensor:
    r"""Channel-wise maximum over neighbors, :math:`y_i = \max_e x_{j(e)}`; 0 where there are none.

    The gradient goes to one neighbor where several hold the maximum. It is differentiable twice.

    Shape:
        - ``x``: ``(num_sources, C)``. Returns ``(num_targets, C)``.

    Example:
        >>> from mgic_geo.graphs.adjacency import to_adjacency
        >>> edges = to_adjacency(torch.tensor([[1, 2], [0, 0]]), 3, 3)
        >>> neighbor_max(edges, torch.tensor([[1.0], [2.0], [3.0]])).tolist()
        [[3.0], [0.0], [0.0]]
    """
    return _neighbor_max(x, adjacency.ptr, adjacency.index)[0]


def _best_and_row(x: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    values = x if x.dtype == torch.float64 else x.float()
    if native.usable(values):
        best, row = native.neighbor_max(values, ptr, index)
    else:
        check_pointer(ptr, index)
        index = index[: int(ptr[-1])]
        check_nodes(index, x.size(0), "source")  # sparse products of PyTorch's do not
        best, row = _plain_max(values, ptr, index)
    return best.to(x.dtype), row


def _plain_max(x: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum and the row it is from: one behind the last where there are no neighbors."""
    missing = x.isnan()
    if missing.any():  # a NaN is the maximum wherever it occurs
        best, row = _plain_max(x.masked_fill(missing, 0), ptr, index)
        found, its_row = _plain_max(missing.to(x.dtype), ptr, index)
        return best.masked_fill(found > 0, torch.nan), torch.where(found > 0, its_row, row)
    if x.is_cpu and x.dtype == torch.float32 and x.size(0) < 1 << _SPARE_BITS - 1:
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
    key.view(torch.long).bitwise_or_(torch.arange(x.size(0)).unsqueeze(1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        ones = key.new_ones(index.numel())
        size = ptr.numel() - 1, x.size(0)
        matrix = torch.sparse_csr_tensor(ptr, index, ones, size, check_invariants=False)
    best = torch.sparse.mm(matrix, key, reduce="amax")
    return best.float(), best.view(torch.long).bitwise_and_((1 << _SPARE_BITS) - 1)


_SPARE_BITS = 29  # of a float64 that holds a float32
_MAX_MODE = 2  # of torch.embedding_bag


def _neighbor_max_fake(x: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    best = x.new_empty(ptr.size(0) - 1, x.size(1))
    return best, torch.empty_like(best, dtype=torch.long)


def _neighbor_max_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1])
    ctx.num_sources = inputs[0].size(0)
    ctx.mark_non_differentiable(output[1])


def _neighbor_max_backward(ctx, grad: Tensor, _):
    return _add_at_rows(grad, ctx.saved_tensors[0], ctx.num_sources), None, None


_neighbor_max = Operator(
    "mgic::neighbor_max",
    _best_and_row,
    _neighbor_max_fake,
    backward=_neighbor_max_backward,
    setup=_neighbor_max_setup,
)


def _sums_at_rows(grad: Tensor, row: Tensor, num_rows: int) -> Tensor:
    """Adds ``grad[t, c]`` to row ``row[t, c]`` of channel c; row ``num_rows`` is left out."""
    if native.usable(grad):
        return native.neighbor_max_backward(grad, row, num_rows)
    channels = grad.size(1)
    place = row * channels + torch.arange(channels, device=row.device)
    flat = grad.new_zeros((num_rows + 1) * channels)  # flat: four times faster than by rows
    flat = flat.scatter_add(0, place.view(-1), grad.reshape(-1))
    return flat.view(-1, channels)[:num_rows].clone()


def _add_at_rows_fake(grad: Tensor, row: Tensor, num_rows: int) -> Tensor:
    return grad.new_empty(num_rows, grad.size(1))


def _add_at_rows_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[1])


def _add_at_rows_backward(ctx, grad: Tensor):
    (row,) = ctx.saved_tensors
    return functional.pad(grad, (0, 0, 0, 1)).gather(0, row), None, None


_add_at_rows = Operator(
    "mgic::add_at_rows",
    _sums_at_rows,
    _add_at_rows_fake,
    backward=_add_at_rows_backward,
    setup=_add_at_rows_setup,
)
