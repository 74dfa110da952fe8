"""Channel-wise maximum over neighborhoods of one size: what devices without kernels in C run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mgic_geo.ops.gpu.choice import why_not_triton
from mgic_geo.ops.neighbor_max import add_at_rows
from mgic_geo.ops.operator import Kernel, Operation


def _reference(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    padded = functional.pad(x, (0, 0, 0, 1))  # row N: what targets without neighbors get
    place = padded.detach()[table].max(1).indices  # (T, k, C) -> (T, C)
    row = table.gather(1, place)
    return padded.gather(0, row), row


def _triton(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    from mgic_geo.ops.gpu import table_max as kernels

    return kernels.maximum(x, table)


def _fake(x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    best = x.new_empty(table.size(0), x.size(1))
    return best, torch.empty_like(best, dtype=torch.long)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.num_sources = inputs[0].size(0)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
    return add_at_rows(grad, ctx.saved_tensors[0], ctx.num_sources), None


#: ``(x, table)``: the maximum of ``x``, ``(N, C)``, over the neighbors of every target, ``(T, k)``,
#: and the row it is from. Targets with fewer than ``k`` neighbors name one of them again; row N,
#: which holds 0, stands in the places of those that have none. NaN is the largest of all, and the
#: gradient goes to one neighbor where several hold the maximum.
table_max = Operation(
    "mgic::table_max",
    _reference,
    Kernel("triton", _triton, lambda x, table: why_not_triton(x)),
    fake=_fake,
    setup=_setup,
    backward=_backward,
)
