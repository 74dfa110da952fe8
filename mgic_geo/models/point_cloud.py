"""The point-cloud classifier of Table 10, for every graph convolution of Table 11."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from mgic_geo.graphs.adjacency import Adjacency, from_neighbors, neighbor_max, to_adjacency
from mgic_geo.graphs.derivatives import DerivativeOperators, derivative_operators, edge_gradients
from mgic_geo.graphs.neighbors import cloud_table, knn_indices
from mgic_geo.graphs.points import edges_of
from mgic_geo.graphs.table import DerivativeTable, NeighborTable, derivative_table
from mgic_geo.levels import check_counts
from mgic_geo.nn.diff_conv import DiffGCNConv
from mgic_geo.nn.edge_conv import GroupedEdgeConv
from mgic_geo.nn.message_passing import ConvNormAct, MGICMessagePassing
from mgic_geo.nn.prepared import PreparedConv
from mgic_geo.ops.host import is_readable
from mgic_geo.ops.inputs import check_tensors
from mgic_geo.ops.operator import check_values, is_traced

GRAPHS = ("static", "dynamic", "random", "none")

# Table 10: G-convs in front of each MLP
GCONVS_BEFORE_MLP = (3, 3)
HEAD_MLPS = 3

Graph = Tensor | Adjacency | NeighborTable | DerivativeOperators | DerivativeTable


class PointCloudClassifier(nn.Module):
    r"""The network of Table 10 around any graph convolution.

    Three G-convs and an MLP, twice, a maximum over the cloud, three MLPs and a linear classifier.
    A G-conv is a graph convolution (or several in a row), each followed by batch norm and ReLU; an
    MLP is a pointwise linear map, batch norm and ReLU.

    Args:
        make_conv: ``(in_channels, out_channels) -> Module``, called as ``conv(x, graph)``: any
            convolution of PyG, alone or in :class:`MGICMessagePassing`, with ``(2, E)`` edges; all
            others with an :class:`Adjacency` or, on a GPU, a :class:`NeighborTable`. As ``conv(x)``
            where ``graph="none"``.
        num_classes: Classes to tell apart.
        graph: ``"static"``: the k nearest neighbors in space, found once. ``"dynamic"``: the k
            nearest in feature space, found again for every G-conv. ``"random"``: k points drawn
            from the same cloud. ``"none"``: no neighbors.
        derivatives: Whether the convolution takes :class:`DerivativeOperators` in place of edges.
        softening: Of the derivatives, as :func:`~mgic_geo.edge_gradients` has it; 0 is diffGCN's
            definition.
        k: Neighbors of a point.
        layers: Convolutions in a row in every G-conv, one number or one for each of the six.
        width: Channels of every layer.
        dropout: Share of features dropped in front of the classifier.
        num_features: Features of a point beside its coordinates, such as 3 for a normal, :math:`F`.
            Neighbors in space are found by coordinates alone.

    Shape:
        - ``pos``: ``(N, 3)`` coordinates, in any unit of length. ``batch``: ``(N,)``. ``x``:
          ``(N, F)``, where there are any.
        - Returns ``(B, num_classes)`` logits.

    Raises:
        ValueError: If an argument is out of range; when called, if the input has another shape.

    References:
        Section 4.5, Tables 10 and 11.

    Example:
        >>> from torch_geometric.nn import SAGEConv
        >>> def make_conv(in_channels, out_channels):
        ...     return MGICMessagePassing(in_channels, out_channels, SAGEConv, group_size=16)
        >>> model = PointCloudClassifier(make_conv, 10, k=4).eval()
        >>> model(torch.rand(20, 3)).shape
        torch.Size([1, 10])
    """

    def __init__(
        self,
        make_conv: Callable[[int, int], nn.Module],
        num_classes: int,
        *,
        graph: str = "static",
        derivatives: bool = False,
        softening: float = 1.0,
        k: int = 10,
        layers: int | Sequence[int] = 1,
        width: int = 64,
        dropout: float = 0.0,
        num_features: int = 0,
    ) -> None:
        super().__init__()
        num_gconvs = sum(GCONVS_BEFORE_MLP)
        layers = [layers] * num_gconvs if isinstance(layers, int) else list(layers)
        if graph not in GRAPHS:
            raise ValueError(f"graph must be one of {', '.join(GRAPHS)}, got {graph!r}")
        if len(layers) != num_gconvs or min(layers) < 1:
            raise ValueError(f"layers must be one or {num_gconvs} numbers above 0, got {layers}")
        check_counts(num_classes=num_classes, k=k, width=width)
        if num_features < 0:
            raise ValueError(f"num_features must be 0 or more, got {num_features}")
        self.graph, self.derivatives, self.k = graph, derivatives, k
        self.softening, self.num_features = softening, num_features
        self.pretrained_cfg: dict[str, Any] = {}  # what weights that were loaded say of themselves

        self.make_layers(make_conv, layers, width)
        self.lists_edges = any(map(_lists_edges, self.convs()))
        if self.lists_edges and graph == "none":
            raise ValueError(f"graph='none' has no edges, which {self.convs()[0]} takes")
        self.head = self.make_head(width, num_classes, dropout)

    def make_layers(
        self, make_conv: Callable[[int, int], nn.Module], layers: Sequence[int], width: int
    ) -> None:
        """Build what is in front of the pooling: ``gconvs`` and ``mlps``."""
        in_channels = 3 + self.num_features
        self.gconvs, self.mlps = nn.ModuleList(), nn.ModuleList()
        for index, count in enumerate(layers):
            widths = [in_channels, *[width] * count]
            self.gconvs.append(
                nn.ModuleList(
                    ConvNormAct(make_conv(a, b), nn.BatchNorm1d(b), nn.ReLU())
                    for a, b in itertools.pairwise(widths)
                )
            )
            in_channels = width
            ends = index + 1 in (GCONVS_BEFORE_MLP[0], len(layers))
            self.mlps.append(mlp(width, width) if ends else nn.Identity())
        self.point_width = width

    def make_head(self, width: int, num_classes: int, dropout: float) -> nn.Sequential:
        """Build what is after the pooling; the last layer is the classifier."""
        return nn.Sequential(
            *(mlp(width, width) for _ in range(HEAD_MLPS)),
            nn.Dropout(dropout),
            nn.Linear(width, num_classes),
        )

    def pool(
        self, x: Tensor, batch: Tensor | None, batch_size: int, clouds: Tensor | None = None
    ) -> Tensor:
        """Features of every cloud, of those of its points: ``(N, C)`` to ``(batch_size, ...)``."""
        return pool_max(x, batch, batch_size, clouds)

    def pool_dense(self, x: Tensor) -> Tensor:
        """The same for clouds of equal size, ``(B, N, C)``."""
        return x.amax(1)

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier in place, e.g. for another data set."""
        check_counts(num_classes=num_classes)
        old = self.head[-1]
        assert isinstance(old, nn.Linear)
        self.head[-1] = nn.Linear(
            old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype
        )

    @property
    def num_hops(self) -> int:
        """Hops from which a point's last features draw; 0 without a graph."""
        if self.graph == "none":
            return 0
        return sum(
            conv.num_hops if isinstance(conv, MGICMessagePassing) else 1 for conv in self.convs()
        )

    def convs(self) -> list[nn.Module]:
        """All graph convolutions, in their order."""
        return [layer.conv for gconv in self.gconvs for layer in gconv]  # type: ignore[union-attr]

    def forward(
        self,
        pos: Tensor,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        max_points: int | None = None,
        x: Tensor | None = None,
    ) -> Tensor:
        """Classify every cloud of the batch.

        Args:
            pos: Coordinates of all points.
            batch: Cloud of every point; ``None`` where there is one.
            batch_size: Number of clouds, so that it need not be read off ``batch``.
            max_points: Points of the largest cloud. On a GPU, where only ``batch_size`` is given,
                all clouds must have as many points.
            x: Further features of all points, for a network with ``num_features``.
        """
        check_points(pos, batch)
        clouds = cloud_table(batch, batch_size, max_points)
        batch_size = check_batch_size(batch, batch_size)
        if self.training and batch_size == 1:
            raise ValueError(
                "training needs at least 2 clouds in a batch (batch norm after the pooling), got 1"
            )
        features = self.point_features(pos, batch, clouds, x)
        return self.head(self.pool(features, batch, batch_size, clouds))

    def point_features(
        self,
        pos: Tensor,
        batch: Tensor | None = None,
        clouds: Tensor | None = None,
        x: Tensor | None = None,
    ) -> Tensor:
        """Features of every point in front of the pooling, ``(N, point_width)``.

        Args:
            pos: Coordinates of all points.
            batch: Cloud of every point; ``None`` where there is one.
            clouds: As :func:`~mgic_geo.knn_indices` takes it.
            x: Further features of all points, for a network with ``num_features``.
        """
        return self.map_points(pos, lambda each: self._graph(each, pos, batch, clouds), x)

    def map_points(
        self, pos: Tensor, find_graph: Callable[[Tensor], tuple], x: Tensor | None = None
    ) -> Tensor:
        """Run the layers in front of the pooling, ``(N, 3) -> (N, point_width)``.

        Args:
            pos: Coordinates of all points.
            find_graph: ``(features) -> further inputs of the convolutions``; called once with the
                coordinates, and for every further G-conv where the graph is dynamic.
            x: Further features of all points, for a network with ``num_features``.
        """
        features, inputs = self.join_features(pos, x), ()
        for index, (gconv, point_mlp) in enumerate(zip(self.gconvs, self.mlps, strict=True)):
            if index == 0 or self.graph == "dynamic":
                inputs = find_graph(features if index else pos)
            for layer in gconv:  # type: ignore[union-attr]
                features = layer(features, *inputs)
            features = point_mlp(features)
        return features

    def join_features(self, pos: Tensor, x: Tensor | None) -> Tensor:
        """Put features beside coordinates, ``(N, 3 + num_features)``.

        Raises:
            TypeError: If they have another dtype than the network.
            ValueError: If they are not there, or of another shape, or not wanted.
        """
        own = next(self.parameters()).dtype
        for name, value in (("pos", pos), ("x", x)):
            if value is None or value.dtype == own or torch.is_autocast_enabled(pos.device.type):
                continue
            raise TypeError(f"{name} is {value.dtype}, the network {own}: {name}.to({own}) fits")
        wanted = (pos.size(0), self.num_features) if self.num_features else None
        got = None if x is None else tuple(x.shape)
        if got != wanted:
            raise ValueError(f"with num_features={self.num_features} x must be {wanted}, got {got}")
        return pos if x is None else torch.cat([pos, x], dim=1)

    def extra_repr(self) -> str:
        """The graph, which no submodule shows."""
        features = f", num_features={self.num_features}" if self.num_features else ""
        return f"graph={self.graph!r}, k={self.k}, derivatives={self.derivatives}{features}"

    def _graph(
        self, x: Tensor, pos: Tensor, batch: Tensor | None, clouds: Tensor | None
    ) -> tuple[()] | tuple[Graph]:
        if self.graph == "none":
            return ()
        if self.graph == "random":
            neighbors = random_neighbors(pos.size(0), self.k, batch, pos.device)
        else:
            neighbors = knn_indices(x.detach(), self.k, batch, clouds=clouds)
        return self.graph_inputs(neighbors, pos, batch)

    def graph_inputs(
        self, neighbors: Tensor, pos: Tensor, batch: Tensor | None = None
    ) -> tuple[Graph]:
        """Return what the convolutions take beside features, for given neighbors.

        Args:
            neighbors: As :func:`~mgic_geo.knn_indices` gives them, ``(N, k)``.
            pos: Coordinates of the points, ``(N, 3)``.
            batch: The cloud of every point, ``(N,)``; ``None`` means a single cloud.
        """
        if self.lists_edges and not self.derivatives:
            return (edges_of(neighbors).flip(0),)  # neighbors above points
        if not is_readable(neighbors):  # no shape depends on values
            if not self.derivatives:
                return (NeighborTable.of(neighbors, neighbors.size(0)),)
            return (derivative_table(pos, neighbors, batch, softening=self.softening),)
        adjacency = from_neighbors(neighbors)
        if not self.derivatives:
            return (adjacency,)
        edge_attr = edge_gradients(pos, adjacency, batch, softening=self.softening)
        return (derivative_operators(adjacency, edge_attr),)


