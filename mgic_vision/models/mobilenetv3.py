"""MGIC-MobileNetV3, section 4.3.2 and Table 6, and its small variant."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Unpack

from torch import nn

from mgic_vision.blocks import inverted_residual
from mgic_vision.layers import HARDSWISH, RELU, conv_norm_act, round_width
from mgic_vision.models.backbone import Backbone
from mgic_vision.models.features import Indices
from mgic_vision.models.interface import make_model
from mgic_vision.models.stages import Dilation, Stages
from mgic_vision.units import CycleOptions, find_change, mgic_unit


@dataclass(frozen=True)
class Row:
    """One block of MobileNetV3: ``expand`` is the paper's #exp, ``squeeze`` its SE."""

    kernel: int
    expand: int
    out: int
    squeeze: bool
    stride: int
    h_swish: bool


@dataclass(frozen=True)
class Table:
    """A MobileNetV3: its blocks, and the channels of the last convolution and the hidden layer."""

    rows: tuple[Row, ...]
    last: int
    hidden: int


# Table 6, whose widths are GhostNet's; kernels from there, h-swish as in MobileNetV3-Large
TABLE_6 = Table(
    last=960,
    hidden=1280,
    rows=(
        Row(kernel=3, expand=16, out=16, squeeze=False, stride=1, h_swish=False),
        Row(kernel=3, expand=48, out=24, squeeze=False, stride=2, h_swish=False),
        Row(kernel=3, expand=72, out=24, squeeze=False, stride=1, h_swish=False),
        Row(kernel=5, expand=72, out=40, squeeze=True, stride=2, h_swish=False),
        Row(kernel=5, expand=120, out=40, squeeze=True, stride=1, h_swish=False),
        Row(kernel=3, expand=240, out=80, squeeze=False, stride=2, h_swish=True),
        Row(kernel=3, expand=200, out=80, squeeze=False, stride=1, h_swish=True),
        Row(kernel=3, expand=184, out=80, squeeze=False, stride=1, h_swish=True),
        Row(kernel=3, expand=184, out=80, squeeze=False, stride=1, h_swish=True),
        Row(kernel=3, expand=480, out=112, squeeze=True, stride=1, h_swish=True),
        Row(kernel=3, expand=672, out=112, squeeze=True, stride=1, h_swish=True),
        Row(kernel=5, expand=672, out=160, squeeze=True, stride=2, h_swish=True),
        Row(kernel=5, expand=960, out=160, squeeze=False, stride=1, h_swish=True),
        Row(kernel=5, expand=960, out=160, squeeze=True, stride=1, h_swish=True),
        Row(kernel=5, expand=960, out=160, squeeze=False, stride=1, h_swish=True),
        Row(kernel=5, expand=960, out=160, squeeze=True, stride=1, h_swish=True),
    ),
)

# Howard et al. (2019), Table 2: MobileNetV3-Small
SMALL = Table(
    last=576,
    hidden=1024,
    rows=(
        Row(kernel=3, expand=16, out=16, squeeze=True, stride=2, h_swish=False),
        Row(kernel=3, expand=72, out=24, squeeze=False, stride=2, h_swish=False),
        Row(kernel=3, expand=88, out=24, squeeze=False, stride=1, h_swish=False),
        Row(kernel=5, expand=96, out=40, squeeze=True, stride=2, h_swish=True),
        Row(kernel=5, expand=240, out=40, squeeze=True, stride=1, h_swish=True),
        Row(kernel=5, expand=240, out=40, squeeze=True, stride=1, h_swish=True),
        Row(kernel=5, expand=120, out=48, squeeze=True, stride=1, h_swish=True),
        Row(kernel=5, expand=144, out=48, squeeze=True, stride=1, h_swish=True),
        Row(kernel=5, expand=288, out=96, squeeze=True, stride=2, h_swish=True),
        Row(kernel=5, expand=576, out=96, squeeze=True, stride=1, h_swish=True),
        Row(kernel=5, expand=576, out=96, squeeze=True, stride=1, h_swish=True),
    ),
)

# Table 1 there: MobileNetV3-Large
LARGE = Table(
    last=960,
    hidden=1280,
    rows=(
        Row(kernel=3, expand=16, out=16, squeeze=False, stride=1, h_swish=False),
        Row(kernel=3, expand=64, out=24, squeeze=False, stride=2, h_swish=False),
        Row(kernel=3, expand=72, out=24, squeeze=False, stride=1, h_swish=False),
        Row(kernel=5, expand=72, out=40, squeeze=True, stride=2, h_swish=False),
        Row(kernel=5, expand=120, out=40, squeeze=True, stride=1, h_swish=False),
        Row(kernel=5, expand=120, out=40, squeeze=True, stride=1, h_swish=False),
        Row(kernel=3, expand=240, out=80, squeeze=False, stride=2, h_swish=True),
        Row(kernel=3, expand=200, out=80, squeeze=False, stride=1, h_swish=True),
        Row(kernel=3, expand=184, out=80, squeeze=False, stride=1, h_swish=True),
        Row(kernel=3, expand=184, out=80, squeeze=False, stride=1, h_swish=True),
        Row(kernel=3, expand=480, out=112, squeeze=True, stride=1, h_swish=True),
        Row(kernel=3, expand=672, out=112, squeeze=True, stride=1, h_swish=True),
        Row(kernel=5, expand=672, out=160, squeeze=True, stride=2, h_swish=True),
        Row(kernel=5, expand=960, out=160, squeeze=True, stride=1, h_swish=True),
        Row(kernel=5, expand=960, out=160, squeeze=True, stride=1, h_swish=True),
    ),
)


