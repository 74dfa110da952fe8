"""The classifier that the name DGCNN comes from, and its MGIC form."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mgic_geo.models.point_cloud import PointCloudClassifier, make_cycle, pool_max
from mgic_geo.nn.edge_conv import GroupedEdgeConv
from mgic_geo.nn.message_passing import ConvNormAct

SLOPE = 0.2  # of every leaky ReLU
WIDTHS = (1, 1, 2, 4)  # of the stages, in units of the first
EMBEDDING, HEAD = 16, (8, 4)  # likewise


class DGCNNClassifier(PointCloudClassifier):
    r"""DGCNN as published for classification, around any edge convolution.

    Four stages of 64, 64, 128 and 256 channels, each on a graph found again among the features of
    the one before; all of them joined, a pointwise map to 1,024 channels, the maximum and the mean
    over the cloud side by side, and two hidden layers of 512 and 256 with dropout.

    Norm and activation come after the maximum over neighbors, as in all networks here. In the
    authors' code they come before it, and the norm takes its statistics over edges. Weights are as
    many; where no scale of a norm is negative, a trained network can be brought from one form to
    the other.

    Args:
        make_conv: ``(in_channels, out_channels) -> Module``, called as ``conv(x, graph)``.
        num_classes: Classes to tell apart.
        graph: As for :class:`PointCloudClassifier`, without ``"none"``.
        k: Neighbors of a point.
        width: Channels of the first stage, in proportion to which all others are.
        dropout: Share of features dropped after each hidden layer.
        num_features: As for :class:`PointCloudClassifier`.

    Shape:
        - ``pos``: ``(N, 3)`` coordinates, in any unit of length. ``batch``: ``(N,)``. ``x``:
          ``(N, num_features)``, where there are any.
        - Returns ``(B, num_classes)`` logits.

    Cost:
        1,809,576 weights with 40 classes and edge convolutions; 1.8 million are published.

    Raises:
        ValueError: If an argument is out of range; when called, if the input has another shape.

    References:
        Wang et al., Dynamic graph CNN for learning on point clouds, 2019 (the paper's [65]).

    Example:
        >>> model = DGCNNClassifier(GroupedEdgeConv, 10, k=4, width=8).eval()
        >>> model(torch.rand(20, 3)).shape
        torch.Size([1, 10])
    """

    def __init__(
        self,
        make_conv: Callable[[int, int], nn.Module],
        num_classes: int,
        *,
        graph: str = "dynamic",
        k: int = 20,
        width: int = 64,
        dropout: float = 0.5,
        num_features: int = 0,
    ) -> None:
        super().__init__(
            make_conv,
            num_classes,
            graph=graph,
            k=k,
            width=width,
            dropout=dropout,
            num_features=num_features,
        )

    def make_layers(
        self, make_conv: Callable[[int, int], nn.Module], layers: Sequence[int], width: int
    ) -> None:
        """Build the stages and the embedding of all of them."""
        widths = [3 + self.num_features, *(factor * width for factor in WIDTHS)]
        self.gconvs = nn.ModuleList(
            nn.ModuleList([ConvNormAct(make_conv(a, b), nn.BatchNorm1d(b), nn.LeakyReLU(SLOPE))])
            for a, b in itertools.pairwise(widths)
        )
        self.point_width = EMBEDDING * width
        self.mlps = nn.ModuleList([leaky_mlp(sum(widths[1:]), self.point_width, bias=False)])

    def make_head(self, width: int, num_classes: int, dropout: float) -> nn.Sequential:
        """Build the hidden layers and the classifier."""
        first, second = (factor * width for factor in HEAD)
        return nn.Sequential(
            leaky_mlp(2 * self.point_width, first, bias=False),
            nn.Dropout(dropout),
            leaky_mlp(first, second),
            nn.Dropout(dropout),
            nn.Linear(second, num_classes),
        )

    def map_points(
        self, pos: Tensor, find_graph: Callable[[Tensor], tuple], x: Tensor | None = None
    ) -> Tensor:
        """Run the stages and embed all of their features, ``(N, 3) -> (N, point_width)``."""
        features, inputs, stages = self.join_features(pos, x), (), []
        for index, gconv in enumerate(self.gconvs):
            if index == 0 or self.graph == "dynamic":
                inputs = find_graph(features if index else pos)
            for layer in gconv:  # type: ignore[union-attr]
                features = layer(features, *inputs)
            stages.append(features)
        return self.mlps[0](torch.cat(stages, dim=1))

    def pool(
        self, x: Tensor, batch: Tensor | None, batch_size: int, clouds: Tensor | None = None
    ) -> Tensor:
        """Maximum and mean over every cloud, ``(batch_size, 2 C)``."""
        best = pool_max(x, batch, batch_size, clouds)
        return torch.cat([best, pool_mean(x, batch, batch_size)], dim=1)

    def pool_dense(self, x: Tensor) -> Tensor:
        """The same for clouds of equal size."""
        return torch.cat([x.amax(1), x.mean(1)], dim=1)


def leaky_mlp(in_channels: int, out_channels: int, *, bias: bool = True) -> ConvNormAct:
    """A pointwise linear map, batch norm and a leaky ReLU."""
    linear = nn.Linear(in_channels, out_channels, bias=bias)
    return ConvNormAct(linear, nn.BatchNorm1d(out_channels), nn.LeakyReLU(SLOPE))


def pool_mean(x: Tensor, batch: Tensor | None, batch_size: int) -> Tensor:
    """Channel-wise mean over every cloud; 0 for a cloud without points.

    Shape:
        - ``x``: ``(N, C)``. ``batch``: ``(N,)``. Returns ``(batch_size, C)``.

    Example:
        >>> pool_mean(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 2]), 3).tolist()
        [[2.0], [0.0], [5.0]]
    """
    if batch is None:
        return x.mean(0, keepdim=True)
    sums = x.new_zeros(batch_size, x.size(1)).index_add(0, batch, x)
    counts = x.new_zeros(batch_size).index_add(0, batch, x.new_ones(len(batch)))
    return sums / counts.clamp(min=1).unsqueeze(1)


def dgcnn_cls(num_classes: int = 10, *, graph: str = "dynamic", **options) -> DGCNNClassifier:
    """DGCNN as published, with 1.8 million weights; :func:`dgcnn` is Table 10's network."""
    conv = partial(GroupedEdgeConv, bias=False)
    return DGCNNClassifier(conv, num_classes, graph=graph, **options)


def mgic_dgcnn_cls(
    num_classes: int = 10,
    *,
    group_size: int = 8,
    coarse_size: int | None = None,
    cycle: str = "multiplicative",
    graph: str = "dynamic",
    **options,
) -> DGCNNClassifier:
    """:func:`dgcnn_cls` with an MGIC cycle in place of every edge convolution."""
    conv = make_cycle(
        GroupedEdgeConv, group_size=group_size, coarse_size=coarse_size, cycle=cycle, bias=False
    )
    return DGCNNClassifier(conv, num_classes, graph=graph, **options)