def _lists_edges(conv: nn.Module) -> bool:
    """Whether a convolution is one of PyG's, which takes no graph but a list of edges."""
    plain = conv.plain_conv if isinstance(conv, MGICMessagePassing) else conv
    return isinstance(plain, MessagePassing) and not isinstance(plain, PreparedConv)


class PointwiseConv(nn.Linear):
    """A graph convolution without a graph: the linear map of a point's own features."""


def mlp(in_channels: int, out_channels: int) -> ConvNormAct:
    """A pointwise linear map, batch norm and ReLU (Table 10's MLP)."""
    linear = nn.Linear(in_channels, out_channels)
    return ConvNormAct(linear, nn.BatchNorm1d(out_channels), nn.ReLU())


def pool_max(
    x: Tensor, batch: Tensor | None, batch_size: int, clouds: Tensor | None = None
) -> Tensor:
    """Channel-wise maximum over every cloud; 0 for a cloud without points.

    Shape:
        - ``x``: ``(N, C)``. ``batch``: ``(N,)``. ``clouds``: as :func:`cloud_table` returns it.
          Returns ``(batch_size, C)``.
    """
    if batch is None:
        return x.amax(0, keepdim=True)
    if clouds is not None:
        missing = clouds == x.size(0)
        return neighbor_max(NeighborTable.of(clouds.masked_fill(missing, -1), x.size(0)), x)
    points = torch.arange(x.size(0), device=x.device)
    members = to_adjacency(torch.stack([points, batch]), x.size(0), batch_size)
    return neighbor_max(members, x)


