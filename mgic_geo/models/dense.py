"""Point-cloud networks on dense batches, in operations that ONNX and ``torch.export`` know."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from mgic_geo.graphs.table import DerivativeTable
from mgic_geo.models.point_cloud import PointCloudClassifier
from mgic_geo.nn.diff_conv import DiffGCNConv
from mgic_geo.nn.edge_conv import GroupedEdgeConv
from mgic_geo.nn.grouped_linear import grouped_linear
from mgic_geo.nn.message_passing import MGICMessagePassing
from mgic_geo.ops.edge_gradients import weigh_edges
from mgic_geo.ops.table_sums import gather


class DensePointCloud(nn.Module):
    r"""A point-cloud network on clouds of equal size, its neighbor search inside, ready to export.

    The network's own form takes clouds of any sizes and runs operators of this package. This one
    takes ``(B, N, 3)``, holds a copy of the same weights, and consists of gathers, products and
    maxima, so that what is exported runs where this package is not. Both the number of clouds and
    the number of points may vary.

    What the dense form leaves out: clouds of different sizes in one batch; clouds of at most ``k``
    points; and the exact fallback of :func:`~mgic_geo.knn_indices`. Distances between coordinates
    are taken as there, by differences in float64, those between features by a product in float64.
    Neighbors therefore differ only where distances tie, or between features within its rounding.

    Args:
        model: The network; it is copied, and evaluated.

    Shape:
        - ``pos``: ``(B, N, 3)`` with N above ``k``; ``(B, N, 3 + num_features)`` for a network with
          features, which follow the coordinates. Returns ``(B, num_classes)``.

    Cost:
        That of the network, and B N^2 float64 numbers at once for the distances.

    Raises:
        ValueError: If its graph is random (a control that nobody deploys), or it has convolutions
            other than this package's.

    Example:
        >>> from mgic_geo import create_model
        >>> model = create_model("mgic_diffgcn", k=4).eval()
        >>> pos = torch.rand(2, 16, 3)
        >>> dense, batch = DensePointCloud(model), torch.arange(2).repeat_interleave(16)
        >>> torch.testing.assert_close(dense(pos), model(pos.flatten(0, 1), batch))
    """

    def __init__(self, model: PointCloudClassifier) -> None:
        super().__init__()
        if model.graph == "random":
            raise ValueError("graph='random' has no dense form; static, dynamic and none have")
        self.model = copy.deepcopy(model)
        _replace_convs(self.model)
        self.eval()

    @property
    def min_points(self) -> int:
        """Points that a cloud needs at least."""
        return 1 if self.model.graph == "none" else self.model.k + 1

    def forward(self, pos: Tensor) -> Tensor:
        """Classify every cloud of the batch."""
        return self.with_neighbors(pos)[0]

    def with_neighbors(self, pos: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Classify every cloud, and return the neighbors that were found on the way.

        Returns:
            The scores, ``(B, num_classes)``, and a table ``(B * N, k)`` of rows of the batch for
            every graph: none, one, or one a G-conv where the graph is dynamic.
        """
        tables: list[Tensor] = []
        clouds, size, _ = pos.shape
        pos, features = split_features(self.model, pos)

        def find_graph(x: Tensor) -> tuple[()] | tuple[Tensor | DerivativeTable]:
            if self.model.graph == "none":
                return ()
            places = dense_knn(x.unflatten(0, (clouds, size)), self.model.k)
            first = torch.arange(clouds, device=x.device) * size
            neighbors = (places + first[:, None, None]).flatten(0, 1)
            tables.append(neighbors)
            if not self.model.derivatives:
                return (neighbors,)
            weight = dense_gradients(pos, neighbors, softening=self.model.softening)
            return (DerivativeTable.of(neighbors, weight),)

        points = self.model.map_points(pos.flatten(0, 1), find_graph, features)
        return self.model.head(self.model.pool_dense(points.unflatten(0, (clouds, size)))), tables


def split_features(model: PointCloudClassifier, pos: Tensor) -> tuple[Tensor, Tensor | None]:
    """Part coordinates from the features that follow them, if the network takes any.

    Shape:
        - ``pos``: ``(B, N, 3 + F)``. Returns ``(B, N, 3)`` and ``(B * N, F)`` or ``None``.
    """
    if not model.num_features:
        return pos, None
    return pos[..., :3], pos[..., 3:].flatten(0, 1)


