"""The unit all MGIC networks are made of: a change of width or resolution, then a cycle."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypedDict

from torch import nn

from mgic_geo.levels import Level, MGICBlock
from mgic_vision.layers import RELU, Activation, DepthwiseConv2d, conv_norm_act
from mgic_vision.norm import BatchNorm2d, Chain
from mgic_vision.transfers import TransferConv2d, make_correction


class CycleOptions(TypedDict, total=False):
    """What the cycles of a network are built with.

    Args:
        group_size: Channels per group, :math:`s_g`.
        coarse_size: Width of the coarsest level, :math:`s_c`.
        min_levels: Coarser levels to build even where the width is already small; 1.
        cycle: ``"multiplicative"``, the paper's and the default, or ``"additive"``.
        change: What precedes a cycle where width or resolution change: ``"depthwise"`` or
            ``"pointwise"``.
        downsample: ``"stride"``, the default: what precedes a cycle divides the resolution; or
            ``"maxpool"``: a maximum pool after it does.
    """

    group_size: int
    coarse_size: int
    min_levels: int
    cycle: str
    change: str
    downsample: str


DOWNSAMPLES = ("stride", "maxpool")


def mgic_unit(
    in_channels: int,
    out_channels: int,
    make_layer: Callable[[Level], nn.Module],
    *,
    inner: int | None = None,
    stride: int = 1,
    make_change: Callable[..., nn.Module] | None = None,
    group_size: int = 64,
    coarse_size: int | None = None,
    min_levels: int = 1,
    cycle: str = "multiplicative",
    downsample: str = "stride",
) -> nn.Sequential:
    """A multigrid cycle, with a light convolution before it where width or resolution change.

    Args:
        in_channels: Channels in.
        out_channels: Channels of the cycle, and out.
        make_layer: ``(level) -> Module``, e.g. :func:`bottleneck`.
        inner: Inner width of the layers; ``None`` means ``out_channels``.
        stride: The resolution is divided by it.
        make_change: ``(in_channels, out_channels, stride=) -> Module``; ``None`` means
            :func:`depthwise_change`.
        group_size: Channels per group, :math:`s_g`.
        coarse_size: Width of the coarsest level, :math:`s_c`; ``None`` means ``group_size``.
        min_levels: Coarser levels to build even where the width is already small.
        cycle: ``"multiplicative"`` or ``"additive"``, as :class:`mgic_geo.MGICBlock`.
        downsample: What divides the resolution: ``"stride"``, that of the convolution before the
            cycle (section 3.3), or ``"maxpool"``, a maximum after it (Tables 4 and 6).

    Shape:
        - ``x``: ``(B, in_channels, H, W)``. Returns ``(B, out_channels, H / stride, W / stride)``.

    Cost:
        That of :class:`mgic_geo.MGICBlock` and of ``make_change``.

    Raises:
        ValueError: As :func:`mgic_geo.level_plan`, or ``downsample`` is neither of the two.

    References:
        Section 3.3.

    Example:
        >>> import torch
        >>> from mgic_vision import basic_block
        >>> unit = mgic_unit(16, 24, basic_block, stride=2, group_size=8, coarse_size=8)
        >>> unit(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 24, 4, 4])
    """
    if downsample not in DOWNSAMPLES:
        raise ValueError(f"downsample must be one of {', '.join(DOWNSAMPLES)}, got {downsample!r}")
    unit, pool = nn.Sequential(), 1
    if downsample == "maxpool":
        stride, pool = 1, stride
    if in_channels != out_channels or stride != 1:
        unit.change = (make_change or depthwise_change)(in_channels, out_channels, stride=stride)
    unit.cycle = MGICBlock(
        out_channels,
        make_layer,
        TransferConv2d,
        inner=inner,
        group_size=group_size,
        coarse_size=coarse_size,
        min_levels=min_levels,
        make_norm=BatchNorm2d,
        make_correction=make_correction,
        cycle=cycle,
    )
    if pool > 1:
        unit.pool = nn.MaxPool2d(pool, ceil_mode=True)  # rounds sizes as a stride does
    return unit


def depthwise_change(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    kernel_size: int = 3,
    activation: Activation = RELU,
) -> nn.Sequential:
    """The paper's change of width or resolution: a depthwise convolution, norm, activation.

    References:
        Section 3.3, "Changing the channel resolution blocks".

    Example:
        >>> import torch
        >>> depthwise_change(16, 24, stride=2)(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 24, 4, 4])
    """
    conv = DepthwiseConv2d(in_channels, out_channels, kernel_size=kernel_size, stride=stride)
    return Chain(OrderedDict(conv=conv, norm=BatchNorm2d(out_channels), act=activation()))


def pointwise_change(
    in_channels: int, out_channels: int, *, stride: int = 1, activation: Activation = RELU
) -> nn.Sequential:
    """The paper's alternative to :func:`depthwise_change`: a dense 1x1 convolution.

    Example:
        >>> import torch
        >>> pointwise_change(16, 24, stride=2)(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 24, 4, 4])
    """
    return conv_norm_act(in_channels, out_channels, stride=stride, activation=activation)


CHANGES = {"depthwise": depthwise_change, "pointwise": pointwise_change}


def find_change(name: str) -> Callable[..., nn.Sequential]:
    """The change of width called ``name``.

    Raises:
        ValueError: If there is none of this name.
    """
    if name not in CHANGES:
        raise ValueError(f"change must be one of {', '.join(CHANGES)}, got {name!r}")
    return CHANGES[name]
