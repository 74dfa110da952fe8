"""Graph convolution by differential operators, and the operators themselves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.nn import MessagePassing
from torch_geometric.transforms import BaseTransform

from mgic_geo.grouped_linear import GroupedLinear, check_groups, merge_groups
from mgic_geo.sparse import Adjacency, SparseMatrix, spmm, to_adjacency

NUM_OPERATORS = 7  # identity, three first and three second derivatives
BLOCK_WIDTH = 32  # channels up to which groups are differentiated and mixed together


class DerivativeOperators(NamedTuple):
    """Derivatives along three axes, as sparse matrices that all layers of a batch share.

    The three derivatives of a node are neighboring rows: one pass over its neighbors serves them
    all while their features are in cache. Build the matrices with :func:`derivative_operators`.

    Args:
        first: Row ``3 i + a`` differentiates at node i along axis a.
        second: The same, of what ``first`` gave: each derivative once more along its own axis.

    Shape:
        - ``first``: ``(3 N, N)``; ``second``: ``(3 N, 3 N)``.
    """

    first: SparseMatrix
    second: SparseMatrix


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
        ValueError: If ``pos`` does not have three coordinates, or ``softening`` is negative.

    References:
        Eliasof and Treister, DiffGCN (the paper's [18]).

    Example:
        >>> pos = torch.tensor([[0.0, 0, 0], [2.0, 0, 0]])
        >>> edge_gradients(pos, torch.tensor([[1, 0], [0, 1]])).tolist()
        [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]
    """
    if pos.dim() != 2 or pos.size(1) != 3:
        raise ValueError(f"pos must be (N, 3), got shape {tuple(pos.shape)}")
    if not softening >= 0:
        raise ValueError(f"softening must be at least 0, got {softening}")
    num_nodes = pos.size(0)
    if isinstance(edge_index, Adjacency):
        source, target = edge_index.index, edge_index.targets()
    elif edge_index.layout == torch.strided:
        source, target = edge_index[0], edge_index[1]
    else:
        adjacency = to_adjacency(edge_index, num_nodes, num_nodes)
        source, target = adjacency.index, adjacency.targets()
    d = pos.index_select(0, source) - pos.index_select(0, target)
    # by the largest coordinate first, so that no square overflows or underflows
    largest = d.abs().amax(1, keepdim=True)
    real = (largest > 0).to(pos.dtype)
    unit = d / largest.where(largest > 0, 1.0)
    length = largest * unit.norm(dim=1, keepdim=True)  # (E, 1)

    # clouds by the place of their first point when sorted: below N, whatever numbers they have
    cloud = target.new_zeros(num_nodes)
    if batch is not None:
        cloud = torch.searchsorted(batch.sort().values, batch)
    edge_cloud = cloud.index_select(0, target).unsqueeze(1)
    sums = pos.new_zeros(num_nodes, 1)
    mean_length = sums.scatter_add(0, edge_cloud, length) / sums.scatter_add(
        0, edge_cloud, real
    ).clamp_min(1)
    degree = sums.scatter_add(0, target.unsqueeze(1), real).clamp_min(1)
    scale = mean_length[cloud].index_select(0, target) / largest.where(largest > 0, 1.0)
    square = unit.square().sum(1, keepdim=True) + (softening * scale).square()
    square = square.clamp_min(1.0)  # no less where an edge is real: its largest coordinate is 1
    return unit * (scale / square / degree.index_select(0, target) * real)


