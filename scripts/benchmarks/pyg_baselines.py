"""The networks that a PyG user would write, to compare with."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch_geometric.nn import EdgeConv, global_max_pool
from torch_geometric.utils import scatter

from mgic_geo.models.point_cloud import GCONVS_BEFORE_MLP, HEAD_MLPS, mlp

WIDTH, NEIGHBORS, NUM_CLASSES = 64, 10, 10  # of Table 10


def plain_knn_graph(x: Tensor, k: int, batch: Tensor) -> Tensor:
    """Nearest neighbors by all distances of a cloud, for where torch-cluster is missing.

    Shape:
        - ``x``: ``(N, C)``. ``batch``: ``(N,)``. Returns ``(2, N * k)``, row 0 the neighbor.
    """
    edges = []
    for cloud in range(int(batch.max()) + 1):
        members = (batch == cloud).nonzero().squeeze(1)
        distance = torch.cdist(x[members], x[members]).fill_diagonal_(torch.inf)
        nearest = distance.topk(min(k, members.numel() - 1), largest=False).indices
        centers = members.unsqueeze(1).expand_as(nearest)
        edges.append(torch.stack([members[nearest], centers]).flatten(1))
    return torch.cat(edges, dim=1)


try:
    from torch_cluster import knn_graph

    HAS_TORCH_CLUSTER = True
except ImportError:
    knn_graph = plain_knn_graph
    HAS_TORCH_CLUSTER = False


class PyGPointCloudClassifier(nn.Module):
    """The network of Table 10 as PyG's examples write networks.

    Args:
        make_conv: ``(in_channels, out_channels) -> Module``, called as
            ``conv(x, edge_index, pos, batch)``.
        dynamic: Whether neighbors are found again for every G-conv, among its features.
        find_graph: ``(x, k, batch, clouds) -> edges``; ``None`` takes torch-cluster's search, or
            :func:`plain_knn_graph`.

    Shape:
        - ``pos``: ``(N, 3)``. ``batch``: ``(N,)``, sorted. Returns ``(B, 10)`` logits.
    """

    def __init__(
        self,
        make_conv: Callable[[int, int], nn.Module],
        *,
        dynamic: bool,
        find_graph: Callable[[Tensor, int, Tensor, int | None], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.dynamic = dynamic
        self.find_graph = find_graph or (lambda x, k, batch, _: knn_graph(x, k, batch))
        widths = [3, *[WIDTH] * sum(GCONVS_BEFORE_MLP)]
        self.convs = nn.ModuleList(make_conv(a, b) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for b in widths[1:])
        ends = set(itertools.accumulate(GCONVS_BEFORE_MLP))
        self.mlps = nn.ModuleList(
            mlp(WIDTH, WIDTH) if number in ends else nn.Identity()
            for number in range(1, len(widths))
        )
        head = [mlp(WIDTH, WIDTH) for _ in range(HEAD_MLPS)]
        self.head = nn.Sequential(*head, nn.Linear(WIDTH, NUM_CLASSES))

    def forward(self, pos: Tensor, batch: Tensor, batch_size: int | None = None) -> Tensor:
        """Classify every cloud of the batch."""
        x, edge_index = pos, None
        for conv, norm, point_mlp in zip(self.convs, self.norms, self.mlps, strict=True):
            if self.dynamic or edge_index is None:
                edge_index = self.find_graph(x, NEIGHBORS, batch, batch_size)
            x = point_mlp(norm(conv(x, edge_index, pos, batch)).relu())
        return self.head(global_max_pool(x, batch, batch_size))


class LinearEdgeConv(EdgeConv):
    """PyG's ``EdgeConv`` with one linear map, which ignores what it need not know."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(nn.Linear(2 * in_channels, out_channels), aggr="max")

    def forward(self, x: Tensor, edge_index: Tensor, *geometry: Tensor) -> Tensor:
        """Convolve ``x`` over the graph."""
        return super().forward(x, edge_index)


class EdgeGraphDiffGCN(nn.Module):
    r"""A differential convolution by gathering and scattering, as diffGCN's authors built it.

    Every call lays the geometry out on the edges anew, gathers the differences of all features
    along them, scatters their products with it to the nodes, gathers and scatters once more for the
    second derivatives, and mixes the seven features that it stored side by side. The values are
    those of :class:`mgic_geo.DiffGCNConv`.

    Args:
        in_channels: Channels of a node.
        out_channels: Channels out.
        softening: As :func:`mgic_geo.edge_gradients` has it.

    Shape:
        - ``x``: ``(N, in_channels)``. ``edge_index``: ``(2, E)``. ``pos``: ``(N, 3)``.
          ``batch``: ``(N,)``. Returns ``(N, out_channels)``.

    References:
        Eliasof and Treister, DiffGCN (the paper's [18]).
    """

    def __init__(self, in_channels: int, out_channels: int, *, softening: float = 1.0) -> None:
        super().__init__()
        self.lin = nn.Linear(7 * in_channels, out_channels)
        self.softening = softening

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor, batch: Tensor) -> Tensor:
        """Convolve ``x`` over the graph."""
        source, target = edge_index
        gap = pos[source] - pos[target]
        length = gap.norm(dim=1)
        real = (length > 0).to(pos.dtype)
        edges = scatter(real, batch[target], dim_size=int(batch.max()) + 1).clamp_min(1)
        mean_length = scatter(length, batch[target], dim_size=edges.numel()) / edges
        unit = gap / mean_length[batch[target], None].clamp_min(torch.finfo(pos.dtype).tiny)
        square = unit.square().sum(1) + self.softening**2
        degree = scatter(real, target, dim_size=pos.size(0)).clamp_min(1)
        slopes = unit * (real / square.where(real > 0, 1) / degree[target]).unsqueeze(1)

        def differentiate(features: Tensor, axis: int) -> Tensor:
            change = features[source] - features[target]  # (E, C)
            return scatter(change * slopes[:, axis : axis + 1], target, dim_size=x.size(0))

        first = [differentiate(x, axis) for axis in range(3)]
        second = [differentiate(features, axis) for axis, features in enumerate(first)]
        return self.lin(torch.cat([x, *first, *second], dim=1))


def pyg_dgcnn(*, dynamic: bool) -> PyGPointCloudClassifier:
    """Edge convolutions, on neighbors found again for every G-conv or found once."""
    return PyGPointCloudClassifier(LinearEdgeConv, dynamic=dynamic)


def edge_graph_diffgcn() -> PyGPointCloudClassifier:
    """Differential convolutions by gathering and scattering, on neighbors found once."""
    return PyGPointCloudClassifier(EdgeGraphDiffGCN, dynamic=False)
