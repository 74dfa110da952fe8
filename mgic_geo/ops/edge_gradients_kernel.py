"""Weights of edges in derivatives and the matrices made of them, compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from mgic_geo.ops.csrc import build


def edge_gradients(
    pos: Tensor, source: Tensor, target: Tensor, cloud: Tensor, softening: float
) -> Tensor:
    """Weight of every edge in the first derivatives at its target.

    Shape:
        - ``pos``: ``(N, 3)``. ``source``, ``target``: ``(E,)``. ``cloud``: ``(N,)``, from 0 to
          N - 1. Returns ``(E, 3)``.
    """
    pos, source, target = pos.contiguous(), source.contiguous(), target.contiguous()
    cloud = cloud.contiguous()
    value, lengths = pos.new_empty(source.numel(), 3), pos.new_empty(source.numel())
    sums = pos.new_zeros(3, pos.size(0), dtype=torch.double)
    build.run("mgic_edge_gradients", pos, source, target, cloud, softening, value, lengths, sums)
    return value


def derivative_operators(ptr: Tensor, index: Tensor, edge_value: Tensor) -> tuple[Tensor, ...]:
    """The weights as sparse matrices with every node's own weights in them, and their transposes.

    Shape:
        - ``ptr``: ``(N + 1,)``. ``index``: ``(E,)``. ``edge_value``: ``(E, 3)``.
        - Returns the fields of :class:`~mgic_geo.graphs.derivatives.DerivativeOperators`.
    """
    ptr, index, edge_value = ptr.contiguous(), index.contiguous(), edge_value.contiguous()
    entries = index.numel() + ptr.numel() - 1
    results = [
        matrix
        for _ in range(2)
        for matrix in (
            torch.empty_like(ptr),
            index.new_empty(entries),
            edge_value.new_empty(entries, 3),
        )
    ]
    results.append(torch.empty_like(ptr))
    build.run("mgic_derivative_operators", ptr, index, edge_value, *results)
    return tuple(results)
