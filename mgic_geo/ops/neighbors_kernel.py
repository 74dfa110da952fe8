"""Neighbors and maxima over them, compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from mgic_geo.ops.csrc import build

PANEL = 32  # of knn.c at most
MAX_DIM = 1 << 16  # of the error bound in knn.c


def knn(x: Tensor, starts: Tensor, k: int) -> Tensor:
    """Exact nearest neighbors in clouds that lie one after another.

    Shape:
        - ``x``: ``(N, D)``. ``starts``: ``(clouds + 1,)``, where each cloud starts, and N.
        - Returns ``(N, k)``: row numbers, nearest first, -1 where a cloud is too small.
    """
    x, starts = x.contiguous(), starts.contiguous()
    clouds, dim = starts.numel() - 1, x.size(1)
    panels = x.new_empty((x.size(0) + clouds * PANEL) * dim)
    neighbors = torch.full((x.size(0), k), -1)
    build.run("mgic_knn", x, *x.shape, starts, k, panels, neighbors)
    return neighbors


def neighbor_max(x: Tensor, ptr: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum over neighbors and the rows it is from, row N and value 0 where there are none.

    Shape:
        - ``x``: ``(N, C)``. ``ptr``: ``(targets + 1,)``. ``index``: ``(edges,)``.
        - Returns ``(targets, C)`` twice.
    """
    x, ptr, index = x.contiguous(), ptr.contiguous(), index.contiguous()
    if not ptr.numel():
        raise ValueError("ptr must start with 0, got none")
    best = x.new_empty(ptr.numel() - 1, x.size(1))
    row = torch.empty_like(best, dtype=torch.long)
    build.run("mgic_neighbor_max", x, *x.shape, ptr, index, best, row)
    return best, row


def neighbor_max_backward(grad: Tensor, row: Tensor, num_sources: int) -> Tensor:
    """The gradient of :func:`neighbor_max`, ``(num_sources, C)``."""
    grad, row = grad.contiguous(), row.contiguous()
    grad_x = grad.new_zeros(num_sources, grad.size(1))
    build.run("mgic_neighbor_max_backward", grad, row, len(grad), *grad_x.shape, grad_x)
    return grad_x
