"""Adjacencies as plain index tensors, and the maximum over neighborhoods.

A ``torch.sparse`` tensor inside a model breaks ``torch.compile``, autocast and half precision, and
transposes itself again in every backward pass. Here an adjacency is converted once, at the
entrance, into the plain tensors of its compressed form.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch_geometric import EdgeIndex

from mgic_geo.graphs.table import NeighborTable
from mgic_geo.ops.compress import check_nodes, compress
from mgic_geo.ops.host import check, is_readable
from mgic_geo.ops.inputs import check_axes
from mgic_geo.ops.neighbor_max import neighbor_max as maximum
from mgic_geo.ops.operator import check_values, is_exporting, is_traced
from mgic_geo.ops.spmm import pointer_of, targets_of

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

    Shape:
        - ``ptr``: ``(num_targets + 1,)``; ``index``, ``order``: ``(num_edges,)``.
    """

    ptr: Tensor
    index: Tensor
    num_sources: int
    order: Tensor | None = None

    @property
    def num_targets(self) -> int:
        """Number of target nodes."""
        return self.ptr.numel() - 1

    def targets(self) -> Tensor:
        """Target node of every edge, ``(num_edges,)``."""
        return targets_of(self.ptr, self.index.numel()).clamp_max(self.num_targets - 1)

    def degree(self) -> Tensor:
        """Number of edges of every target, ``(num_targets,)``."""
        return self.ptr.diff()

    def is_reached(self) -> Tensor:
        """Whether each target has neighbors, ``(num_targets,)``."""
        return self.degree() > 0

    def maximum(self, x: Tensor) -> Tensor:
        """As :func:`neighbor_max`."""
        return maximum(x, self.ptr, self.index)[0]

    def sort(self, edge_value: Tensor) -> Tensor:
        """Edge features in the order of ``index``, from the order of the original list."""
        return edge_value if self.order is None else edge_value[self.order]


def to_adjacency(
    edge_index: Tensor | EdgeIndex | Adjacency | NeighborTable, num_sources: int, num_targets: int
) -> Adjacency:
    """Convert any PyG adjacency to compressed (CSR) form.

    Args:
        edge_index: ``(2, E)`` integers (row 0 source, row 1 target), an ``EdgeIndex``, or the
            transposed adjacency matrix as a ``torch.sparse`` tensor (a row a target). A table of
            neighbors, too.
        num_sources: Number of source nodes.
        num_targets: Number of target nodes.

    Raises:
        ValueError: If it is none of these, its matrix has another size, or it names a node that
            does not exist.

    Example:
        >>> to_adjacency(torch.tensor([[2, 0, 1], [1, 1, 0]]), 3, 3).ptr
        tensor([0, 1, 3, 3])
    """
    if isinstance(edge_index, NeighborTable):
        edge_index = from_neighbors(edge_index.neighbors)
    if isinstance(edge_index, Adjacency):
        check_sizes(edge_index, num_sources, num_targets)
        if edge_index.ptr.dtype == edge_index.index.dtype == torch.int64:
            return edge_index
        return edge_index._replace(ptr=edge_index.ptr.long(), index=edge_index.index.long())
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
    if is_traced() or is_exporting() or not is_readable(source):
        # which nodes there are is known when the program runs, or to the device alone
        ptr, index, order = compress(source, target, num_sources, num_targets)
        return Adjacency(ptr, index, num_sources, order)
    order = None
    if not (target[1:] >= target[:-1]).all():
        target, order = target.sort(stable=True)
        source = source[order]
    return Adjacency(pointer_of(target, num_targets), source.contiguous(), num_sources, order)


def split_edges(edge_index: Tensor, num_sources: int, num_targets: int) -> tuple[Tensor, Tensor]:
    """Source and target of every edge of a list, in int64.

    Shape:
        - ``edge_index``: ``(2, E)``. Returns ``(E,)`` twice.

    Raises:
        ValueError: If it is no list of edges, or names a node that does not exist. While the
            computation is traced or compiled, and on other devices than processors, nodes are
            looked at where they are used.
    """
    if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.dtype not in _INTEGERS:
        raise ValueError(
            f"edge_index must be (2, E) int64 or int32, got shape {tuple(edge_index.shape)} "
            f"of {edge_index.dtype}"
        )
    plain = edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index
    check_values(edge_index=plain)
    source, target = plain.long()
    if not is_traced() and is_readable(plain):
        check_nodes(source, num_sources, "source")
        check_nodes(target, num_targets, "target")
    return source, target


