"""What callers of the compiled kernels share."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from mgic_geo.ops.csrc import build
from mgic_vision.ops.native import IMAGES, loaded


def read_limit(header: str, name: str) -> int:
    """The number that a header of the kernels defines.

    Example:
        >>> read_limit("tiles.h", "MAX_KERNEL")
        9
    """
    text = (Path(__file__).parent / "csrc" / header).read_text(encoding="utf-8")
    found = re.search(rf"^#define {name} (\d+)", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"{header} must define {name}")
    return int(found[1])


MAX_KERNEL = read_limit("tiles.h", "MAX_KERNEL")
MAX_MARGIN = read_limit("tiles.h", "MAX_MARGIN")


def keeps_size(conv: nn.Conv2d) -> bool:
    """Whether a convolution keeps the resolution, and the kernels know its kernel."""
    return conv.stride == (1, 1) and has_known_kernel(conv)


def has_known_kernel(conv: nn.Conv2d) -> bool:
    """Whether a kernel is square, odd and none too large, with as many zeros around the image."""
    kernel, dilation = conv.kernel_size[0], conv.dilation[0]
    margin = kernel // 2 * dilation
    return (
        conv.kernel_size == (kernel, kernel)
        and conv.dilation == (dilation, dilation)
        and kernel % 2 == 1
        and kernel <= MAX_KERNEL
        and margin <= MAX_MARGIN
        and conv.padding == (margin, margin)
        and conv.padding_mode == "zeros"
    )


def in_order(x: Tensor) -> Tensor:
    """Images as the kernels read and write them, channels innermost."""
    return x.contiguous(memory_format=torch.channels_last).resolve_neg()


def run_kernel(name: str, *arguments: object) -> None:
    """Call a compiled function of images: see :class:`~mgic_geo.ops.csrc.call.Entry`."""
    loaded().entries[name](*arguments)


def cycle_bytes() -> int:
    """Memory that kernels called from this thread keep for what they compute on the way.

    It is as large as the largest of them needed, is kept from call to call, and is not torch's.
    """
    if build.library(IMAGES) is None:
        return 0
    size = torch.empty(1, dtype=torch.int64, device="cpu")
    run_kernel("mgic_scratch_bytes", size)
    return int(size)
