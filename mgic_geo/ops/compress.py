"""Edges of a list in compressed form, while a program is traced: its nodes are looked at later."""

from __future__ import annotations

import torch
from torch import Tensor

from mgic_geo.ops.host import check, is_readable, why_not_on_host
from mgic_geo.ops.operator import Kernel, Operation
from mgic_geo.ops.spmm import pointer_of


def check_nodes(nodes: Tensor, count: int, role: str) -> None:
    """Raise where a node does not exist.

    Raises:
        ValueError: Naming the first such number that is too low, or too high, on a processor; see
            :func:`~mgic_geo.ops.host.check` for other devices.
    """
    if not nodes.numel():
        return
    if not is_readable(nodes):
        every = ((nodes >= 0) & (nodes < count)).all()
        check(every, str, f"edge_index names a {role} node that does not exist")
        return
    low, high = (int(value) for value in nodes.aminmax())
    if low < 0 or high >= count:
        raise ValueError(
            f"edge_index names {role} node {low if low < 0 else high}, "
            f"but there are {count} {role} nodes (0 to {count - 1})"
        )


def _reference(
    source: Tensor, target: Tensor, num_sources: int, num_targets: int
) -> tuple[Tensor, Tensor, Tensor]:
    # index_select refuses nodes that do not exist
    sources, targets = (torch.arange(n, device=source.device) for n in (num_sources, num_targets))
    target, order = targets.index_select(0, target).sort(stable=True)
    return pointer_of(target, num_targets), sources.index_select(0, source)[order], order


def _checked(
    source: Tensor, target: Tensor, num_sources: int, num_targets: int
) -> tuple[Tensor, Tensor, Tensor]:
    if source.dtype != torch.int64 or target.dtype != torch.int64:
        raise ValueError(f"source and target must be int64, got {source.dtype} and {target.dtype}")
    if source.dim() != 1 or source.shape != target.shape:
        raise ValueError(
            "source and target must be one node an edge, got shapes "
            f"{tuple(source.shape)} and {tuple(target.shape)}"
        )
    check_nodes(source, num_sources, "source")
    check_nodes(target, num_targets, "target")
    return _reference(source, target, num_sources, num_targets)


def _fake(
    source: Tensor, target: Tensor, num_sources: int, num_targets: int
) -> tuple[Tensor, Tensor, Tensor]:
    return source.new_empty(num_targets + 1), torch.empty_like(source), torch.empty_like(source)


#: ``(source, target, num_sources, num_targets)``: pointer, sources, and the places that edges had.
compress = Operation(
    "mgic::compress",
    _reference,
    Kernel("checked", _checked, lambda source, *_: why_not_on_host(source)),
    fake=_fake,
)