class DenseEdgeConv(nn.Module):
    """:class:`GroupedEdgeConv` on a table of neighbors.

    Shape:
        - ``x``: ``(N, in_channels)``. ``neighbors``: ``(N, k)``. Returns ``(N, out_channels)``.
    """

    def __init__(self, conv: GroupedEdgeConv) -> None:
        super().__init__()
        self.lin = conv.lin

    def forward(self, x: Tensor, neighbors: Tensor) -> Tensor:
        """Convolve ``x`` over the graph."""
        center, edge = self.lin.weight.chunk(2, dim=-1)
        own = grouped_linear(x, center - edge, self.lin.bias)
        return own + gather(grouped_linear(x, edge), neighbors).amax(1)


class DenseDiffConv(nn.Module):
    """:class:`DiffGCNConv` on a table of neighbors.

    Shape:
        - ``x``: ``(N, in_channels)``. Returns ``(N, out_channels)``.
    """

    def __init__(self, conv: DiffGCNConv) -> None:
        super().__init__()
        self.lin, self.groups, self.relu = conv.lin, conv.groups, conv.relu

    def forward(self, x: Tensor, graph: DerivativeTable) -> Tensor:
        """Convolve ``x``."""
        y = grouped_linear(graph.derive(x, self.groups), self.lin.weight, self.lin.bias)
        return y.relu() if self.relu else y


def dense_knn(x: Tensor, k: int) -> Tensor:
    """The ``k`` nearest other points of the same cloud, nearest first.

    Shape:
        - ``x``: ``(B, N, D)``. Returns ``(B, N, k)``, places in the cloud.

    Example:
        >>> dense_knn(torch.tensor([[[0.0], [1.0], [3.0]]]), 1)
        tensor([[[1],
                 [0],
                 [1]]])
    """
    x = x.detach().double()
    if x.size(2) <= 3:
        distances = torch.zeros((), dtype=x.dtype, device=x.device)
        for coord in x.unbind(2):
            distances = distances + (coord.unsqueeze(2) - coord.unsqueeze(1)).square()
    else:
        x = x - x.mean(1, keepdim=True)
        norms = x.square().sum(2)
        distances = norms.unsqueeze(2) - 2 * x @ x.transpose(1, 2) + norms.unsqueeze(1)
    points = torch.arange(x.size(1), device=x.device)
    itself = points.unsqueeze(1) == points
    return distances.masked_fill(itself, torch.inf).topk(k, largest=False).indices


def dense_gradients(pos: Tensor, neighbors: Tensor, *, softening: float) -> Tensor:
    """:func:`~mgic_geo.edge_gradients` of a table of neighbors.

    Shape:
        - ``pos``: ``(B, N, 3)``. ``neighbors``: ``(B * N, k)``, rows of the batch.
        - Returns ``(B * N, k, 3)``.
    """
    cloud = torch.arange(pos.size(0), device=pos.device).unsqueeze(1).expand(pos.shape[:2])
    target = torch.arange(neighbors.size(0), device=pos.device).unsqueeze(1).expand_as(neighbors)
    edges = neighbors.flatten(), target.flatten()
    weight = weigh_edges(pos.flatten(0, 1), *edges, cloud.flatten(), softening)
    return weight.unflatten(0, neighbors.shape)


_DENSE = {GroupedEdgeConv: DenseEdgeConv, DiffGCNConv: DenseDiffConv}


def _replace_convs(module: nn.Module) -> None:
    """Put the dense form of every convolution in its place.

    Raises:
        ValueError: If a convolution has none.
    """
    for name, child in module.named_children():
        make = _DENSE.get(type(child))
        if make is not None:
            setattr(module, name, make(child))
        elif isinstance(child, MessagePassing) and not isinstance(child, MGICMessagePassing):
            raise ValueError(
                f"{type(child).__name__} has no dense form; "
                f"{' and '.join(conv.__name__ for conv in _DENSE)} have"
            )
        else:
            _replace_convs(child)
