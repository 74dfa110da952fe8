"""First and second derivatives on a graph, as sparse matrices that all layers share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from mgic_geo.graphs.adjacency import Adjacency, split_edges, to_adjacency
from mgic_geo.ops.edge_gradients import derivative_matrices, edge_weights
from mgic_geo.ops.mix_derivatives import features_and_derivatives
from mgic_geo.ops.operator import check_values


class DerivativeOperators(NamedTuple):
    """Derivatives along three axes, as sparse matrices that all layers of a batch share.

    The three matrices have the same entries, the edges and every node's own weight, so that one
    pass over a node's neighbors serves them all. Build them with :func:`derivative_operators`.

    Args:
        ptr: Where the entries of each node start.
        index: Neighbor of every entry.
        value: Weight of every entry in the derivative along each axis.
        ptr_t: As ``ptr``, of the transposes.
        index_t: As ``index``, of the transposes.
        value_t: As ``value``, of the transposes.
        crossings: How many entries join nodes before each one with it or later ones. It is 0 where
            a cloud starts that nothing joins with those before; a cloud at a time stays in cache.

    Shape:
        - ``ptr``, ``crossings``: ``(N + 1,)``. ``index``: ``(entries,)``. ``value``:
          ``(entries, 3)``.
    """

    ptr: Tensor
    index: Tensor
    value: Tensor
    ptr_t: Tensor
    index_t: Tensor
    value_t: Tensor
    crossings: Tensor

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return self.ptr.numel() - 1

    def check(self) -> None:
        """Raise where the parts do not fit each other.

        Raises:
            ValueError: They are of different lengths.
        """
        if (
            self.ptr_t.shape != self.ptr.shape
            or self.crossings.shape != self.ptr.shape
            or self.index_t.shape != self.index.shape
            or self.value_t.shape != self.value.shape
        ):
            raise ValueError(
                "ptr, index and value of derivatives and of their transposes must have the same "
                f"shapes, got {[tuple(x.shape) for x in self]}"
            )

    def derive(self, x: Tensor, groups: int) -> Tensor:
        """``x`` and its six derivatives, group by group.

        Shape:
            - ``x``: ``(N, C)``. Returns ``(N, 7 * C)``: channels of a group, their first
              derivatives along three axes, their second ones.
        """
        return features_and_derivatives(x, groups, *self)


def edge_gradients(
    pos: Tensor,
    edge_index: Tensor | EdgeIndex | Adjacency,
    batch: Tensor | None = None,
    *,
    softening: float = 0.0,
) -> Tensor:
    r"""Weight of every edge in the first derivatives at its target, along three axes.

    .. math::
        \partial_a f_i = \frac{h}{|\mathcal{N}(i)|} \sum_{j \in \mathcal{N}(i)}
            \frac{d_a}{|d|^2 + (s h)^2} (f_j - f_i), \qquad d = p_j - p_i

    with :math:`h` the mean edge length of the cloud. The factor :math:`h` takes the unit away:
    derivatives do not change when the cloud is scaled, and applied twice they are second
    derivatives times :math:`h^2`. Edges of length 0 get weight 0 and are not counted.

    With :math:`s = 0` this is the derivative as diffGCN defines it. Its weights grow as
    :math:`1 / |d|`: among randomly drawn points some neighbors nearly coincide, a few weights are a
    hundred times the others, and batch statistics no longer describe the next batch. Softening
    bounds them by :math:`1 / (2 s)`.

    Args:
        pos: Coordinates, in any unit of length.
        edge_index: Row 0 neighbor, row 1 center.
        batch: Cloud of every point; ``None`` where there is one.
        softening: Length :math:`s` below which differences are damped, in mean edge lengths.

    Shape:
        - ``pos``: ``(N, 3)``. ``batch``: ``(N,)``. Returns ``(E, 3)``, in the order of the edges.

    Raises:
        ValueError: If ``pos`` does not have three coordinates, ``batch`` is not one number a point,
            ``softening`` is negative, or an edge names a point that does not exist.

    References:
        Eliasof and Treister, DiffGCN (the paper's [18]).

    Example:
        >>> pos = torch.tensor([[0.0, 0, 0], [2.0, 0, 0]])
        >>> edge_gradients(pos, torch.tensor([[1, 0], [0, 1]])).tolist()
        [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]
    """
    if pos.dim() != 2 or pos.size(1) != 3 or not pos.is_floating_point():
        raise ValueError(
            f"pos must be (N, 3) floating point, got shape {tuple(pos.shape)} of {pos.dtype}"
        )
    check_values(pos=pos, batch=batch)
    if batch is not None and (batch.shape != pos.shape[:1] or batch.dtype != torch.long):
        raise ValueError(
            f"batch must be ({pos.size(0)},) int64, got shape {tuple(batch.shape)} of {batch.dtype}"
        )
    if not softening >= 0:
        raise ValueError(f"softening must be at least 0, got {softening}")
    source, target = _ends(edge_index, pos.size(0))
    return edge_weights(pos, source, target, batch, softening)


def _ends(edge_index: Tensor | EdgeIndex | Adjacency, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Source and target of every edge, in the order of the list."""
    if not isinstance(edge_index, Tensor) or edge_index.layout != torch.strided:
        adjacency = to_adjacency(edge_index, num_nodes, num_nodes)
        return adjacency.index, adjacency.targets()
    return split_edges(edge_index, num_nodes, num_nodes)


def derivative_operators(adjacency: Adjacency, edge_attr: Tensor) -> DerivativeOperators:
    """Sparse matrices of the derivatives along three axes, their transposes stored.

    Args:
        adjacency: The graph.
        edge_attr: Result of :func:`edge_gradients`, in the order of ``adjacency``'s edges.

    Shape:
        - ``edge_attr``: ``(E, 3)``.

    Example:
        >>> pos = torch.tensor([[0.0, 0, 0], [2.0, 0, 0]])
        >>> graph = to_adjacency(torch.tensor([[1, 0], [0, 1]]), 2, 2)
        >>> operators = derivative_operators(graph, edge_gradients(pos, graph))
        >>> operators.derive(torch.tensor([[0.0], [5.0]]), groups=1)[:, 1].tolist()
        [5.0, 5.0]
    """
    if edge_attr.shape != (adjacency.index.numel(), 3) or not edge_attr.is_floating_point():
        raise ValueError(
            f"edge_attr must be ({adjacency.index.numel()}, 3), one row an edge, floating point, "
            f"got shape {tuple(edge_attr.shape)} of {edge_attr.dtype}"
        )
    return DerivativeOperators(*derivative_matrices(adjacency.ptr, adjacency.index, edge_attr))


@functional_transform("edge_gradients")
class EdgeGradients(BaseTransform):
    """Put :func:`edge_gradients` of ``data.pos`` and ``data.edge_index`` into ``data.edge_attr``.

    Example:
        >>> data = Data(pos=torch.rand(3, 3), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> EdgeGradients()(data).edge_attr.shape
        torch.Size([2, 3])
    """

    def forward(self, data: Data) -> Data:
        """Fill ``data.edge_attr``."""
        if data.pos is None or data.edge_index is None:
            raise ValueError("EdgeGradients needs data.pos and data.edge_index")
        data.edge_attr = edge_gradients(data.pos, data.edge_index, data.batch)
        return data
