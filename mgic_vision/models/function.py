"""The network of Table 2, which approximates functions of a vector, around three blocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Unpack

from torch import Tensor, nn

from mgic_geo.levels import Residual
from mgic_vision.blocks import ghost_branch, inverted_branch, inverted_residual
from mgic_vision.layers import HARDSWISH, Permute, conv_norm_act
from mgic_vision.models.backbone import Backbone
from mgic_vision.models.interface import ModelOptions, make_model
from mgic_vision.models.stages import Stages
from mgic_vision.units import depthwise_change, mgic_unit

# Table 2: 1x1 convolutions to 16 and, after the blocks, 64 channels; two blocks of every width
STEM, FIRST, BLOCKS_PER_WIDTH, EXPANSION, HIDDEN = 16, 32, 2, 4, 64


class FunctionOptions(ModelOptions, total=False):
    """Options of every network of Table 2, and :class:`ModelOptions`.

    A batch of vectors is a row of as many pixels, ``(1, C, 1, B)``: every kernel has one tap.

    Args:
        c_max: Largest width, a power of 2 from 32 on; 128.
        in_chans: Variables of the function; 5.
    """

    c_max: int
    in_chans: int


class GhostChange(nn.Module):
    """GhostNet's bottleneck where the width changes: a depthwise and a 1x1 map on the shortcut.

    Args:
        branch: What is added to the shortcut.
        in_channels: Channels in.
        out_channels: Channels out.

    Shape:
        - ``x``: ``(B, in_channels, H, W)``. Returns ``(B, out_channels, H, W)``.

    References:
        Han et al., GhostNet (2020), section 3.2.
    """

    def __init__(self, branch: nn.Module, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.branch = branch
        depthwise = depthwise_change(
            in_channels, in_channels, kernel_size=1, activation=nn.Identity
        )
        pointwise = conv_norm_act(in_channels, out_channels, activation=nn.Identity)
        self.shortcut = nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))

    def forward(self, x: Tensor) -> Tensor:
        """Add branch and shortcut."""
        return self.shortcut(x) + self.branch(x)


def function_mgic(
    num_classes: int = 1,
    *,
    group_size: int = 16,
    coarse_size: int = 16,
    min_levels: int = 1,
    cycle: str = "multiplicative",
    **options: Unpack[FunctionOptions],
) -> Backbone:
    """Table 2 with a cycle of inverted residuals as CNN block.

    Args:
        num_classes: Values of the function.
        group_size: Channels per group, :math:`s_g`.
        coarse_size: Width of the coarsest level, :math:`s_c`.
        min_levels: Coarser levels to build even where the width is already small.
        cycle: ``"multiplicative"`` or ``"additive"``, as :class:`mgic_geo.MGICBlock`.
        **options: As :class:`FunctionOptions`.

    Shape:
        - ``x``: ``(B, in_chans)``. Returns ``(B, num_classes)``.

    Cost:
        141,841 weights with ``c_max=128``.

    Raises:
        ValueError: If ``c_max`` is not a power of 2 from 32 on, or as :func:`mgic_geo.level_plan`.

    References:
        Section 4.2, Table 2, Figure 4 (there without numbers).

    Example:
        >>> import torch
        >>> function_mgic(c_max=64)(torch.rand(8, 5)).shape
        torch.Size([8, 1])
    """

    def block(in_channels: int, out_channels: int) -> nn.Module:
        return mgic_unit(
            in_channels,
            out_channels,
            partial(inverted_residual, kernel_size=1, activation=HARDSWISH),
            inner=EXPANSION * out_channels,
            make_change=partial(depthwise_change, kernel_size=1, activation=HARDSWISH),
            group_size=group_size,
            coarse_size=coarse_size,
            min_levels=min_levels,
            cycle=cycle,
        )

    return _table_2(block, num_classes, **options)


def function_mobilenetv3(num_classes: int = 1, **options: Unpack[FunctionOptions]) -> Backbone:
    """Table 2 with MobileNetV3's inverted residual as CNN block: 252,657 weights.

    Arguments, shapes and errors are those of :func:`function_mgic`.

    References:
        Section 4.2, Table 2, Figure 4.

    Example:
        >>> sum(p.numel() for p in function_mobilenetv3().parameters())
        252657
    """

    def block(in_channels: int, out_channels: int) -> nn.Module:
        branch = inverted_branch(
            in_channels,
            EXPANSION * in_channels,
            out_channels,
            kernel_size=1,
            activation=HARDSWISH,
        )
        return Residual(branch) if in_channels == out_channels else branch

    return _table_2(block, num_classes, **options)


def function_ghost(num_classes: int = 1, **options: Unpack[FunctionOptions]) -> Backbone:
    """Table 2 with GhostNet's bottleneck as CNN block: 142,785 weights.

    Arguments, shapes and errors are those of :func:`function_mgic`.

    References:
        Section 4.2, Table 2, Figure 4.

    Example:
        >>> sum(p.numel() for p in function_ghost().parameters())
        142785
    """

    def block(in_channels: int, out_channels: int) -> nn.Module:
        branch = ghost_branch(in_channels, EXPANSION * in_channels, out_channels, cheap_kernel=1)
        if in_channels == out_channels:
            return Residual(branch)
        return GhostChange(branch, in_channels, out_channels)

    return _table_2(block, num_classes, **options)


def _table_2(
    block: Callable[[int, int], nn.Module],
    num_classes: int,
    *,
    c_max: int = 128,
    in_chans: int = 5,
    **options: Unpack[ModelOptions],
) -> Backbone:
    if c_max < FIRST or c_max & (c_max - 1):
        raise ValueError(f"c_max must be a power of 2 from {FIRST} on, got {c_max}")
    stages, width = Stages(STEM, 1), FIRST
    while width <= c_max:
        for _ in range(BLOCKS_PER_WIDTH):
            stages.add(block(stages.channels, width), width)
        width *= 2
    stem = nn.Sequential(
        OrderedDict(
            image=nn.Unflatten(1, (in_chans, 1, 1)),
            pixels=Permute(2, 1, 3, 0),  # (B, C, 1, 1) -> (1, C, 1, B)
            layer=conv_norm_act(in_chans, STEM),
        )
    )
    hidden = nn.Sequential(
        OrderedDict(
            linear=nn.Linear(c_max, HIDDEN, bias=False), norm=nn.BatchNorm1d(HIDDEN), act=nn.ReLU()
        )
    )
    vectors = Permute(3, 1, 0, 2)  # (1, C, 1, B) -> (B, C, 1, 1)
    backbone = Backbone(stem, stages, vectors, input_size=(in_chans,))
    return make_model(backbone, num_classes, hidden=hidden, hidden_channels=HIDDEN, **options)
