"""The compiled searches for the nearest neighbors: a tree, or distances of all pairs in panels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mgic_geo.ops.compiled import why_not_compiled
from mgic_geo.ops.csrc import build
from mgic_geo.ops.csrc.call import read_constant
from mgic_geo.ops.host import why_not_on_host

MAX_DIM = read_constant("knn_rule.h", "MAX_DIM")
AXES = read_constant("knn_tree.h", "AXES")
LARGE = 2048  # points of a cloud from which on a tree is faster than panels


def why_not(*tensors: Tensor) -> str | None:
    """Why the compiled searches do not take these coordinates, in words; ``None`` where they do."""
    for x in tensors:
        if x.size(1) > MAX_DIM:
            return f"x has more than {MAX_DIM} columns"
        if not x.is_floating_point():
            return f"x is {x.dtype}, not floating point"
        if reason := why_not_on_host(x):
            return reason
    return why_not_compiled()


def search(
    x: Tensor,
    counts: Tensor,
    k: int,
    y: Tensor | None = None,
    counts_y: Tensor | None = None,
    radius: float = torch.inf,
) -> Tensor:
    """Find neighbors in clouds that lie one after another.

    Args:
        x: Finite coordinates, cloud by cloud.
        counts: Points of each cloud.
        k: Neighbors per point.
        y: Points whose neighbors are wanted; ``None`` for those of ``x``, none of which is its own.
        counts_y: Of ``y`` in each cloud.
        radius: Only what is nearer counts.

    Shape:
        - ``x``: ``(N, D)``. ``y``: ``(M, D)``. ``counts``, ``counts_y``: ``(clouds,)``.
        - Returns ``(M, k)``, int64: rows of ``x``, nearest first, -1 where there is none.
    """
    rows, of_rows = (x.size(0), counts) if y is None or counts_y is None else (y.size(0), counts_y)
    dtype = x.dtype if y is None else torch.promote_types(x.dtype, y.dtype)
    name = "mgic_knn_double" if dtype == torch.float64 else "mgic_knn"
    spare = 0
    if x.size(1) <= AXES and int(counts @ of_rows) > LARGE * rows:
        name, spare = "mgic_knn_tree", AXES - x.size(1)

    def laid_out(points: Tensor) -> Tensor:
        points = points.to(torch.float32 if name == "mgic_knn" else torch.float64)
        return (F.pad(points, (0, spare)) if spare else points).contiguous()

    neighbors = torch.full((rows, k), -1, device=x.device)
    build.run(
        *(name, laid_out(x), x.size(1) + spare, _starts(counts)),
        *(None if y is None else laid_out(y), None if counts_y is None else _starts(counts_y)),
        *(k, radius, neighbors),
    )
    return neighbors


def _starts(counts: Tensor) -> Tensor:
    return F.pad(counts.cumsum(0), (1, 0))
