"""A part for every point: a per-point head on the backbone of Table 10."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mgic_geo.graphs.neighbors import cloud_table
from mgic_geo.levels import check_counts
from mgic_geo.models.point_cloud import (
    PointCloudClassifier,
    check_batch_size,
    check_points,
    mlp,
    pool_max,
)
from mgic_geo.models.registry import create_model


class PointCloudSegmenter(nn.Module):
    r"""The layers of a point-cloud classifier in front of its pooling, and a head for every point.

    What a point is of depends on its surroundings, which the backbone sees, and on the whole, which
    it does not: the maximum over the cloud is put beside every point's own features.

    .. math::
        s_i = H\bigl([x_i, \max_j x_j]\bigr)

    :math:`H` is two MLPs of the backbone's width and a linear map.

    Args:
        backbone: A classifier, whose own head is taken off.
        num_parts: Parts to tell apart.
        dropout: Share of features dropped in front of the last map.

    Shape:
        - ``pos``: ``(N, 3)`` coordinates, in any unit of length. ``batch``: ``(N,)``. ``x``:
          ``(N, num_features)`` of the backbone, where there are any.
        - Returns ``(N, num_parts)`` logits.

    Cost:
        That of the backbone, ``w (3 w + num_parts)`` weights for its width ``w``, and the norms and
        biases of the head.

    Raises:
        ValueError: If ``num_parts`` is below 1; when called, if the input has another shape.

    References:
        Section 4.5, Table 10 for the backbone; the head is that of DGCNN (the paper's [65]).

    Example:
        >>> from mgic_geo import create_model
        >>> model = PointCloudSegmenter(create_model("dgcnn", k=4), num_parts=7).eval()
        >>> model(torch.rand(20, 3)).shape
        torch.Size([20, 7])
    """

    def __init__(
        self, backbone: PointCloudClassifier, num_parts: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_counts(num_parts=num_parts)
        width = backbone.point_width
        backbone.head = nn.Sequential()  # its parameters would never get a gradient
        self.backbone, self.num_parts = backbone, num_parts
        self.head = nn.Sequential(
            mlp(2 * width, width),
            mlp(width, width),
            nn.Dropout(dropout),
            nn.Linear(width, num_parts),
        )

    def forward(
        self,
        pos: Tensor,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        max_points: int | None = None,
        x: Tensor | None = None,
    ) -> Tensor:
        """Score the parts for every point; arguments as for :class:`PointCloudClassifier`."""
        check_points(pos, batch)
        clouds = cloud_table(batch, batch_size, max_points)
        batch_size = check_batch_size(batch, batch_size)
        features = self.backbone.point_features(pos, batch, clouds, x)
        whole = pool_max(features, batch, batch_size, clouds)
        whole = whole.expand_as(features) if batch is None else whole.index_select(0, batch)
        return self.head(torch.cat([features, whole], dim=1))


def create_segmenter(
    name: str, num_parts: int, *, dropout: float = 0.0, **options
) -> PointCloudSegmenter:
    """Build a network that scores parts for every point.

    Args:
        name: Backbone, one of :func:`~mgic_geo.list_models`.
        num_parts: Parts to tell apart.
        dropout: Share of features dropped in front of the last map.
        **options: Of :func:`~mgic_geo.create_model`.

    Raises:
        ValueError: As :func:`~mgic_geo.create_model` and :class:`PointCloudSegmenter`.

    Example:
        >>> model = create_segmenter("mgic_diffgcn", 32)
        >>> sum(p.numel() for p in model.parameters())
        74064
    """
    return PointCloudSegmenter(create_model(name, **options), num_parts, dropout=dropout)