class NetworkOptions(CycleOptions, total=False):
    """Options of every MGIC-MobileNetV3, for classes or for masks.

    Beside those of :class:`~mgic_vision.units.CycleOptions`, whose two sizes are 64 by default.

    Args:
        width: Scales all widths; 1.0.
        h_swish: Whether to use it where the table does, rather than ReLU throughout; True.
        squeeze: Squeeze-excite on the ``"finest"`` level of a cycle, ``"every"`` one or ``"none"``.
        output_stride: Strides beyond it turn into dilation of the rows that follow; 32.
        in_chans: Channels of the images; 3.
    """

    width: float
    h_swish: bool
    squeeze: str
    output_stride: int
    in_chans: int


def mgic_mobilenetv3(
    table: Table,
    num_classes: int = 1000,
    *,
    features_only: bool = False,
    out_indices: Indices = None,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    **network: Unpack[NetworkOptions],
) -> Backbone:
    """MGIC-MobileNetV3, a cycle of inverted residuals in every row of Table 6; also its small one.

    The widths of ``mgic_mobilenetv3_small`` are so narrow that at the default sizes a cycle costs
    more than the dense block: see :func:`summary`, and ``min_levels`` and ``group_size`` for what
    to do about it.

    Args:
        table: :data:`TABLE_6` or :data:`SMALL`.
        num_classes: Classes to tell apart.
        features_only: As :class:`ModelOptions`, and so are the next four.
        out_indices: See there.
        global_pool: See there.
        drop_rate: See there.
        drop_path_rate: See there.
        **network: As :class:`NetworkOptions`.

    Cost:
        5.50 M weights and 195 M multiply-adds at 224x224, of which R and P have 17 M; 2.58 M, 109 M
        and 10 M with ``width=0.6``; 7.61 M, 274 M and 28 M with ``width=1.2``. The small one has
        2.58 M weights and 63 M multiply-adds, of which R and P have 4 M.

    Raises:
        ValueError: If an option is out of range; see :func:`mobile_backbone`.

    References:
        Section 4.3.2, Tables 6, 7 and 13; section 4.4; Howard et al., Searching for MobileNetV3
        (2019), Table 2. By Table 6 a maximum pool follows cycles, which then run at twice the
        height and width: ``downsample="maxpool"``, 281 M multiply-adds without R and P where Table
        7 has 145 M, and 179 M with strides, as section 3.3 describes them. By its caption a norm
        and ReLU follow every ``Conv2D``, also that of 1280 channels; here, as in MobileNetV3,
        that one has a bias and hard swish.

    Example:
        >>> for table in (TABLE_6, SMALL):
        ...     print(sum(p.numel() for p in mgic_mobilenetv3(table).parameters()))
        5503344
        2576132
    """
    backbone = mobile_backbone(table, 224, 224, **network)
    hidden = round_width(table.hidden * network.get("width", 1.0))
    linear = nn.Linear(backbone.num_features, hidden)
    act = HARDSWISH if network.get("h_swish", True) else RELU
    return make_model(
        backbone,
        num_classes,
        hidden=nn.Sequential(OrderedDict(linear=linear, act=act())),
        hidden_channels=hidden,
        features_only=features_only,
        out_indices=out_indices,
        global_pool=global_pool,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
    )


def mobile_backbone(
    table: Table,
    *size: int,
    width: float = 1.0,
    h_swish: bool = True,
    squeeze: str = "finest",
    output_stride: int = 32,
    group_size: int = 64,
    coarse_size: int = 64,
    min_levels: int = 1,
    cycle: str = "multiplicative",
    change: str = "depthwise",
    downsample: str = "stride",
    in_chans: int = 3,
    make_stages: Callable[[int, int], Stages] = Stages,
) -> Backbone:
    """An MGIC-MobileNetV3 without its head, for images of ``size``, their height and width.

    ``make_stages`` says how blocks are named; the other arguments are those of
    :class:`NetworkOptions`.

    Raises:
        ValueError: If ``width`` is not positive, ``output_stride`` not a power of 2 from 2 on, or
            another option out of range.
    """
    if width <= 0:
        raise ValueError(f"width must be positive, got {width}")
    dilation = Dilation(output_stride, 2)
    swish = HARDSWISH if h_swish else RELU
    stem_width, last = round_width(16 * width), round_width(table.last * width)
    stages = make_stages(stem_width, 2)
    for row in table.rows:
        before = dilation.taps
        stride = dilation.reduce(stages.stride, row.stride)
        taps = before if downsample == "maxpool" else dilation.taps
        out, activation = round_width(row.out * width), swish if row.h_swish else RELU
        layer = partial(
            inverted_residual,
            kernel_size=row.kernel,
            dilation=taps,
            squeeze=squeeze if row.squeeze else "none",
            activation=activation,
        )
        unit = mgic_unit(
            stages.channels,
            out,
            layer,
            inner=round_width(row.expand * width),
            stride=stride,
            make_change=partial(find_change(change), activation=activation),
            group_size=group_size,
            coarse_size=coarse_size,
            min_levels=min_levels,
            cycle=cycle,
            downsample=downsample,
        )
        stages.add(unit, out, stride=stride, dilation=dilation.taps)
    stem = conv_norm_act(in_chans, stem_width, kernel_size=3, stride=2, activation=swish)
    final = conv_norm_act(stages.channels, last, activation=swish)
    return Backbone(stem, stages, final, num_features=last, input_size=(in_chans, *size))
