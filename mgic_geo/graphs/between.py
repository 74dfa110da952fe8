"""Neighbors of points in another set and within a radius, called as in torch-cluster."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from mgic_geo.graphs.points import check_flow, checked_batch, directions, edges_of, to_graph
from mgic_geo.levels import check_counts
from mgic_geo.ops.knn import without_itself
from mgic_geo.ops.knn_between import knn_between

# So that time and memory grow with the neighbors that are found, not with those that are allowed:
_AT_ONCE = 1 << 23  # places of a table of neighbors
_FIRST = 64  # neighbors that are looked for; where there are as many, eight times that, and so on


def knn(
    x: Tensor,
    y: Tensor,
    k: int,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
    cosine: bool = False,
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """Finds the ``k`` points of ``x`` that are nearest to every point of ``y``.

    They are ordered by (squared distance, index), as :func:`~mgic_geo.knn_indices` has it. A point
    that is in both finds itself.

    Args:
        x: Coordinates or features of the points to find.
        y: Those of points whose neighbors are wanted.
        k: Neighbors per point; in a smaller cloud, all.
        batch_x: The cloud of every point of ``x``, in any order; ``None`` means a single cloud.
        batch_y: That of every point of ``y``.
        cosine: As for :func:`~mgic_geo.knn_graph`.
        num_workers: Not used: PyTorch's threads search.
        batch_size: Number of clouds, checked where it is given.

    Shape:
        - ``x``: ``(N, D)``. ``y``: ``(M, D)``. ``batch_x``: ``(N,)``. ``batch_y``: ``(M,)``.
        - Returns ``(2, E)``, int64: row 0 holds rows of ``y``, row 1 their neighbors in ``x``.

    Raises:
        ValueError: An argument has another type, shape or value, or one batch is missing.

    References:
        ``torch_cluster.knn``, which is called the same way.

    Example:
        >>> knn(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([[1.5], [9.0]]), 2)
        tensor([[0, 0, 1, 1],
                [1, 0, 2, 1]])
    """
    check_counts(k=k)
    batch_x, batch_y = _checked(x, y, batch_x, batch_y, batch_size)
    if cosine:
        x, y = directions(x), directions(y)
    k = min(k, max(1, x.size(0)))
    return edges_of(knn_between(x.detach(), y.detach(), batch_x, batch_y, k, torch.inf))


def radius(
    x: Tensor,
    y: Tensor,
    r: float,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
    max_num_neighbors: int = 32,
    num_workers: int = 1,
    batch_size: int | None = None,
    ignore_same_index: bool = False,
) -> Tensor:
    """Finds all points of ``x`` that are nearer than ``r`` to every point of ``y``.

    Where there are more than ``max_num_neighbors`` the nearest are returned, in the order of
    :func:`~mgic_geo.knn_indices`; torch-cluster returns any. As there, a point at the distance
    ``r`` itself does not count.

    Args:
        x: Coordinates or features of the points to find.
        y: Those of points whose neighbors are wanted.
        r: Distance, in the unit of ``x`` and ``y``.
        batch_x: The cloud of every point of ``x``, in any order; ``None`` means a single cloud.
        batch_y: That of every point of ``y``.
        max_num_neighbors: Neighbors per point at most.
        num_workers: Not used: PyTorch's threads search.
        batch_size: Number of clouds, checked where it is given.
        ignore_same_index: Whether row ``i`` of ``x`` is no neighbor of row ``i`` of ``y``.

    Shape:
        - ``x``: ``(N, D)``. ``y``: ``(M, D)``. ``batch_x``: ``(N,)``. ``batch_y``: ``(M,)``.
        - Returns ``(2, E)``, int64: row 0 holds rows of ``y``, row 1 their neighbors in ``x``.

    Raises:
        ValueError: An argument has another type, shape or value, or one batch is missing.

    References:
        ``torch_cluster.radius``, which is called the same way.

    Example:
        >>> radius(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([[1.5], [9.0]]), 3.0)
        tensor([[0, 0],
                [1, 0]])
    """
    check_counts(max_num_neighbors=max_num_neighbors)
    if not r >= 0:
        raise ValueError(f"r must be 0 or more, got {r}")
    batch_x, batch_y = _checked(x, y, batch_x, batch_y, batch_size)
    k = min(max_num_neighbors, x.size(0)) + int(ignore_same_index)
    rows, width = torch.arange(y.size(0), device=x.device), min(k, _FIRST)
    found = [rows.new_empty(2, 0)]
    while rows.numel() and x.size(0):
        crowded = []
        for some in rows.split(max(1, _AT_ONCE // width)):
            clouds = None if batch_y is None else batch_y[some]
            neighbors = knn_between(x.detach(), y[some].detach(), batch_x, clouds, width, float(r))
            more = (neighbors[:, -1] >= 0) & (width < k)
            crowded.append(some[more])
            neighbors, some = neighbors[~more], some[~more]
            neighbors = without_itself(neighbors, some) if ignore_same_index else neighbors
            found.append(edges_of(neighbors, some))
        rows, width = torch.cat(crowded), min(k, 8 * width)
    edges = torch.cat(found, dim=1)
    return edges[:, edges[0].argsort(stable=True)]


def radius_graph(
    x: Tensor,
    r: float,
    batch: Tensor | None = None,
    loop: bool = False,
    max_num_neighbors: int = 32,
    flow: str = "source_to_target",
    num_workers: int = 1,
    batch_size: int | None = None,
) -> EdgeIndex:
    """Connects every point to all points that are nearer than ``r``, as :func:`radius` finds them.

    Args:
        x: Coordinates or features of the points.
        r: Distance, in the unit of ``x``.
        batch: The cloud of every point, in any order; ``None`` means a single cloud.
        loop: Whether a point is its own neighbor.
        max_num_neighbors: Neighbors per point at most, the nearest.
        flow: ``"source_to_target"`` has centers in row 1, ``"target_to_source"`` in row 0.
        num_workers: Not used: PyTorch's threads search.
        batch_size: Number of clouds, checked where it is given.

    Shape:
        - ``x``: ``(N, D)``. ``batch``: ``(N,)``.
        - Returns ``(2, E)``, sorted by center, then distance, then index.

    Raises:
        ValueError: An argument has another type, shape or value.

    References:
        ``torch_cluster.radius_graph``, which is called the same way.

    Example:
        >>> radius_graph(torch.tensor([[0.0], [1.0], [3.0]]), 2.5).as_tensor()
        tensor([[1, 0, 2, 1],
                [0, 1, 1, 2]])
    """
    check_flow(flow)
    checked_batch(batch_size, x=x, batch=batch)
    edges = radius(x, x, r, batch, batch, max_num_neighbors, ignore_same_index=not loop)
    return to_graph(edges, x.size(0), flow)


def _checked(
    x: Tensor,
    y: Tensor,
    batch_x: Tensor | None,
    batch_y: Tensor | None,
    batch_size: int | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Check two sets of points; their clouds are returned in int64."""
    batch_x = checked_batch(batch_size, x=x, batch_x=batch_x)
    batch_y = checked_batch(batch_size, y=y, batch_y=batch_y)
    if x.size(1) != y.size(1):
        raise ValueError(f"x and y must have as many columns, got {x.size(1)} and {y.size(1)}")
    return batch_x, batch_y
