"""What operations on images share: their library of kernels, and what it can read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mgic_geo.ops.compiled import why_not_readable
from mgic_geo.ops.csrc import build
from mgic_geo.ops.csrc.call import read_constant
from mgic_geo.ops.operator import computes_as, has_own_forward

FOLDER = Path(__file__).parent / "csrc"
IMAGES = build.Kernels.of_folder("mgic_vision", FOLDER, Path(build.__file__).parent)
MAX_KERNEL = read_constant("tiles.h", "MAX_KERNEL", FOLDER)
MAX_MARGIN = read_constant("tiles.h", "MAX_MARGIN", FOLDER)


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether there are compiled kernels; a constant to ``torch.compile``."""
    return build.library(IMAGES) is not None


def loaded() -> build.Library:
    """The compiled kernels, where it is known that they are there."""
    found = build.library(IMAGES)
    assert found is not None
    return found


def why_not_compiled(**tensors: Tensor | None) -> str | None:
    """Why kernels cannot read these tensors, in words; ``None`` where they can."""
    return why_not_readable(**tensors) or (None if available() else "no kernels are compiled")


def keeps_size(conv: nn.Conv2d) -> bool:
    """Whether a convolution keeps the resolution, and the kernels know its kernel."""
    return conv.stride == (1, 1) and has_known_kernel(conv)


def is_pointwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution with one tap at every pixel."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and keeps_size(layer)


def is_plain(linear: nn.Module) -> bool:
    """Whether a map uses its weight as it is; others standardize it, as timm's ``StdConv2d``."""
    ours = type(linear).forward.__module__.startswith("mgic_vision.")
    return computes_as(linear, nn.Conv2d, nn.Linear) or (ours and not has_own_forward(linear))


def can_change(linear: nn.Module) -> bool:
    """Whether another weight can be put in place of a map's own.

    A weight that is pruned or normalized is computed from other parameters.
    """
    return is_plain(linear) and "weight" in linear._parameters


def has_known_kernel(conv: nn.Conv2d) -> bool:
    """Whether a kernel is square, odd and none too large, with as many zeros around the image."""
    kernel, dilation = conv.kernel_size[0], conv.dilation[0]
    margin = kernel // 2 * dilation
    return (
        is_plain(conv)
        and conv.kernel_size == (kernel, kernel)
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
