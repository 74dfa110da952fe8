"""Neighborhoods of one size, as tables: the form that devices other than processors work on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mgic_geo.ops.edge_gradients import edge_weights
from mgic_geo.ops.table_max import table_max
from mgic_geo.ops.table_sums import table_sums


class NeighborTable(NamedTuple):
    """As many places for neighbors for every target, so that no size depends on values.

    :func:`~mgic_geo.graphs.adjacency.to_adjacency` gives the same edges in compressed form.

    Args:
        neighbors: Source nodes, -1 where a target has fewer.
        filled: The same with a target's first neighbor in places that are left, and
            ``num_sources`` where it has none.
        num_sources: Number of source nodes.

    Shape:
        - ``neighbors``, ``filled``: ``(num_targets, k)``.

    Example:
        >>> NeighborTable.of(torch.tensor([[1, 2], [0, -1], [-1, -1]]), 3).filled
        tensor([[1, 2],
                [0, 0],
                [3, 3]])
    """

    neighbors: Tensor
    filled: Tensor
    num_sources: int

    @classmethod
    def of(cls, neighbors: Tensor, num_sources: int) -> NeighborTable:
        """Fill a table as :func:`~mgic_geo.knn_indices` returns it."""
        filled = neighbors.where(neighbors >= 0, neighbors[:, :1])
        return cls(neighbors, filled.masked_fill(filled < 0, num_sources), num_sources)

    @property
    def num_targets(self) -> int:
        """Number of target nodes."""
        return self.filled.size(0)

    def is_reached(self) -> Tensor:
        """Whether each target has neighbors, ``(num_targets,)``."""
        return self.filled[:, 0] < self.num_sources

    def maximum(self, x: Tensor) -> Tensor:
        """As :func:`~mgic_geo.graphs.adjacency.neighbor_max`."""
        return table_max(x, self.filled)[0]


class DerivativeTable(NamedTuple):
    """Derivatives along three axes on neighborhoods of one size.

    :class:`~mgic_geo.graphs.derivatives.DerivativeOperators` are the same for any graph.

    Args:
        nodes: Neighbors of every node, and the node itself.
        weight: Weight of each of them in the derivative along each axis.

    Shape:
        - ``nodes``: ``(N, k + 1)``. ``weight``: ``(N, k + 1, 3)``.
    """

    nodes: Tensor
    weight: Tensor

    @classmethod
    def of(cls, neighbors: Tensor, weight: Tensor) -> DerivativeTable:
        """Add every node itself, with minus the sum of the other weights.

        Shape:
            - ``neighbors``: ``(N, k)``. ``weight``: ``(N, k, 3)``.
        """
        itself = torch.arange(neighbors.size(0), device=neighbors.device).unsqueeze(1)
        weight = weight * (neighbors != itself).unsqueeze(2)  # a loop derives nothing
        own = -weight.sum(1, keepdim=True)
        return cls(torch.cat([neighbors, itself], dim=1), torch.cat([weight, own], dim=1))

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return self.nodes.size(0)

    def derive(self, x: Tensor, groups: int) -> Tensor:
        """As that of :class:`~mgic_geo.graphs.derivatives.DerivativeOperators`.

        Shape:
            - ``x``: ``(N, C)``. Returns ``(N, 7 * C)``.
        """
        precise = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        own = precise.unsqueeze(1)
        with torch.autocast(x.device.type, enabled=False):
            first = table_sums(own, self.nodes, self.weight)  # (N, 3, C)
            second = table_sums(first, self.nodes, self.weight)
        parts = torch.cat([own, first, second], dim=1).to(x.dtype)  # (N, 7, C)
        # a group's input is its channels under the first operator, under the second, ...
        return parts.unflatten(2, (groups, -1)).transpose(1, 2).flatten(1)


def derivative_table(
    pos: Tensor, neighbors: Tensor, batch: Tensor | None = None, *, softening: float = 0.0
) -> DerivativeTable:
    """Weights of :func:`~mgic_geo.edge_gradients` for a table of neighbors.

    Shape:
        - ``pos``: ``(N, 3)``. ``neighbors``: ``(N, k)``, -1 where there is none. ``batch``:
          ``(N,)``.

    Example:
        >>> pos = torch.tensor([[0.0, 0, 0], [2.0, 0, 0]])
        >>> table = derivative_table(pos, torch.tensor([[1, -1], [0, -1]]))
        >>> table.derive(torch.tensor([[0.0], [5.0]]), groups=1)[:, 1].tolist()
        [5.0, 5.0]
    """
    itself = torch.arange(pos.size(0), device=pos.device).unsqueeze(1)
    filled = neighbors.where(neighbors >= 0, itself)  # edges of length 0 have no weight
    edges = filled.flatten(), itself.expand_as(filled).flatten()
    weight = edge_weights(pos, *edges, batch, softening)
    return DerivativeTable.of(filled, weight.unflatten(0, filled.shape))