def check_points(pos: Tensor, batch: Tensor | None) -> None:
    """Raise where the input is no batch of clouds.

    Raises:
        ValueError: If ``pos`` is not ``(N, 3)`` floating point with N above 0, or ``batch`` not
            ``(N,)`` int64.
    """
    check_tensors(pos=pos, batch=batch)
    if pos.dim() != 2 or pos.size(1) != 3 or not pos.is_floating_point() or not pos.size(0):
        raise ValueError(
            f"pos must be (N, 3) floating point with N > 0, got {tuple(pos.shape)} of {pos.dtype}"
        )
    if batch is not None and (batch.shape != pos.shape[:1] or batch.dtype != torch.long):
        raise ValueError(
            f"batch must be ({pos.size(0)},) int64, got {tuple(batch.shape)} of {batch.dtype}"
        )
    check_values(pos=pos, batch=batch)


def check_batch_size(batch: Tensor | None, batch_size: int | None) -> int:
    """Number of clouds, checked where it is given.

    Raises:
        ValueError: If ``batch`` names a cloud that ``batch_size`` does not have.
    """
    if batch_size is not None and (is_traced() or not (batch is None or is_readable(batch))):
        return batch_size  # numbers are looked at where they are used
    last = 0 if batch is None else int(batch.max())
    if batch_size is None:
        return last + 1
    if last >= batch_size:
        raise ValueError(f"batch names cloud {last}, but batch_size is {batch_size}")
    return batch_size


