"""Neighborhoods of one size, as a table: the form that devices other than processors work on."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mgic_geo.ops.table_max import table_max


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
        >>> import torch
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
