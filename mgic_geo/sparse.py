"""Adjacencies as plain index tensors, and sums over neighborhoods as custom operators.

A ``torch.sparse`` tensor inside a model breaks ``torch.compile``, autocast and half precision, and
transposes itself again in every backward pass. Here an adjacency is taken apart once, at the
entrance, into the plain tensors of its compressed form.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula
from torch_geometric import EdgeIndex

from mgic_geo.operators import Operator

_INTEGERS = (torch.int64, torch.int32)


class Adjacency(NamedTuple):
    """Edges grouped by target node: the compressed form that the operators work on.

    ``index`` may be longer than ``ptr`` says. What follows the last edge is padding, loops at the
    last node, which lets a graph with a varying number of edges have a fixed shape when compiled.

    Args:
        ptr: Where the edges of each target start, and after the last one the number of edges.
        index: Source node of every edge.
        num_sources: Number of source nodes.
        order: Place of every edge in the list it was made from; ``None`` where it was in order.
        value: One number an edge, from the values of a ``torch.sparse`` matrix.

    Shape:
        - ``ptr``: ``(num_targets + 1,)``; ``index``, ``order``, ``value``: ``(num_edges,)``.
    """

    ptr: Tensor
    index: Tensor
    num_sources: int
    order: Tensor | None = None
    value: Tensor | None = None

    @property
    def num_targets(self) -> int:
        """Number of target nodes."""
        return self.ptr.numel() - 1

    def targets(self) -> Tensor:
        """Target node of every edge, ``(num_edges,)``."""
        first = self.ptr[1:-1]  # of every target but number 0
        starts = self.ptr.new_zeros(self.index.numel() + 1)
        starts = starts.scatter_add(0, first, torch.ones_like(first))
        return starts.cumsum(0)[:-1]

    def degree(self) -> Tensor:
        """Number of edges of every target, ``(num_targets,)``."""
        return self.ptr.diff()

    def transpose(self) -> tuple[Adjacency, Tensor]:
        """Every edge the other way round, and for each the place it had in ``index``."""
        edges = torch.arange(self.index.numel(), device=self.index.device)
        # padding stays behind the end
        source = self.index.where(edges < self.ptr[-1], self.num_sources)
        source, perm = source.sort(stable=True)
        ptr = _pointer(source, self.num_sources)
        return Adjacency(ptr, self.targets().index_select(0, perm), self.num_targets), perm

    def sort(self, edge_value: Tensor) -> Tensor:
        """Edge features in the order of ``index``, from the order of the original list."""
        return edge_value if self.order is None else edge_value[self.order]


def to_adjacency(
    edge_index: Tensor | EdgeIndex | Adjacency, num_sources: int, num_targets: int
) -> Adjacency:
    """Take an adjacency as PyG users pass it apart into plain tensors.

    Args:
        edge_index: ``(2, E)`` integers (row 0 source, row 1 target), an ``EdgeIndex``, or the
            transposed adjacency matrix as a ``torch.sparse`` tensor (a row a target).
        num_sources: Number of source nodes.
        num_targets: Number of target nodes.

    Raises:
        ValueError: If it is none of these, its matrix has another size, or it names a node that
            does not exist.

    Example:
        >>> to_adjacency(torch.tensor([[2, 0, 1], [1, 1, 0]]), 3, 3).ptr
        tensor([0, 1, 3, 3])
    """
    if isinstance(edge_index, Adjacency):
        return edge_index
    if not isinstance(edge_index, Tensor):
        raise ValueError(
            "edge_index must be a (2, E) tensor, an EdgeIndex or a torch.sparse matrix, "
            f"got {type(edge_index).__name__}"
        )
    if edge_index.layout != torch.strided:
        return _from_sparse(edge_index, num_sources, num_targets)
    if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.dtype not in _INTEGERS:
        raise ValueError(
            f"edge_index must be (2, E) int64 or int32, got shape {tuple(edge_index.shape)} "
            f"of {edge_index.dtype}"
        )
    if isinstance(edge_index, EdgeIndex):
        return _from_edge_index(edge_index, num_sources, num_targets)
    source, target = edge_index.long()
    order = None
    if torch.compiler.is_compiling():
        target, order = target.sort(stable=True)
        source = source[order]
    elif target.numel():
        _check_nodes(source, num_sources, "source")
        _check_nodes(target, num_targets, "target")
        if not (target[1:] >= target[:-1]).all():
            target, order = target.sort(stable=True)
            source = source[order]
    return Adjacency(_pointer(target, num_targets), source.contiguous(), num_sources, order)


def from_neighbors(neighbors: Tensor) -> Adjacency:
    """Adjacency of a table of neighbors, as :func:`~mgic_geo.neighbors.knn_indices` gives it.

    Shape:
        - ``neighbors``: ``(N, k)``, a row a node, -1 where it has fewer neighbors.

    Example:
        >>> from_neighbors(torch.tensor([[1, 2], [0, -1], [0, 1]]))[:2]
        (tensor([0, 2, 3, 5]), tensor([1, 2, 0, 0, 1]))
    """
    num_nodes = neighbors.size(0)
    there = neighbors >= 0
    if not torch.compiler.is_compiling() and there.all():
        ptr = torch.arange(num_nodes + 1, device=neighbors.device) * neighbors.size(1)
        return Adjacency(ptr, neighbors.reshape(-1), num_nodes)
    ptr = functional.pad(there.sum(1).cumsum(0), (1, 0))
    # (N, k): where each neighbor goes; those that are not there go behind the end
    place = (there.cumsum(1) - 1 + ptr[:-1].unsqueeze(1)).where(there, neighbors.numel())
    index = neighbors.new_full((neighbors.numel() + 1,), num_nodes - 1)
    index = index.scatter(0, place.view(-1), neighbors.reshape(-1))[:-1]
    if not torch.compiler.is_compiling():
        index = index[: int(ptr[-1])]
    return Adjacency(ptr, index, num_nodes)


def _pointer(target: Tensor, num_targets: int) -> Tensor:
    """Starts of equal values in a sorted vector of nodes, ``(num_targets + 1,)``."""
    nodes = torch.arange(num_targets + 1, device=target.device, dtype=target.dtype)
    return torch.searchsorted(target.contiguous(), nodes)


def _check_nodes(nodes: Tensor, count: int, role: str) -> None:
    low, high = (int(value) for value in nodes.aminmax())
    if low < 0 or high >= count:
        raise ValueError(
            f"edge_index names {role} node {low if low < 0 else high}, "
            f"but there are {count} {role} nodes (0 to {count - 1})"
        )


def _from_edge_index(edge_index: EdgeIndex, num_sources: int, num_targets: int) -> Adjacency:
    if edge_index.numel():
        plain = edge_index.as_tensor()
        _check_nodes(plain[0], num_sources, "source")
        _check_nodes(plain[1], num_targets, "target")
    if edge_index.is_sorted_by_col and edge_index.get_sparse_size(1) == num_targets:
        (ptr, index), order = edge_index.get_csc()
        return Adjacency(ptr.long(), index.long(), num_sources, order)
    return to_adjacency(edge_index.as_tensor(), num_sources, num_targets)


def _from_sparse(matrix: Tensor, num_sources: int, num_targets: int) -> Adjacency:
    if tuple(matrix.shape) != (num_targets, num_sources):
        raise ValueError(
            f"a torch.sparse adjacency must be transposed, {num_targets} targets by {num_sources} "
            f"sources, got shape {tuple(matrix.shape)}"
        )
    csr = matrix if matrix.layout == torch.sparse_csr else matrix.to_sparse_csr()
    ptr, index, value = csr.crow_indices().long(), csr.col_indices().long(), csr.values()
    return Adjacency(ptr, index, num_sources, None, value)


class SparseMatrix(NamedTuple):
    """A sparse matrix with its transpose stored, so that no backward pass sorts edges again.

    Args:
        ptr: Where the entries of each row start.
        index: Column of every entry.
        value: The entries.
        ptr_t: As ``ptr``, of the transpose.
        index_t: As ``index``, of the transpose.
        value_t: As ``value``, of the transpose.

    Shape:
        - ``ptr``: ``(rows + 1,)``; ``ptr_t``: ``(columns + 1,)``; the others: ``(entries,)``.
    """

    ptr: Tensor
    index: Tensor
    value: Tensor
    ptr_t: Tensor
    index_t: Tensor
    value_t: Tensor

    @property
    def transposed(self) -> SparseMatrix:
        """The transpose."""
        return SparseMatrix(*self[3:], *self[:3])


def sparse_matrices(adjacency: Adjacency, values: Tensor) -> tuple[SparseMatrix, ...]:
    """Matrices on the same edges, with one sort for all their transposes.

    Shape:
        - ``values``: ``(num_edges, M)``, in the order of ``adjacency.index``. Returns ``M``
          matrices of ``num_targets`` rows and ``num_sources`` columns.

    Example:
        >>> edges = to_adjacency(torch.tensor([[1, 2], [0, 0]]), 3, 3)
        >>> (matrix,) = sparse_matrices(edges, torch.tensor([[1.0], [2.0]]))
        >>> spmm(matrix, torch.tensor([[1.0], [2.0], [3.0]])).tolist()
        [[8.0], [0.0], [0.0]]
    """
    back, perm = adjacency.transpose()
    return tuple(
        SparseMatrix(
            adjacency.ptr, adjacency.index, value, back.ptr, back.index, value.index_select(0, perm)
        )
        for value in values.t().contiguous()
    )


def spmm(matrix: SparseMatrix, x: Tensor) -> Tensor:
    r"""Sparse-dense product, :math:`y_i = \sum_e w_e x_{j(e)}`.

    Shape:
        - ``x``: ``(columns, C)``. Returns ``(rows, C)``.

    Cost:
        ``entries * C`` multiply-adds.
    """
    return _spmm(x, *matrix)


def _product(
    x: Tensor,
    ptr: Tensor,
    index: Tensor,
    value: Tensor,
    ptr_t: Tensor,
    index_t: Tensor,
    value_t: Tensor,
) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
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


def _spmm_fake(x: Tensor, ptr: Tensor, *args: Tensor) -> Tensor:
    return x.new_empty(ptr.size(0) - 1, x.size(1))


def _spmm_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _spmm_backward(ctx, grad: Tensor):
    x, *entries = ctx.saved_tensors
    matrix = SparseMatrix(*entries)
    grad_x = grad_value = None
    if ctx.needs_input_grad[0]:
        grad_x = spmm(matrix.transposed, grad)
    if ctx.needs_input_grad[3]:
        row = Adjacency(matrix.ptr, matrix.index, x.size(0)).targets()
        real = torch.arange(row.numel(), device=row.device) < matrix.ptr[-1]
        grad_value = (grad[row] * x[matrix.index]).sum(-1).where(real, 0)
        grad_value = grad_value.to(matrix.value.dtype)
    return grad_x, None, None, grad_value, None, None, None


_spmm = Operator("mgic::spmm", _product, _spmm_fake, backward=_spmm_backward, setup=_spmm_setup)


@register_flop_formula(torch.ops.mgic.spmm)
def _spmm_flops(x: torch.Size, ptr: torch.Size, index: torch.Size, *args, **kwargs) -> int:
    return 2 * index[0] * x[1]