def random_neighbors(
    num_nodes: int, k: int, batch: Tensor | None = None, device: torch.device | None = None
) -> Tensor:
    """Points drawn with replacement from the rest of each cloud, -1 where there is no rest.

    A hash of the point's place in its cloud stands for the draw: a cloud gets the same graph
    whatever batch it is in.

    Shape:
        - ``batch``: ``(num_nodes,)``. Returns ``(num_nodes, k)``.

    Example:
        >>> random_neighbors(2, 3)
        tensor([[1, 1, 1],
                [0, 0, 0]])
    """
    cloud = torch.zeros(num_nodes, dtype=torch.long, device=device) if batch is None else batch
    cloud, members = cloud.sort(stable=True)  # places in the order of clouds, and who is there
    start = torch.searchsorted(cloud, cloud)
    size = torch.searchsorted(cloud, cloud, right=True) - start
    local = (torch.arange(num_nodes, device=cloud.device) - start).unsqueeze(1)
    draw = local * k + torch.arange(k, device=cloud.device)
    for _ in range(3):  # a mixing hash of 32-bit integers
        draw = ((draw >> 16) ^ draw) * 0x45D9F3B & 0xFFFFFFFF
    others = (size - 1).unsqueeze(1)
    step = 1 + draw % others.clamp_min(1)  # how far round the cloud, never all the way
    chosen = members[start.unsqueeze(1) + (local + step) % size.unsqueeze(1)]
    neighbors = torch.empty_like(chosen)
    neighbors[members] = chosen.where(others > 0, -1)
    return neighbors


