"""Cycles and convolutions that the kernels of images know, for tests."""

import copy
from functools import partial

import pytest
import torch
from image_networks import shift_norms
from torch import Tensor, nn

from mgic_geo import MGICBlock
from mgic_geo.ops.csrc import build
from mgic_vision import basic_block, bottleneck, depthwise_change, inverted_residual, mgic_unit
from mgic_vision.folding import fold_norms_
from mgic_vision.layers import HARDSWISH
from mgic_vision.ops.cycle import NativeCycle
from mgic_vision.ops.grouped_conv import NativeConv
from mgic_vision.ops.kernel import IMAGES

COMPILED = build.library(IMAGES)
needs_compiler = pytest.mark.skipif(COMPILED is None, reason="no C compiler")
# outputs of a group that fill half a vector: few enough for the kernel, enough not to be zeros
HALF = 4 if COMPILED is None else COMPILED.lanes // 2

# outer and inner width, s_g, s_c, levels at least, layer: groups narrower and wider than a vector
# and no multiple of it, a width that does not halve, no level at all, no expansion, dilation,
# squeeze-excite nowhere, on the finest level, on every one
LAYERS = {
    "bottleneck": (64, 32, 8, 8, 1, bottleneck),
    "bottleneck-wide-groups": (80, 40, 40, 20, 1, bottleneck),
    "bottleneck-odd": (24, 10, 5, 5, 1, bottleneck),
    "bottleneck-dense": (24, 16, 16, 16, 0, bottleneck),
    "basic": (64, 64, 8, 8, 1, basic_block),
    "basic-odd": (30, 30, 10, 5, 1, partial(basic_block, dilation=2, activation=HARDSWISH)),
    "basic-dense": (24, 24, 24, 24, 0, basic_block),
    "inverted": (40, 120, 20, 10, 1, partial(inverted_residual, activation=HARDSWISH)),
    "inverted-no-expansion": (16, 16, 4, 4, 1, inverted_residual),
    "inverted-5x5": (12, 36, 6, 6, 1, partial(inverted_residual, kernel_size=5, dilation=2)),
    "squeeze-finest": (
        *(40, 72, 10, 10, 1),
        partial(inverted_residual, kernel_size=5, squeeze="finest", activation=HARDSWISH),
    ),
    "squeeze-every": (24, 72, 12, 6, 1, partial(inverted_residual, squeeze="every")),
}


def make_cycle(outer, inner, group_size, coarse_size, min_levels, layer) -> MGICBlock:
    torch.manual_seed(0)
    unit = mgic_unit(
        *(outer, outer, layer),
        inner=inner,
        group_size=group_size,
        coarse_size=coarse_size,
        min_levels=min_levels,
    )
    return shift_norms(unit).eval().requires_grad_(False).cycle


def make_native(kind: str) -> NativeCycle:
    """A cycle that the kernel knows, its norms folded."""
    native = NativeCycle.take(fold_norms_(make_cycle(*LAYERS[kind])))
    assert native is not None
    return native


def make_change(*widths: int, **options) -> tuple[nn.Module, NativeConv]:
    """A change of width, and the same in the kernel."""
    torch.manual_seed(0)
    change = shift_norms(depthwise_change(*widths, **options)).eval().requires_grad_(False)
    native = NativeConv.take(fold_norms_(copy.deepcopy(change)))
    assert native is not None
    return change, native


def images(*shape: int, seed: int = 0, order=torch.channels_last) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=order)


def gradients(conv: nn.Conv2d, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    y = conv(x)
    return y, *torch.autograd.grad(y, (x, conv.weight), grad)