def check_sizes(graph: Adjacency | NeighborTable, num_sources: int, num_targets: int) -> None:
    """Raise where a graph is of another size; nodes are looked at where they are read."""
    if (graph.num_sources, graph.num_targets) != (num_sources, num_targets):
        raise ValueError(
            f"the adjacency is one of {graph.num_sources} sources and {graph.num_targets} "
            f"targets, got features of {num_sources} and {num_targets}"
        )


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
    looks = not is_traced() and is_readable(neighbors)
    if looks and there.all():
        ptr = torch.arange(num_nodes + 1, device=neighbors.device) * neighbors.size(1)
        return Adjacency(ptr, neighbors.reshape(-1), num_nodes)
    ptr = functional.pad(there.sum(1).cumsum(0), (1, 0))
    # (N, k): where each neighbor goes; those that are not there go after the end
    place = (there.cumsum(1) - 1 + ptr[:-1].unsqueeze(1)).where(there, neighbors.numel())
    index = neighbors.new_full((neighbors.numel() + 1,), num_nodes - 1)
    index = index.scatter(0, place.view(-1), neighbors.reshape(-1))[:-1]
    if looks:
        index = index[: int(ptr[-1])]
    return Adjacency(ptr, index, num_nodes)


def _from_edge_index(edge_index: EdgeIndex, num_sources: int, num_targets: int) -> Adjacency:
    _, target = split_edges(edge_index, num_sources, num_targets)
    if not is_readable(target):
        return to_adjacency(edge_index.as_tensor(), num_sources, num_targets)
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
        pair = matrix.crow_indices(), matrix.col_indices()
        _check_compressed(*pair, num_targets, num_sources, "source")
    elif matrix.layout == torch.sparse_csc:
        pair = matrix.ccol_indices(), matrix.row_indices()
        _check_compressed(*pair, num_sources, num_targets, "target")
    else:
        raise ValueError(
            f"a torch.sparse adjacency must be in COO, CSR or CSC layout, got {matrix.layout}"
        )
    csr = matrix if matrix.layout == torch.sparse_csr else matrix.to_sparse_csr()
    return Adjacency(csr.crow_indices().long(), csr.col_indices().long(), num_sources)


def _check_compressed(ptr: Tensor, nodes: Tensor, rows: int, count: int, role: str) -> None:
    """PyTorch itself takes such matrices as they are, right or wrong."""
    check_axes(ptr=(ptr, 1), index=(nodes, 1))
    if ptr.numel() != rows + 1:
        raise ValueError(
            f"a torch.sparse adjacency of {rows} rows must have {rows + 1} pointers (ptr), "
            f"got {ptr.numel()}"
        )
    rises = (ptr[0] == 0) & (ptr[-1] == nodes.numel()) & (ptr.diff() >= 0).all()
    rule = (
        f"a torch.sparse adjacency must have pointers that rise from 0 to {nodes.numel()}, its "
        "number of entries"
    )
    check(rises, lambda: f"{rule}, got {ptr.tolist()}", rule)
    check_nodes(nodes, count, role)


def neighbor_max(adjacency: Adjacency | NeighborTable, x: Tensor) -> Tensor:
    r"""Channel-wise maximum over neighbors, :math:`y_i = \max_e x_{j(e)}`; 0 where there are none.

    The gradient goes to one neighbor where several hold the maximum. It is differentiable twice.

    Shape:
        - ``x``: ``(num_sources, C)``. Returns ``(num_targets, C)``.

    Example:
        >>> edges = to_adjacency(torch.tensor([[1, 2], [0, 0]]), 3, 3)
        >>> neighbor_max(edges, torch.tensor([[1.0], [2.0], [3.0]])).tolist()
        [[3.0], [0.0], [0.0]]
    """
    return adjacency.maximum(x)
