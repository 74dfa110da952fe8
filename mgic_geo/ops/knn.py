"""Nearest neighbors in batched clouds; the rule is that of :mod:`mgic_geo.graphs.neighbors`."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mgic_geo.ops import knn_batched, knn_compiled
from mgic_geo.ops.gpu.choice import why_not_triton
from mgic_geo.ops.host import check, why_not_on_host
from mgic_geo.ops.inputs import check_clouds, check_finite
from mgic_geo.ops.knn_batched import cloud_table
from mgic_geo.ops.knn_reference import search
from mgic_geo.ops.operator import Kernel, Operation

MAX_IN_TRITON = 64  # neighbors that a running list holds in registers

Search = Callable[[Tensor, Tensor], Tensor]


def _reference(
    x: Tensor,
    batch: Tensor | None,
    k: int,
    backend: str,
    table: Tensor | None = None,
) -> Tensor:
    if backend == "torch_cluster":
        return _by_cloud(x, batch, k, lambda x, counts: _search_torch_cluster(x, counts, k))
    if backend == "exact":
        return _by_cloud(x, batch, k, lambda x, counts: search(x, counts, k, exact=True))
    if not x.size(0):
        return torch.empty((0, k), dtype=torch.int64, device=x.device)
    if table is not None:
        return knn_batched.search(x, table, k)
    if batch is None:
        return knn_batched.search(x, torch.arange(x.size(0), device=x.device)[None], k)
    numbers, places, counts = torch.unique(batch, return_inverse=True, return_counts=True)
    check(numbers[0] >= 0, lambda: "batch must not be negative", "batch must not be negative")
    return knn_batched.search(x, cloud_table(places, numbers.numel(), int(counts.max())), k)


def _triton(x: Tensor, batch: Tensor | None, k: int, *_: object) -> Tensor:
    from mgic_geo.ops.gpu import knn as kernels

    return kernels.search(x, batch, k)


def _why_not_in_triton(
    x: Tensor, batch: Tensor | None, k: int, backend: str, *_: object
) -> str | None:
    reason = why_not_triton(x)
    if reason is None and not x.size(0):
        return "x is empty"
    if reason is None and k > MAX_IN_TRITON:
        return f"k is {k}, more than {MAX_IN_TRITON}"
    return f"backend is {backend!r}" if reason is None and backend != "auto" else reason


def _blocks(x: Tensor, batch: Tensor | None, k: int, *_: object) -> Tensor:
    return _by_cloud(x, batch, k, lambda x, counts: search(x, counts, k, exact=False))


def _why_not_blocks(
    x: Tensor, batch: Tensor | None, k: int, backend: str, *_: object
) -> str | None:
    return why_not_on_host(x) if backend == "auto" else f"backend is {backend!r}"


def _compiled(x: Tensor, batch: Tensor | None, k: int, *_: object) -> Tensor:
    return _by_cloud(x, batch, k, lambda x, counts: knn_compiled.search(x, counts, k))


def _why_not(x: Tensor, batch: Tensor | None, k: int, backend: str, *_: object) -> str | None:
    return knn_compiled.why_not(x) if backend == "auto" else f"backend is {backend!r}"


def _by_cloud(x: Tensor, batch: Tensor | None, k: int, search: Search) -> Tensor:
    """Neighbors by a search ``(x, counts)`` in clouds that lie one after another."""
    check_finite(x=x)
    if not x.size(0):
        return torch.empty((0, k), dtype=torch.int64, device=x.device)
    if batch is None:
        return search(x, torch.tensor([x.size(0)], device=x.device))
    check_clouds(x.size(0), batch=batch)
    order = None
    if (batch[1:] < batch[:-1]).any():
        # The stable sort keeps points of a cloud in order: ties by place are ties by index.
        batch, order = batch.sort(stable=True)
        x = x[order]
    places = search(x, batch.unique_consecutive(return_counts=True)[1])
    if order is None:
        return places
    neighbors = torch.empty_like(places)
    neighbors[order] = F.pad(order, (0, 1), value=-1)[places]  # place -1 reads the padding
    return neighbors


def _single(x: Tensor) -> Tensor:
    """Half precision as float32, which holds it exactly."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _search_torch_cluster(x: Tensor, counts: Tensor, k: int) -> Tensor:
    """Asks torch-cluster about points sorted by cloud."""
    try:
        torch_cluster = importlib.import_module("torch_cluster")
    except ImportError as error:
        raise ImportError(
            "backend='torch_cluster' needs torch-cluster: `make cluster` installs it, and "
            "backend='auto' does without"
        ) from error
    x = _single(x)
    cloud = torch.arange(counts.numel(), device=x.device).repeat_interleave(counts)

    # One more than asked for, as a point finds itself, unless enough duplicates come first.
    centers, neighbors = torch_cluster.knn(x, x, k + 1, cloud, cloud)
    degree = centers.bincount(minlength=x.size(0))
    rank = torch.arange(centers.numel(), device=x.device) - (degree.cumsum(0) - degree)[centers]
    places = torch.full((x.size(0), k + 1), -1, device=x.device)
    places[centers, rank] = neighbors
    return without_itself(places)


def without_itself(neighbors: Tensor, rows: Tensor | None = None) -> Tensor:
    """Drop every point from its own neighbors, the last one where it is not among them.

    Args:
        neighbors: Nearest first.
        rows: Numbers of the rows, where they are not counted from 0.

    Shape:
        - ``neighbors``: ``(N, k + 1)``. Returns ``(N, k)``.

    Example:
        >>> without_itself(torch.tensor([[0, 1], [1, 0], [0, 1]]))
        tensor([[1],
                [0],
                [0]])
    """
    rows = torch.arange(neighbors.size(0), device=neighbors.device) if rows is None else rows
    itself = neighbors == rows[:, None]
    return neighbors.gather(1, itself.byte().sort(dim=1, stable=True).indices)[:, :-1]


#: ``(x, batch, k, backend, table=None)``: the ``k`` nearest neighbors of every row of ``x``,
#: ``(N, D)``, in its cloud, ``(N, k)``, -1 where a cloud is too small. How many rows need a second
#: look, and how large the clouds are where no table of them is given, is only known at run time.
knn = Operation(
    "mgic::knn",
    _reference,
    Kernel("triton", _triton, _why_not_in_triton),
    Kernel("compiled", _compiled, _why_not),
    Kernel("blocks", _blocks, _why_not_blocks),
    fake=lambda x, batch, k, *_: x.new_empty((x.size(0), k), dtype=torch.int64),
    opaque=True,
)
