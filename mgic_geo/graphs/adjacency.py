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

from mgic_geo.ops.operator import Operator, check_values, is_exporting, is_traced

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
        return _checked(edge_index, num_sources, num_targets)
    if not isinstance(edge_index, Tensor):
        raise ValueError(
            "edge_index must be a (2, E) tensor, an EdgeIndex or a torch.sparse matrix, "
            f"got {type(edge_index).__name__}"
        )
    if edge_index.layout != torch.strided:
        return _from_sparse(edge_index, num_sources, num_targets)
    if isinstance(edge_index, EdgeIndex):
        return _from_edge_index(edge_index, num_sources, num_targets)
    source, target = split_edges(edge_index, num_sources, num_targets)
    if is_exporting():
        return _exported(source, target, num_sources, num_targets)
    compress = _compress if is_traced() else _compressed
    ptr, index, order = compress(source, target, num_sources, num_targets)
    return Adjacency(ptr, index, num_sources, order)


def split_edges(edge_index: Tensor, num_sources: int, num_targets: int) -> tuple[Tensor, Tensor]:
    """Source and target of every edge of a list, in int64.

    Shape:
        - ``edge_index``: ``(2, E)``. Returns ``(E,)`` twice.

    Raises:
        ValueError: If it is no list of edges, or names a node that does not exist. While the
            computation is traced or compiled, nodes are looked at when it runs.
    """
    if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.dtype not in _INTEGERS:
        raise ValueError(
            f"edge_index must be (2, E) int64 or int32, got shape {tuple(edge_index.shape)} "
            f"of {edge_index.dtype}"
        )
    plain = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
    check_values(edge_index=plain)
    source, target = plain.long()
    if not is_traced():
        check_nodes(source, num_sources, "source")
        check_nodes(target, num_targets, "target")
    return source, target


def _checked(adjacency: Adjacency, num_sources: int, num_targets: int) -> Adjacency:
    """An adjacency of that size; the nodes that it names are looked at where they are read."""
    if (adjacency.num_sources, adjacency.num_targets) != (num_sources, num_targets):
        raise ValueError(
            f"the adjacency is one of {adjacency.num_sources} sources and {adjacency.num_targets} "
            f"targets, got features of {num_sources} and {num_targets}"
        )
    if adjacency.ptr.dtype == adjacency.index.dtype == torch.int64:
        return adjacency
    return adjacency._replace(ptr=adjacency.ptr.long(), index=adjacency.index.long())