def make_cycle(conv: Callable[..., nn.Module], **options: Any) -> Callable[[int, int], nn.Module]:
    """Return what makes an MGIC cycle of a convolution for two widths."""
    return lambda a, b: MGICMessagePassing(a, b, conv, **options)


def dgcnn(num_classes: int = 10, *, graph: str = "dynamic", **options) -> PointCloudClassifier:
    """Edge convolutions on a graph found again for every G-conv (Table 11, DGCNN)."""
    return PointCloudClassifier(GroupedEdgeConv, num_classes, graph=graph, **options)


def diffgcn(num_classes: int = 10, *, graph: str = "static", **options) -> PointCloudClassifier:
    """Differential convolutions on the graph of the points (Table 11, diffGCN)."""
    return PointCloudClassifier(DiffGCNConv, num_classes, graph=graph, derivatives=True, **options)


def mgic_dgcnn(
    num_classes: int = 10,
    *,
    group_size: int = 8,
    coarse_size: int | None = None,
    cycle: str = "multiplicative",
    graph: str = "dynamic",
    **options,
) -> PointCloudClassifier:
    """:func:`dgcnn` with an MGIC cycle in place of every convolution."""
    conv = make_cycle(GroupedEdgeConv, group_size=group_size, coarse_size=coarse_size, cycle=cycle)
    return PointCloudClassifier(conv, num_classes, graph=graph, **options)


def mgic_diffgcn(
    num_classes: int = 10,
    *,
    group_size: int = 8,
    coarse_size: int | None = None,
    cycle: str = "multiplicative",
    graph: str = "static",
    **options,
) -> PointCloudClassifier:
    """:func:`diffgcn` with an MGIC cycle in place of every convolution (Table 11, MGIC-diffGCN)."""
    conv = make_cycle(DiffGCNConv, group_size=group_size, coarse_size=coarse_size, cycle=cycle)
    return PointCloudClassifier(conv, num_classes, graph=graph, derivatives=True, **options)


def pointnet(num_classes: int = 10, **options) -> PointCloudClassifier:
    """The same network without neighbors, a control: what points alone tell."""
    return PointCloudClassifier(PointwiseConv, num_classes, graph="none", **options)


def random_graph(num_classes: int = 10, **options) -> PointCloudClassifier:
    """:func:`dgcnn` with randomly drawn neighbors, a control: same weights, no neighborhoods."""
    return PointCloudClassifier(GroupedEdgeConv, num_classes, graph="random", **options)