def derivative_operators(adjacency: Adjacency, edge_attr: Tensor) -> DerivativeOperators:
    """Sparse matrices of first and second derivatives, their transposes stored.

    Args:
        adjacency: The graph.
        edge_attr: Result of :func:`edge_gradients`, in the order of ``adjacency``'s edges.

    Shape:
        - ``edge_attr``: ``(E, 3)``.

    Example:
        >>> pos = torch.tensor([[0.0, 0, 0], [2.0, 0, 0]])
        >>> graph = to_adjacency(torch.tensor([[1, 0], [0, 1]]), 2, 2)
        >>> operators = derivative_operators(graph, edge_gradients(pos, graph))
        >>> spmm(operators.first, torch.tensor([[0.0], [5.0]])).view(2, 3).tolist()
        [[5.0, 0.0, 0.0], [5.0, 0.0, 0.0]]
    """
    # the center's own weight, minus the sum of the others, as one more edge of every node
    nodes = torch.arange(adjacency.num_targets, device=edge_attr.device)
    targets = adjacency.targets()
    own = edge_attr.new_zeros(nodes.numel(), 3).index_add(0, targets, edge_attr).neg()
    ptr = adjacency.ptr + torch.arange(adjacency.ptr.numel(), device=nodes.device)
    places = torch.arange(targets.numel(), device=nodes.device) + targets
    index = nodes.new_zeros(targets.numel() + nodes.numel())
    index = index.scatter(0, places, adjacency.index).scatter(0, ptr[1:] - 1, nodes)
    values = edge_attr.new_zeros(index.numel(), 3)
    values = values.index_copy(0, places, edge_attr).index_copy(0, ptr[1:] - 1, own)
    graph = Adjacency(ptr, index, adjacency.num_sources)
    back, perm = graph.transpose()

    rows, by_row = _row_an_axis(graph)
    columns, by_column = _row_an_axis(back)
    axes = torch.arange(3, device=nodes.device)
    source, target = 3 * graph.index.unsqueeze(1) + axes, 3 * back.index.unsqueeze(1) + axes
    value, value_t = _put(values, by_row), values.index_select(0, perm)
    return DerivativeOperators(
        SparseMatrix(
            rows, _put(source // 3, by_row), value, 3 * back.ptr, target.view(-1), value_t.view(-1)
        ),
        SparseMatrix(
            rows, _put(source, by_row), value,
            columns, _put(target, by_column), _put(value_t, by_column),
        ),
    )  # fmt: skip


def _row_an_axis(graph: Adjacency) -> tuple[Tensor, Tensor]:
    """Give every node a row for each axis, with all its edges.

    Shape:
        - Returns where the rows start, ``(3 num_targets + 1,)``, and where every edge goes in the
          row of each axis, ``(num_edges, 3)``.
    """
    ptr, degree, target = graph.ptr, graph.degree().unsqueeze(1), graph.targets()
    axes = torch.arange(3, device=ptr.device)
    starts = 3 * ptr[:-1].unsqueeze(1) + axes * degree  # (num_targets, 3)
    edges = torch.arange(target.numel(), device=ptr.device).unsqueeze(1)
    places = (starts - ptr[:-1].unsqueeze(1)).index_select(0, target) + edges
    places = places.where(edges < ptr[-1], 3 * edges + axes)  # padding stays behind the end
    return torch.cat([starts.view(-1), 3 * ptr[-1:]]), places


def _put(entries: Tensor, places: Tensor) -> Tensor:
    return entries.new_zeros(entries.numel()).scatter(0, places.view(-1), entries.view(-1))


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


class DiffGCNConv(MessagePassing):
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
        # a group's input is its channels under the first operator, under the second, ...
        self.lin = GroupedLinear(
            NUM_OPERATORS * in_channels, out_channels, groups=groups, bias=bias
        )

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        self.lin.reset_parameters()

    def prepare(
        self,
        x: Tensor,
        edge_index: Tensor | EdgeIndex | Adjacency | DerivativeOperators,
        edge_attr: Tensor | None = None,
    ) -> DerivativeOperators:
        """Build the operators; the result may be passed as ``edge_index``, many times."""
        if isinstance(edge_index, DerivativeOperators):
            return edge_index
        if isinstance(x, tuple):
            raise ValueError("DiffGCNConv needs one set of nodes, got a bipartite pair")
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
        edge_index: Tensor | EdgeIndex | Adjacency | DerivativeOperators,
        edge_attr: Tensor | None = None,
    ) -> Tensor:
        """Convolve ``x``."""
        operators = self.prepare(x, edge_index, edge_attr)
        weight = self.lin.weight.unflatten(2, (NUM_OPERATORS, -1)).flatten(1, 2)
        weight = merge_groups(weight, BLOCK_WIDTH)  # (blocks, 7 * out / blocks, in / blocks)
        blocks, _, width = weight.shape
        thetas = weight.view(blocks, -1, NUM_OPERATORS * width)
        biases = [None] * blocks if self.lin.bias is None else self.lin.bias.chunk(blocks)
        parts = zip(x.chunk(blocks, dim=1), thetas, biases, strict=True)
        return torch.cat([_mix(operators, *part) for part in parts], dim=1)

    def __repr__(self) -> str:
        """Widths and groups."""
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, groups={self.groups})"
        )


def _mix(operators: DerivativeOperators, x: Tensor, theta: Tensor, bias: Tensor | None) -> Tensor:
    """Weighted sum of the seven operators, which are never stored side by side.

    Shape:
        - ``x``: ``(N, C)``. ``theta``: ``(out, 7 * C)``. Returns ``(N, out)``.
    """
    num_nodes, width = x.shape
    first = spmm(operators.first, x)
    second = spmm(operators.second, first)
    own, slope, curvature = theta.split([width, 3 * width, 3 * width], dim=1)
    y = functional.linear(x, own, bias)
    y = torch.addmm(y, first.view(num_nodes, 3 * width), slope.t())
    return torch.addmm(y, second.view(num_nodes, 3 * width), curvature.t())
