"""DGCNN as its public PyTorch code lays it out: every edge a column, ``(B, C, N, k)``.

It takes clouds of one size only, finds neighbors by one batched product and ``topk``, and keeps the
features of every edge for the way back.
"""

import itertools

import torch
from torch import Tensor, nn

from mgic_geo.models.point_cloud import GCONVS_BEFORE_MLP, HEAD_MLPS, mlp
from scripts.benchmarks.pyg_baselines import NEIGHBORS, NUM_CLASSES, WIDTH


def product_knn(x: Tensor, k: int) -> Tensor:
    """Places of the nearest points by the product, the point itself among them.

    Shape:
        - ``x``: ``(B, C, N)``. Returns ``(B, N, k)``.
    """
    inner = -2 * torch.matmul(x.transpose(2, 1), x)
    norms = torch.sum(x**2, dim=1, keepdim=True)
    return (-norms - inner - norms.transpose(2, 1)).topk(k, dim=-1).indices


def edge_features(x: Tensor, k: int) -> Tensor:
    """``[x_j - x_i, x_i]`` for every edge, ``(B, C, N)`` to ``(B, 2 C, N, k)``."""
    clouds, channels, points = x.shape
    first = torch.arange(clouds, device=x.device).view(-1, 1, 1) * points
    nodes = x.transpose(2, 1).reshape(clouds * points, channels)
    near = nodes[(product_knn(x, k) + first).view(-1)].view(clouds, points, k, channels)
    center = nodes.view(clouds, points, 1, channels).expand(-1, -1, k, -1)
    return torch.cat([near - center, center], dim=3).permute(0, 3, 1, 2).contiguous()


class TensorDGCNN(nn.Module):
    """The network of Table 10 on edges in a dense tensor.

    Shape:
        - ``pos``: ``(N, 3)``, clouds of one size one after another. Returns ``(B, 10)`` logits.

    References:
        Wang et al., Dynamic graph CNN for learning on point clouds (the paper's [65]).
    """

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *[WIDTH] * sum(GCONVS_BEFORE_MLP)]
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in itertools.pairwise(widths)
        )
        ends = set(itertools.accumulate(GCONVS_BEFORE_MLP))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Conv1d(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU())
            if number in ends
            else nn.Identity()
            for number in range(1, len(widths))
        )
        head = [mlp(WIDTH, WIDTH) for _ in range(HEAD_MLPS)]
        self.head = nn.Sequential(*head, nn.Linear(WIDTH, NUM_CLASSES))

    def forward(self, pos: Tensor, batch: Tensor, batch_size: int) -> Tensor:
        """Classify every cloud of the batch."""
        x = pos.view(batch_size, -1, 3).transpose(2, 1)
        for conv, point_mlp in zip(self.convs, self.mlps, strict=True):
            x = point_mlp(conv(edge_features(x, NEIGHBORS)).max(dim=-1).values)
        return self.head(x.max(dim=-1).values)


def product_knn_graph(x: Tensor, k: int, clouds: int) -> Tensor:
    """The edges of :func:`product_knn` in PyG's form, for clouds of one size.

    Shape:
        - ``x``: ``(N, C)``. Returns ``(2, N * k)``, row 0 the neighbor.
    """
    places = product_knn(x.view(clouds, -1, x.size(1)).transpose(2, 1), k)
    points = places.size(1)
    neighbors = places + torch.arange(clouds, device=x.device).view(-1, 1, 1) * points
    centers = torch.arange(x.size(0), device=x.device).view(clouds, points, 1)
    return torch.stack([neighbors, centers.expand_as(neighbors)]).flatten(1)
