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
    (_here / "cycle.c", _here / "grouped_conv.c"),
    (
        *(_here / name for name in ("level.h", "team.h", "tiles.h")),
        *(Path(build.__file__).parent / name for name in ("activations.h", "kernels.h")),
    ),
    {"mgic_cycle": "ppnnnpnp", "mgic_grouped_conv": "ppnnnnnpppp"},
    ("mgic_cycle", "mgic_grouped_conv"),
)


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether there are compiled kernels; a constant to ``torch.compile``."""
    return build.library(IMAGES) is not None


def usable(x: Tensor) -> bool:
    """Whether the kernels can work on this."""
    return (
        x.is_cpu
        and x.dtype == torch.float32
        and not torch.compiler.is_exporting()
        and not torch.is_autocast_enabled("cpu")
        and not (torch.is_grad_enabled() and x.requires_grad)
        and available()
    )
