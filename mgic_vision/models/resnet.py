"""MGIC-ResNet-56 and MGIC-ResNet-50, sections 4.3.1 and 4.3.2."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Unpack

from torch import nn

from mgic_vision.blocks import basic_block, bottleneck
from mgic_vision.layers import conv_norm_act
from mgic_vision.models.backbone import Backbone
from mgic_vision.models.interface import ModelOptions, make_model
from mgic_vision.models.stages import Dilation, Stages
from mgic_vision.norm import BatchNorm2d, Chain
from mgic_vision.units import CycleOptions, find_change, mgic_unit


@dataclass(frozen=True)
class Row:
    """One row of the table of a residual network: ``repeat`` blocks, the first with ``stride``."""

    out: int
    planes: int
    repeat: int
    stride: int


# section 4.3.1: ResNet-56, 32x32 images; basic blocks, planes = out
RESNET_56 = (
    Row(out=16, planes=16, repeat=9, stride=1),
    Row(out=32, planes=32, repeat=9, stride=2),
    Row(out=64, planes=64, repeat=9, stride=2),
)

# Table 4: MGIC-ResNet-50, 224x224 images; bottlenecks
TABLE_4 = (
    Row(out=256, planes=64, repeat=3, stride=1),
    Row(out=512, planes=128, repeat=4, stride=2),
    Row(out=1024, planes=256, repeat=6, stride=2),
    Row(out=2048, planes=512, repeat=3, stride=2),
)


class ResNetOptions(CycleOptions, ModelOptions, total=False):
    """:class:`~mgic_vision.units.CycleOptions` and :class:`ModelOptions`.

    Args:
        output_stride: Strides beyond it turn into dilation of the rows that follow; 32.
    """

    output_stride: int


def small_rows(depth: int, width: int) -> list[Row]:
    """The rows of ResNet-56 for another depth and first width.

    Raises:
        ValueError: If ``depth`` is not 6 n + 2.

    Example:
        >>> small_rows(20, 8)[-1]
        Row(out=32, planes=32, repeat=3, stride=2)
    """
    repeat, rest = divmod(depth - 2, 6)
    if rest or repeat < 1:
        raise ValueError(f"depth must be 6 n + 2 with n at least 1, got {depth}")
    widths = [row.out * width // RESNET_56[0].out for row in RESNET_56]
    return [Row(out, out, repeat, row.stride) for out, row in zip(widths, RESNET_56, strict=True)]


def mgic_resnet56(
    num_classes: int = 10,
    *,
    depth: int = 56,
    width: int = 16,
    in_chans: int = 3,
    **options: Unpack[ResNetOptions],
) -> Backbone:
    """MGIC-ResNet-56: a cycle of pre-activation basic blocks in place of every residual block.

    Args:
        num_classes: Classes to tell apart.
        depth: 6 n + 2, with n cycles a stage.
        width: Channels of the first stage; the next ones have twice and four times as many.
        in_chans: Channels of the images.
        **options: As :class:`ResNetOptions`; ``group_size`` is 8, ``coarse_size`` 16 by default.

    Cost:
        301,818 weights and 66.5 M multiply-adds at 32x32 with ten classes, of which R and P have
        2.2 M.

    Raises:
        ValueError: If ``depth`` is not 6 n + 2, or as :func:`mgic_geo.level_plan`.

    References:
        Section 4.3.1, Tables 3 and 12. The paper's table ends without the norm and activation that
        a pre-activation network needs in front of its pooling; they have 128 of the weights.

    Example:
        >>> sum(p.numel() for p in mgic_resnet56().parameters())
        301818
    """
    options.setdefault("group_size", 8)
    options.setdefault("coarse_size", 16)
    rows, stem = small_rows(depth, width), conv_norm_act(in_chans, width, kernel_size=3)
    size = (in_chans, 32, 32)
    return _mgic_resnet(stem, Stages(width, 1), rows, basic_block, num_classes, size, **options)


def mgic_resnet50(
    num_classes: int = 1000,
    *,
    layers: Sequence[int] = (3, 4, 6, 3),
    in_chans: int = 3,
    **options: Unpack[ResNetOptions],
) -> Backbone:
    """MGIC-ResNet-50: a cycle of bottlenecks in place of every residual block of ResNet-50.

    Args:
        num_classes: Classes to tell apart.
        layers: Cycles in each of the four stages.
        in_chans: Channels of the images.
        **options: As :class:`ResNetOptions`; ``group_size`` and ``coarse_size`` are 64 by default.

    Cost:
        15.25 M weights and 4.08 G multiply-adds at 224x224, of which R and P have 1.62 G; with
        ``group_size=16`` 6.23 M and 1.56 G, of which R and P have 0.41 G.

    Raises:
        ValueError: If ``layers`` are not four numbers above 0, or as :func:`mgic_geo.level_plan`.

    References:
        Section 4.3.2, Tables 4 and 5. As in ResNet-50, the 7x7 convolution has stride 2 and a
        maximum pool follows it; the 3x3 convolution then runs at 56x56. A norm and activation in
        front of the pooling have 4,096 of the weights. By Table 4, "a maxpool operation occurs
        after every convolution and MGIC layer", so that cycles run at twice the height and width:
        ``downsample="maxpool"``. That is four times as much work: 9.79 G multiply-adds without R
        and P where Table 5 has 2.5 G, and 2.45 G with strides, as section 3.3 describes them.

    Example:
        >>> sum(p.numel() for p in mgic_resnet50(group_size=16).parameters())
        6231848
    """
    if len(layers) != len(TABLE_4) or min(layers) < 1:
        raise ValueError(f"layers must be {len(TABLE_4)} numbers above 0, got {layers}")
    rows = [replace(row, repeat=repeat) for row, repeat in zip(TABLE_4, layers, strict=True)]
    # by Table 4's sizes there is one pool, after a convolution of stride 1
    pooled = options.get("downsample") == "maxpool"
    stem = nn.Sequential(
        OrderedDict(
            conv1=conv_norm_act(in_chans, 64, kernel_size=7, stride=1 if pooled else 2),
            pool=nn.MaxPool2d(3, stride=2, padding=1),
            conv2=conv_norm_act(64, 64, kernel_size=3),
        )
    )
    stages, size = Stages(64, 2 if pooled else 4), (in_chans, 224, 224)
    return _mgic_resnet(stem, stages, rows, bottleneck, num_classes, size, pool_at_end=2, **options)


def _mgic_resnet(
    stem: nn.Module,
    stages: Stages,
    rows: Sequence[Row],
    make_layer: Callable[..., nn.Module],
    num_classes: int,
    input_size: tuple[int, ...],
    *,
    group_size: int = 64,
    coarse_size: int = 64,
    min_levels: int = 1,
    cycle: str = "multiplicative",
    change: str = "depthwise",
    downsample: str = "stride",
    output_stride: int = 32,
    pool_at_end: int = 1,
    **options: Unpack[ModelOptions],
) -> Backbone:
    dilation = Dilation(output_stride, stages.stride)
    strides = [stride for row in rows for stride in (row.stride, *[1] * (row.repeat - 1))]
    if downsample == "maxpool":  # of the last cycle in front of where a stride would be
        strides = [*strides[1:], pool_at_end]
    for row in rows:
        for _ in range(row.repeat):
            before = dilation.taps
            stride = dilation.reduce(stages.stride, strides.pop(0))
            taps = before if downsample == "maxpool" else dilation.taps
            unit = mgic_unit(
                stages.channels,
                row.out,
                partial(make_layer, dilation=taps),
                inner=row.planes,
                stride=stride,
                make_change=find_change(change),
                group_size=group_size,
                coarse_size=coarse_size,
                min_levels=min_levels,
                cycle=cycle,
                downsample=downsample,
            )
            stages.add(unit, row.out, stride=stride, dilation=dilation.taps)
    final = Chain(OrderedDict(norm=BatchNorm2d(stages.channels), act=nn.ReLU()))
    return make_model(Backbone(stem, stages, final, input_size=input_size), num_classes, **options)
