"""Graph convolution by differential operators."""

from __future__ import annotations

from torch import Tensor
from torch_geometric import EdgeIndex

from mgic_geo.graphs.adjacency import Adjacency, to_adjacency
from mgic_geo.graphs.derivatives import DerivativeOperators, derivative_operators
from mgic_geo.graphs.table import DerivativeTable
from mgic_geo.nn.grouped_linear import GroupedLinear, check_groups
from mgic_geo.nn.prepared import PreparedConv
from mgic_geo.nn.structured_linear import StructuredLinear
from mgic_geo.ops import mix_derivatives as ops
from mgic_geo.ops.operator import may_skip


class DiffGCNConv(PreparedConv):
    r"""Convolution by seven operators: identity, three first and three second derivatives.

    .. math::
        y = \theta_1 f + \theta_2 f_x + \theta_3 f_y + \theta_4 f_z
            + \theta_5 f_{xx} + \theta_6 f_{yy} + \theta_7 f_{zz}

    A second derivative is the first applied twice. The operators are sparse matrices on the edges,
    fixed by the geometry; only the :math:`\theta` are learned.

    Args:
        in_channels: Channels of a node.
        out_channels: Channels out.
        groups: Groups of channels that do not see each other.
        bias: Whether to add one.

    Shape:
        - ``x``: ``(N, in_channels)``.
        - ``edge_index``: ``(2, E)``, an ``EdgeIndex`` or a transposed ``torch.sparse`` matrix, with
          ``edge_attr`` ``(E, 3)`` from :func:`edge_gradients` of the same; or
          :class:`DerivativeOperators` alone.
        - Returns ``(N, out_channels)``.

    Cost:
        ``7 * in_channels * out_channels / groups`` weights and as many multiply-adds a node, and
        ``6 * (E / N + 1) * in_channels`` multiply-adds a node for the derivatives.

    Raises:
        ValueError: If ``groups`` does not divide both widths, or ``edge_attr`` is missing.

    References:
        Section 4.5; Eliasof and Treister, DiffGCN (the paper's [18]).

    Example:
        >>> import torch
        >>> from mgic_geo import edge_gradients
        >>> pos, edge_index = torch.rand(3, 3), torch.tensor([[1, 2, 0], [0, 0, 1]])
        >>> conv = DiffGCNConv(8, 16, groups=2)
        >>> conv(torch.randn(3, 8), edge_index, edge_gradients(pos, edge_index)).shape
        torch.Size([3, 16])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__(aggr="sum")
        check_groups(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.relu = False  # set by fuse, which leaves out the activation after it
        # a group's input is its channels under the first operator, under the second, ...
        self.lin = GroupedLinear(ops.PARTS * in_channels, out_channels, groups=groups, bias=bias)

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        self.lin.reset_parameters()

    def prepare(
        self,
        x: Tensor,
        edge_index: Tensor | EdgeIndex | Adjacency | DerivativeOperators | DerivativeTable,
        edge_attr: Tensor | None = None,
    ) -> DerivativeOperators | DerivativeTable:
        """Build the operators; the result may be passed as ``edge_index``, many times."""
        if isinstance(x, tuple):
            raise ValueError("DiffGCNConv needs one set of nodes, got a bipartite pair")
        if isinstance(edge_index, DerivativeOperators | DerivativeTable):
            return edge_index
        if edge_attr is None:
            raise ValueError("DiffGCNConv needs edge_attr=edge_gradients(pos, edge_index)")
        adjacency = to_adjacency(edge_index, x.size(0), x.size(0))
        if edge_attr.shape != (adjacency.index.numel(), 3):
            raise ValueError(
                f"edge_attr must be ({adjacency.index.numel()}, 3), one row an edge, "
                f"got shape {tuple(edge_attr.shape)}"
            )
        if not isinstance(edge_index, Adjacency):
            edge_attr = adjacency.sort(edge_attr)
        return derivative_operators(adjacency, edge_attr)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor | EdgeIndex | Adjacency | DerivativeOperators | DerivativeTable,
        edge_attr: Tensor | None = None,
    ) -> Tensor:
        """Convolve ``x``."""
        return self.less(None, x, edge_index, edge_attr)

    def less(
        self,
        subtrahend: Tensor | None,
        x: Tensor,
        edge_index: Tensor | EdgeIndex | Adjacency | DerivativeOperators | DerivativeTable,
        edge_attr: Tensor | None = None,
    ) -> Tensor:
        """Convolve ``x`` and subtract, if there is something to subtract."""
        operators = self.prepare(x, edge_index, edge_attr)
        if x.dim() != 2 or x.size(1) != self.in_channels:
            raise ValueError(f"x must be (N, {self.in_channels}), got shape {tuple(x.shape)}")
        if operators.num_nodes != x.size(0):
            raise ValueError(
                f"the derivatives are those of {operators.num_nodes} nodes, "
                f"got features of {x.size(0)}"
            )
        if isinstance(operators, DerivativeOperators):
            operators.check()
        # a hook, or another map, wants to see the features that are mixed
        skips = may_skip(self.lin, GroupedLinear, StructuredLinear)
        if isinstance(operators, DerivativeTable) or not skips:
            y = self.lin(operators.derive(x, self.groups))
            y = y.relu() if self.relu else y
            return y if subtrahend is None else y - subtrahend
        return ops.mix_derivatives(
            x, self.lin.weight, self.lin.bias, subtrahend, self.relu, *operators
        )

    def __repr__(self) -> str:
        """Widths and groups."""
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, groups={self.groups})"
        )
