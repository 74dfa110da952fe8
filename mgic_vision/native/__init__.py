"""Compiled kernels behind the deployed form of networks, for processors and float32.

Everything here has a plain PyTorch twin that it is tested against, which runs where the kernels
cannot be compiled, on other devices and in other precisions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mgic_geo.native import build
from mgic_geo.operators import is_transformed

IMAGES = build.Kernels.of_folder("mgic_vision", Path(__file__).parent, Path(build.__file__).parent)


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether there are compiled kernels; a constant to ``torch.compile``."""
    return build.library(IMAGES) is not None


def loaded() -> build.Library:
    """The compiled kernels, where it is known that they are there."""
    found = build.library(IMAGES)
    assert found is not None
    return found


def computable(*tensors: Tensor) -> bool:
    """Whether the kernels can work on these, beside recording what gradients need."""
    return (
        all(x.is_cpu and x.dtype == torch.float32 for x in tensors)
        and not torch.compiler.is_exporting()
        and not torch.is_autocast_enabled("cpu")
        and torch._C._get_tracing_state() is None  # torch.jit.trace sees torch's operations only
        and available()
    )


def usable(x: Tensor) -> bool:
    """Whether the kernels of deployed networks, which have no gradients, can work on this.

    Not under ``torch.compile``, to which it is unknown whether weights change between two calls.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, nn.Parameter)
        and not (torch.is_grad_enabled() and x.requires_grad)
        and not is_transformed()
        and computable(x)
    )
