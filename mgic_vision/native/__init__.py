"""Compiled kernels behind the deployed form of networks, for processors and float32.

Everything here has a plain PyTorch twin that it is tested against, which runs where the kernels
cannot be compiled, on other devices and in other precisions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mgic_geo.native import build

_here = Path(__file__).parent

IMAGES = build.Kernels(
    "mgic_vision",
    tuple(_here / name for name in ("cycle.c", "depthwise.c", "grouped_conv.c")),
    (
        *(_here / name for name in ("level.h", "team.h", "tiles.h")),
        *(Path(build.__file__).parent / name for name in ("activations.h", "kernels.h")),
    ),
    {
        "mgic_cycle": "ppnnnpnp",
        "mgic_depthwise": "ppnnnnnnp",
        "mgic_depthwise_backward": "pppnnnnnnpp",
        "mgic_grouped_conv": "ppnnnnnpppp",
    },
    ("mgic_cycle", "mgic_depthwise", "mgic_depthwise_backward", "mgic_grouped_conv"),
)


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether there are compiled kernels; a constant to ``torch.compile``."""
    return build.library(IMAGES) is not None


def computable(*tensors: Tensor) -> bool:
    """Whether the kernels can work on these, beside recording what gradients need."""
    return (
        all(x.is_cpu and x.dtype == torch.float32 for x in tensors)
        and not torch.compiler.is_exporting()
        and not torch.is_autocast_enabled("cpu")
        and available()
    )


def usable(x: Tensor) -> bool:
    """Whether the kernels of deployed networks, which have no gradients, can work on this."""
    return computable(x) and not (torch.is_grad_enabled() and x.requires_grad)
