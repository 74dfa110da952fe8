"""Kernels put in place of what they know in a network."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from mgic_geo.levels import MGICBlock
from mgic_vision.native.cycle import NativeCycle
from mgic_vision.native.grouped_conv import NativeConv, plan_conv
from mgic_vision.native.plan import plan_cycle


def use_kernels_(module: nn.Module) -> nn.Module:
    """Run cycles and convolutions with narrow groups in compiled kernels, in place.

    Args:
        module: A network whose norms are folded; kernels are there.
    """
    for name, child in list(module.named_children()):
        if isinstance(child, MGICBlock) and plan_cycle(child) is not None:
            module.set_submodule(name, NativeCycle(child))
        else:
            use_kernels_(child)
    if type(module) is nn.Sequential:
        _use_native_convs(module)
    return module


def _use_native_convs(sequence: nn.Sequential) -> None:
    """Convolutions with their activations; what is left of a folded norm is an empty sequence."""
    children = [
        (name, child)
        for name, child in sequence.named_children()
        if not (type(child) is nn.Sequential and not len(child))
    ]
    for (name, conv), (after, act) in pairwise(children):
        if isinstance(conv, nn.Conv2d) and plan_conv(conv, act) is not None:
            sequence.set_submodule(name, NativeConv(conv, act))
            sequence.set_submodule(after, nn.Identity())