def _compressed(
    source: Tensor, target: Tensor, num_sources: int, num_targets: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pointer, sources and places of edges sorted by target; no places where they were sorted."""
    order = None
    if not (target[1:] >= target[:-1]).all():
        target, order = target.sort(stable=True)
        source = source[order]
    return _pointer(target, num_targets), source.contiguous(), order


def _exported(source: Tensor, target: Tensor, num_sources: int, num_targets: int) -> Adjacency:
    """In PyTorch's own operators: index_select refuses nodes that do not exist."""
    sources, targets = (torch.arange(n, device=source.device) for n in (num_sources, num_targets))
    target, order = targets.index_select(0, target).sort(stable=True)
    source = sources.index_select(0, source)[order]
    return Adjacency(_pointer(target, num_targets), source, num_sources, order)


# One opaque operator: whether edges are sorted, and which nodes they name, is known at run time.
def _compress_always(
    source: Tensor, target: Tensor, num_sources: int, num_targets: int
) -> tuple[Tensor, Tensor, Tensor]:
    check_nodes(source, num_sources, "source")
    check_nodes(target, num_targets, "target")
    ptr, index, order = _compressed(source, target, num_sources, num_targets)
    if order is None:
        return ptr, index.clone(), torch.arange(index.numel(), device=index.device)
    return ptr, index, order


def _compress_fake(
    source: Tensor, target: Tensor, num_sources: int, num_targets: int
) -> tuple[Tensor, Tensor, Tensor]:
    return source.new_empty(num_targets + 1), torch.empty_like(source), torch.empty_like(source)


_compress = Operator("mgic::compress", _compress_always, _compress_fake)


def from_neighbors(neighbors: Tensor) -> Adjacency:
    """Adjacency of a table of neighbors, as :func:`~mgic_geo.knn_indices` returns it.

    Shape:
        - ``neighbors``: ``(N, k)``, a row a node, -1 where it has fewer neighbors.

    Example:
        >>> from_neighbors(torch.tensor([[1, 2], [0, -1], [0, 1]]))[:2]
        (tensor([0, 2, 3, 5]), tensor([1, 2, 0, 0, 1]))
    """
    num_nodes = neighbors.size(0)
    there = neighbors >= 0
    if not is_traced() and there.all():
        ptr = torch.arange(num_nodes + 1, device=neighbors.device) * neighbors.size(1)
        return Adjacency(ptr, neighbors.reshape(-1), num_nodes)
    ptr = functional.pad(there.sum(1).cumsum(0), (1, 0))
    # (N, k): where each neighbor goes; those that are not there go behind the end
    place = (there.cumsum(1) - 1 + ptr[:-1].unsqueeze(1)).where(there, neighbors.numel())
    index = neighbors.new_full((neighbors.numel() + 1,), num_nodes - 1)
    index = index.scatter(0, place.view(-1), neighbors.reshape(-1))[:-1]
    if not is_traced():
        index = index[: int(ptr[-1])]
    return Adjacency(ptr, index, num_nodes)


def _pointer(target: Tensor, num_targets: int) -> Tensor:
    """Starts of equal values in a sorted vector of nodes, ``(num_targets + 1,)``."""
    nodes = torch.arange(num_targets + 1, device=target.device, dtype=target.dtype)
    return torch.searchsorted(target.contiguous(), nodes)


def check_nodes(nodes: Tensor, count: int, role: str) -> None:
    """Raise where a node does not exist.

    Raises:
        ValueError: Naming the first such number that is too low, or too high.
    """
    if not nodes.numel():
        return
    low, high = (int(value) for value in nodes.aminmax())
    if low < 0 or high >= count:
        raise ValueError(
            f"edge_index names {role} node {low if low < 0 else high}, "
            f"but there are {count} {role} nodes (0 to {count - 1})"
        )


def _from_edge_index(edge_index: EdgeIndex, num_sources: int, num_targets: int) -> Adjacency:
    _, target = split_edges(edge_index, num_sources, num_targets)
    if edge_index.is_sorted_by_col and not (target[1:] >= target[:-1]).all():
        raise ValueError("edge_index says that it is sorted by target (col), which it is not")
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
    if matrix.layout == torch.sparse_coo:
        target, source = matrix._indices()
        check_nodes(target, num_targets, "target")
        check_nodes(source, num_sources, "source")
    elif matrix.layout == torch.sparse_csr:
        _check_compressed(matrix.crow_indices(), matrix.col_indices(), num_sources, "source")
    elif matrix.layout == torch.sparse_csc:
        _check_compressed(matrix.ccol_indices(), matrix.row_indices(), num_targets, "target")
    else:
        raise ValueError(
            f"a torch.sparse adjacency must be in COO, CSR or CSC layout, got {matrix.layout}"
        )
    csr = matrix if matrix.layout == torch.sparse_csr else matrix.to_sparse_csr()
    ptr, index, value = csr.crow_indices().long(), csr.col_indices().long(), csr.values()
    return Adjacency(ptr, index, num_sources, None, value)


def _check_compressed(ptr: Tensor, nodes: Tensor, count: int, role: str) -> None:
    """PyTorch itself takes such matrices as they are, right or wrong."""
    if ptr[0] != 0 or ptr[-1] != nodes.numel() or (ptr.diff() < 0).any():
        raise ValueError(
            f"a torch.sparse adjacency must have pointers that rise from 0 to {nodes.numel()}, its "
            f"number of entries, got {ptr.tolist()}"
        )
    check_nodes(nodes, count, role)


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

    Raises:
        ValueError: If the matrix does not fit ``x``, or its parts do not fit each other.
    """
    if x.dim() != 2 or x.size(0) != matrix.ptr_t.numel() - 1:
        raise ValueError(
            f"x must be ({matrix.ptr_t.numel() - 1}, C), a row a column of the matrix, got shape "
            f"{tuple(x.shape)}"
        )
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


def check_pointer(ptr: Tensor, index: Tensor) -> None:
    """Raise where ``ptr`` does not begin and end as one of ``index`` does.

    Raises:
        ValueError: It does not start with 0 and end with the entries of ``index`` at most.
    """
    if not ptr.numel() or ptr[0] != 0 or not 0 <= int(ptr[-1]) <= index.numel():
        raise ValueError(
            f"ptr must start with 0 and end with {index.numel()} at most, the entries of index, "
            f"got {ptr.tolist()[:1]} to {ptr.tolist()[-1:]}"
        )


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
