"""Farthest point sampling in batched clouds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mgic_geo.ops.compiled import why_not_compiled
from mgic_geo.ops.csrc import build
from mgic_geo.ops.host import why_not_on_host
from mgic_geo.ops.inputs import check_finite
from mgic_geo.ops.operator import Kernel, Operation


def _reference(x: Tensor, counts: Tensor, wanted: Tensor, first: Tensor, total: int) -> Tensor:
    _check(x, counts, wanted, first, total)
    chosen, start = [], 0
    for size, number, place in zip(counts.tolist(), wanted.tolist(), first.tolist(), strict=True):
        cloud = x[start : start + size]
        nearest = cloud.new_full((size,), torch.inf)
        last = torch.tensor(place, device=x.device)
        for _ in range(number):
            chosen.append(last + start)
            # along an outer axis sums are added up one after another, on a GPU as well
            gaps = (cloud - cloud[last]).T.contiguous()
            nearest = torch.minimum(nearest, gaps.square_().cumsum(0)[-1])
            last = nearest.argmax()
        start += size
    return torch.stack(chosen) if chosen else counts.new_empty(0)


def _compiled(x: Tensor, counts: Tensor, wanted: Tensor, first: Tensor, total: int) -> Tensor:
    _check(x, counts, wanted, first, total)
    chosen = counts.new_empty(total)
    starts, ends = (F.pad(sizes.cumsum(0), (1, 0)) for sizes in (counts, wanted))
    columns = x.double().T.contiguous()
    build.run("mgic_farthest", columns, x.size(1), starts, ends, first.contiguous(), chosen)
    return chosen


def _check(x: Tensor, counts: Tensor, wanted: Tensor, first: Tensor, total: int) -> None:
    if x.dim() != 2 or not x.size(1) or x.dtype != torch.float64:
        raise ValueError(f"x must be float64 (N, D), got {x.dtype} of shape {tuple(x.shape)}")
    for name, sizes in (("counts", counts), ("wanted", wanted), ("first", first)):
        if sizes.dim() != 1 or len(sizes) != len(counts) or sizes.dtype != torch.int64:
            raise ValueError(
                f"{name} must be int64 (clouds,), got {sizes.dtype} of shape {tuple(sizes.shape)}"
            )
        if (sizes < 0).any() or ((sizes > counts).any() and name != "counts"):
            raise ValueError(f"{name} must be from 0 to the points of each cloud, got {sizes}")
    if ((first >= counts) & (wanted > 0)).any():
        raise ValueError(f"first must be places in clouds of {counts} points, got {first}")
    if int(counts.sum()) != len(x) or int(wanted.sum()) != total:
        raise ValueError(f"counts must sum to {len(x)} points, and wanted to {total}")
    check_finite(x=x)


def _why_not(x: Tensor, counts: Tensor, wanted: Tensor, first: Tensor, total: int) -> str | None:
    return why_not_on_host(x) or why_not_compiled()


#: ``(x, counts, wanted, first, total)``: rows of points that are each farthest from all chosen
#: before in its cloud, ``wanted`` of each cloud and ``total`` together. ``x``, ``(N, D)``, is
#: float64, clouds of ``counts`` points one after another; ``first`` are the places where each
#: begins. Of points that are as far the first one is chosen.
farthest = Operation(
    "mgic::farthest",
    _reference,
    Kernel("compiled", _compiled, _why_not),
    fake=lambda x, counts, wanted, first, total: counts.new_empty(total),
    opaque=True,
)
