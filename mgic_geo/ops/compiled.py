"""When compiled kernels apply: float32 on a processor, and a library that could be built."""

from __future__ import annotations

import torch
from torch import Tensor

from mgic_geo.ops.csrc import build
from mgic_geo.ops.host import is_as_on_device

MAX_ROWS = 1 << 31  # rows are int32 in the kernels


def why_not_compiled(**tensors: Tensor | None) -> str | None:
    """Why the kernels of graphs do not take these tensors, in words; ``None`` where they do."""
    return why_not_readable(**tensors) or (None if build.available() else "no kernels are compiled")


def why_not_readable(**tensors: Tensor | None) -> str | None:
    """Why no kernel can read these tensors, in words; ``None`` where one can.

    Example:
        >>> why_not_readable(x=torch.ones(2, dtype=torch.float64))
        'x is torch.float64, not float32'
    """
    for name, x in tensors.items():
        if x is None:
            continue
        if x.dtype is not torch.float32:
            return f"{name} is {x.dtype}, not float32"
        if not x.is_cpu:
            return f"{name} is on {x.device}, not on a processor"
        if x.layout is not torch.strided:
            return f"{name} is {x.layout}, not torch.strided"
        if x.dim() and x.size(0) >= MAX_ROWS:
            return f"{name} has {MAX_ROWS} rows or more"
    return "tensors are treated as on another device" if is_as_on_device() else None


def why_not_in_autocast(device: str = "cpu") -> str | None:
    """Autocast wants matrix products in lower precision, which kernels do not have."""
    known = device != "meta"  # of which autocast does not know
    return "autocast is on" if known and torch.is_autocast_enabled(device) else None
