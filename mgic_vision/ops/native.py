"""Compiled kernels behind the deployed form of networks, for processors and float32.

Everything here has a plain PyTorch twin that it is tested against, which runs where the kernels
cannot be compiled, on other devices and in other precisions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mgic_geo.ops.csrc import build
from mgic_geo.ops.operator import is_traced, is_transformed

_FOLDER = Path(__file__).parent / "csrc"
IMAGES = build.Kernels.of_folder("mgic_vision", _FOLDER, Path(build.__file__).parent)


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
    return all(map(is_readable, tensors)) and available()


def is_readable(x: Tensor) -> bool:
    """Whether kernels, where there are any, can read a tensor and are wanted to."""
    return (
        x.is_cpu
        and x.dtype == torch.float32
        and not torch.compiler.is_exporting()
        and not torch.is_autocast_enabled("cpu")
    )


def needs_nothing_more(x: Tensor) -> bool:
    """Whether all that is wanted of images is a result: no gradient, no record of what was done.

    What was recorded could not tell whether weights have changed.
    """
    return (
        type(x) in (Tensor, nn.Parameter)
        and not (x.requires_grad and torch.is_grad_enabled())
        and not is_traced()
        and not is_transformed()
    )
