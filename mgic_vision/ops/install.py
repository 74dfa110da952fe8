"""Kernels put in place of what they know in a network, and taken out again."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from mgic_geo.levels import MGICBlock
from mgic_vision.ops.cycle import NativeCycle
from mgic_vision.ops.grouped_conv import NativeConv
from mgic_vision.ops.packed import PackedModule

Module = TypeVar("Module", bound=nn.Module)


def use_kernels_(module: Module) -> Module:
    """Run cycles and convolutions with narrow groups in compiled kernels, in place.

    Names of modules, parameters and buffers stay as they are.

    Args:
        module: A network whose norms are folded; kernels are there.
    """
    taken = None
    if isinstance(module, MGICBlock):
        taken = NativeCycle.take(module)
    elif isinstance(module, nn.Sequential):
        taken = NativeConv.take(module)
    if taken is not None:
        taken.prepare()
    elif not isinstance(module, PackedModule):
        for child in module.children():
            use_kernels_(child)
    return module


def drop_kernels_(module: Module) -> Module:
    """Make all of it plain PyTorch again, in place."""
    for part in module.modules():
        if isinstance(part, PackedModule):
            part.give_back()
    return module
