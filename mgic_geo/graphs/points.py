"""What all searches share: checks of points and clouds, and graphs of what was found."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric import EdgeIndex

from mgic_geo.levels import check_counts
from mgic_geo.ops.inputs import check_tensors
from mgic_geo.ops.operator import check_values

_FLOWS = ("source_to_target", "target_to_source")
_INTEGERS = (torch.int64, torch.int32)


def checked_batch(batch_size: int | None = None, **given: Tensor | None) -> Tensor | None:
    """Check points and the cloud of each, which is returned in int64.

    Args:
        batch_size: Number of clouds, ``None`` where nobody says so.
        **given: Points and their clouds, by the names of the arguments.

    Raises:
        TypeError: One is no tensor.
        ValueError: One has another type, shape or device; there are more clouds.

    Example:
        >>> checked_batch(x=torch.ones(2, 3), batch=torch.tensor([0, 1], dtype=torch.int32))
        tensor([0, 1])
    """
    check_tensors(**given)
    (name, x), (batch_name, batch) = given.items()
    if x is None or x.dim() != 2 or not x.size(1):
        shape = None if x is None else tuple(x.shape)
        raise ValueError(f"{name} must be (N, D) with D >= 1, got shape {shape}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {x.dtype}")
    if batch is not None and (batch.shape != x.shape[:1] or batch.dtype not in _INTEGERS):
        raise ValueError(
            f"{batch_name} must be int64 or int32 of shape ({x.size(0)},), got {batch.dtype} of "
            f"shape {tuple(batch.shape)}"
        )
    check_values(**given)
    batch = None if batch is None else batch.long()
    if batch_size is not None:
        check_counts(batch_size=batch_size)
        if batch is not None and batch.numel() and int(batch.max()) >= batch_size:
            raise ValueError(f"batch_size is {batch_size}, but {batch_name} has {int(batch.max())}")
    return batch


def check_flow(flow: str) -> None:
    """Raise where a direction is none."""
    if flow not in _FLOWS:
        raise ValueError(f"flow must be one of {', '.join(_FLOWS)}, got {flow!r}")


def edges_of(neighbors: Tensor, rows: Tensor | None = None) -> Tensor:
    """Pairs of a table of neighbors, the row of the table first.

    Args:
        neighbors: With -1 in places that are left.
        rows: Numbers of the rows, where they are not counted from 0.

    Shape:
        - ``neighbors``: ``(M, k)``. Returns ``(2, E)``.

    Example:
        >>> edges_of(torch.tensor([[1, 2], [0, -1]])).tolist()
        [[0, 0, 1], [1, 2, 0]]
    """
    found = neighbors >= 0
    rows = torch.arange(neighbors.size(0), device=neighbors.device) if rows is None else rows
    return torch.stack([rows.repeat_interleave(found.sum(1)), neighbors[found]])


def to_graph(edges: Tensor, num_points: int, flow: str) -> EdgeIndex:
    """Graph of pairs, ``(2, E)``, that are sorted by their first points, the centers."""
    forward = flow == _FLOWS[0]
    edge_index = EdgeIndex(  # pyright: ignore[reportCallIssue]: it sees Tensor's __init__
        edges.flip(0) if forward else edges,
        sparse_size=(num_points, num_points),
        sort_order="col" if forward else "row",
    )
    degree = edges[0].bincount(minlength=num_points)
    edge_index._indptr = F.pad(degree.cumsum(0), (1, 0))
    return edge_index


def directions(x: Tensor) -> Tensor:
    """Return points at distance 1 from the origin, whose squared distances are 2 - 2 cosines.

    Shape:
        - ``x``: ``(N, D)``. Returns ``(N, D)``, float64.

    Example:
        >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    x = x.detach().double()
    largest = torch.linalg.vector_norm(x, torch.inf, 1, keepdim=True)
    x = x / largest.where(largest > 0, 1.0)  # so that no square over- or underflows
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / length.where(length > 0, 1.0)
