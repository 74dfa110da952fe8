"""Fewer points of a cloud, and features brought back to more, called as in PyTorch Geometric."""

from __future__ import annotations

import torch
from torch import Tensor

from mgic_geo.graphs.points import checked_batch
from mgic_geo.levels import check_counts
from mgic_geo.ops.farthest import farthest
from mgic_geo.ops.inputs import check_clouds, check_finite, check_tensors
from mgic_geo.ops.knn_between import knn_between
from mgic_geo.ops.knn_reference import scale_of


def fps(
    x: Tensor,
    batch: Tensor | None = None,
    ratio: float = 0.5,
    random_start: bool = True,
    batch_size: int | None = None,
) -> Tensor:
    r"""Chooses points of every cloud, each of them the farthest from all that were chosen before.

    Distances are those of :func:`~mgic_geo.knn_indices`; of points that are as far, the first one
    is chosen.

    Args:
        x: Coordinates or features of the points.
        batch: The cloud of every point, in any order; ``None`` means a single cloud.
        ratio: Share of points that are chosen, of a cloud of :math:`n` points
            :math:`\lceil \mathrm{ratio} \cdot n \rceil`.
        random_start: Whether the first point of every cloud is drawn, by PyTorch's generator; else
            it is the first one in ``x``.
        batch_size: Number of clouds, checked where it is given.

    Shape:
        - ``x``: ``(N, D)``. ``batch``: ``(N,)``.
        - Returns ``(M,)``, int64: rows of ``x``, cloud by cloud, in the order of their choice.

    Cost:
        ``ratio`` :math:`n^2 D` multiply-adds per cloud of :math:`n` points.

    Raises:
        ValueError: An argument has another type, shape or value.

    References:
        Qi et al., PointNet++: deep hierarchical feature learning on point sets in a metric space,
        2017; ``torch_cluster.fps``, which is called the same way.

    Example:
        >>> fps(torch.tensor([[0.0], [1.0], [5.0], [9.0]]), ratio=0.75, random_start=False)
        tensor([0, 3, 2])
    """
    batch = checked_batch(batch_size, x=x, batch=batch)
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be above 0 and at most 1, got {ratio}")
    check_finite(x=x)
    batch = torch.zeros(len(x), dtype=torch.int64, device=x.device) if batch is None else batch
    check_clouds(len(x), batch=batch)
    cloud, order = batch.sort(stable=True)
    counts = cloud.unique_consecutive(return_counts=True)[1]
    x = x.detach()[order].double()
    x = x * scale_of(x, counts)
    # in float32, as torch-cluster rounds it: 0.07 * 100 is 7 there, and more in float64
    wanted = (counts.float() * torch.tensor(ratio, device=x.device)).ceil().long()
    first = torch.zeros_like(counts)
    if random_start:
        drawn = torch.rand(counts.shape, dtype=torch.float64, device=x.device)
        first = (drawn * counts).long()
    return order[farthest(x, counts, wanted, first, int(wanted.sum()))]


def knn_interpolate(
    x: Tensor,
    pos_x: Tensor,
    pos_y: Tensor,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
    k: int = 3,
    num_workers: int = 1,
) -> Tensor:
    r"""Brings features of points to other points, by a mean over the ``k`` nearest.

    .. math::
        f(y) = \frac{\sum_{i=1}^k w_i f(x_i)}{\sum_{i=1}^k w_i}, \qquad
        w_i = \frac{1}{\max(|x_i - y|^2, 10^{-16})}

    Gradients reach the features and no positions.

    Args:
        x: Features.
        pos_x: Coordinates of the points that have them.
        pos_y: Coordinates of the points that get them, in the same unit.
        batch_x: The cloud of every point of ``pos_x``, in any order; ``None`` means a single one.
        batch_y: That of every point of ``pos_y``.
        k: Neighbors per point.
        num_workers: Not used: PyTorch's threads search.

    Shape:
        - ``x``: ``(N, C)``. ``pos_x``: ``(N, D)``. ``pos_y``: ``(M, D)``. ``batch_x``: ``(N,)``.
          ``batch_y``: ``(M,)``.
        - Returns ``(M, C)``; 0 for points of a cloud where none has features.

    Raises:
        ValueError: An argument has another type, shape or value, or one batch is missing.

    References:
        Qi et al., PointNet++: deep hierarchical feature learning on point sets in a metric space,
        2017; ``torch_geometric.nn.knn_interpolate``, which is called the same way.

    Example:
        >>> pos = torch.tensor([[0.0], [2.0], [10.0]])
        >>> knn_interpolate(torch.tensor([[1.0], [3.0], [7.0]]), pos, torch.tensor([[1.0]]), k=2)
        tensor([[2.]])
    """
    check_counts(k=k)
    check_tensors(x=x)
    batch_x = checked_batch(pos_x=pos_x, batch_x=batch_x)
    batch_y = checked_batch(pos_y=pos_y, batch_y=batch_y)
    if x.dim() != 2 or x.size(0) != pos_x.size(0) or not x.is_floating_point():
        raise ValueError(
            f"x must be floating point ({pos_x.size(0)}, C), got {x.dtype} of shape "
            f"{tuple(x.shape)}"
        )
    if pos_x.size(1) != pos_y.size(1):
        columns = f"{pos_x.size(1)} and {pos_y.size(1)}"
        raise ValueError(f"pos_x and pos_y must have as many columns, got {columns}")
    if not x.size(0):
        return x.new_zeros(pos_y.size(0), x.size(1))
    pos_x, pos_y = pos_x.detach(), pos_y.detach()
    neighbors = knn_between(pos_x, pos_y, batch_x, batch_y, min(k, x.size(0)), torch.inf)
    nearest = neighbors.clamp(min=0)
    squares = (pos_x.double()[nearest] - pos_y.double()[:, None]).square().sum(-1)
    weights = (1 / squares.clamp(min=1e-16)).masked_fill(neighbors < 0, 0)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return (x[nearest] * weights.to(x.dtype)[..., None]).sum(1)
