"""Grouped edge convolution, by node-wise maps and a maximum over neighbors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn.aggr import MaxAggregation

from mgic_geo.graphs.adjacency import Adjacency, check_sizes, neighbor_max, to_adjacency
from mgic_geo.graphs.table import NeighborTable
from mgic_geo.nn.grouped_linear import GroupedLinear, check_groups, grouped_linear
from mgic_geo.nn.prepared import PreparedConv
from mgic_geo.nn.structured_linear import StructuredLinear
from mgic_geo.ops.operator import may_skip


class GroupedEdgeConv(PreparedConv):
    r"""Edge convolution with one linear map, of which group i sees its own channels only.

    .. math::
        y_i = \max_{j \in \mathcal{N}(i)} W [x_i, x_j - x_i] + b
            = (W_1 - W_2) x_i + b + \max_{j \in \mathcal{N}(i)} W_2 x_j

    The second form maps every node once instead of every edge, and is what runs: the same values
    up to rounding. With ``groups=1`` it is PyG's ``EdgeConv(Linear(2 * in_channels,
    out_channels))``; with more, as many of those side by side on slices of the channels. A node
    without neighbors gives 0. Where neighbors tie for the maximum one of them gets the gradient
    (PyG splits it).

    Args:
        in_channels: Channels of a node.
        out_channels: Channels out.
        groups: Groups of channels that do not see each other.
        bias: Whether to add one.

    Shape:
        - ``x``: ``(N, in_channels)`` or a pair of sources and targets of that width.
        - ``edge_index``: ``(2, E)``, an ``EdgeIndex`` or a transposed ``torch.sparse`` matrix.
        - Returns ``(N, out_channels)``.

    Cost:
        ``2 * in_channels * out_channels / groups`` weights and as many multiply-adds a node, and
        ``out_channels`` for the bias.

    Raises:
        ValueError: If ``groups`` does not divide both widths.

    References:
        Wang et al., Dynamic graph CNN for learning on point clouds (the paper's [65]).

    Example:
        >>> conv = GroupedEdgeConv(16, 32, groups=4)
        >>> conv(torch.randn(3, 16), torch.tensor([[1, 2], [0, 0]])).shape
        torch.Size([3, 32])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__(aggr="max")
        check_groups(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        # each group's input is [x_i, x_j - x_i] of that group
        self.lin = GroupedLinear(2 * in_channels, out_channels, groups=groups, bias=bias)

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        self.lin.reset_parameters()

    def prepare(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Tensor | EdgeIndex | Adjacency | NeighborTable,
    ) -> Tensor | Adjacency | NeighborTable:
        """Take the adjacency apart; the result may be passed as ``edge_index``, many times."""
        source, target = x if isinstance(x, tuple) else (x, x)
        if isinstance(edge_index, Tensor) and self._shows_edges():
            return edge_index  # in the order in which masks of explainers are
        if isinstance(edge_index, NeighborTable):
            check_sizes(edge_index, source.size(0), target.size(0))
            return edge_index
        return to_adjacency(edge_index, source.size(0), target.size(0))

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Tensor | EdgeIndex | Adjacency | NeighborTable,
    ) -> Tensor:
        """Convolve ``x`` over the graph."""
        graph = self.prepare(x, edge_index)
        source, target = x if isinstance(x, tuple) else (x, x)
        if isinstance(graph, Tensor) or self._shows_edges():
            if not isinstance(graph, Tensor) or graph.layout is not torch.strided:
                adjacency = to_adjacency(graph, len(source), len(target))
                graph = torch.stack([adjacency.index, adjacency.targets()])[:, : adjacency.ptr[-1]]
            return self.propagate(graph, x=(source, target), size=(len(source), len(target)))
        center, edge = self.lin.weight.chunk(2, dim=-1)
        own = grouped_linear(target, center - edge, self.lin.bias)
        best = neighbor_max(graph, grouped_linear(source, edge))
        # best is 0 where there are no neighbors, and so is the sum
        return torch.addcmul(best, own, graph.is_reached().unsqueeze(1).to(own.dtype))

    def _shows_edges(self) -> bool:
        """Whether :meth:`message` has to be called: it is watched, or a part was replaced."""
        as_defined = may_skip(self.lin, GroupedLinear, StructuredLinear) and may_skip(
            self.aggr_module, MaxAggregation
        )
        overridden = type(self).message is not GroupedEdgeConv.message
        return overridden or not as_defined or self.shows_messages()

    # propagate_type: (x: Tensor)
    def message(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        """What one edge says, as the equation has it; ``forward`` reaches the same maximum."""
        groups = (self.groups, -1)
        pair = torch.cat([x_i.unflatten(1, groups), (x_j - x_i).unflatten(1, groups)], dim=-1)
        return self.lin(pair.flatten(1))

    def __repr__(self) -> str:
        """Widths and groups."""
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, groups={self.groups})"
        )
