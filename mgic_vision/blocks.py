"""The CNN blocks, each built from a level, so that a cycle can have them on every level."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from torch import nn

from mgic_geo.levels import Level, Residual, level_plan
from mgic_vision.layers import (
    RELU,
    Activation,
    DepthwiseConv2d,
    GhostModule,
    GroupedConv2d,
    SqueezeExcite,
    conv_norm_act,
)
from mgic_vision.norm import BatchNorm2d, Chain

SQUEEZES = ("none", "finest", "every")


def basic_block(level: Level, *, dilation: int = 1, activation: Activation = nn.ReLU) -> Residual:
    """Norm, activation, grouped 3x3 convolution, twice, plus the input.

    The norms come first (pre-activation), so that nothing stands on the way around the branch and
    zero weights give the identity.

    Args:
        level: Width and groups; the inner width is the outer one.
        dilation: Distance of the kernels' taps.
        activation: Follows the norms. Not in place: whoever takes the norms out would change ``x``.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns the same shape.

    Cost:
        ``18 * C ** 2 / groups`` weights and ``4 * C`` for the norms.

    References:
        Section 2 and He et al., Identity mappings in deep residual networks (2016).

    Example:
        >>> sum(p.numel() for p in basic_block(dense_level(16)).parameters())
        4672
    """
    width = level.outer
    conv = partial(
        GroupedConv2d, width, width, kernel_size=3, dilation=dilation, groups=level.groups
    )
    return Residual(_pre_activation(activation, conv(), conv()))


def bottleneck(level: Level, *, dilation: int = 1, activation: Activation = nn.ReLU) -> Residual:
    """Norm, activation and a grouped convolution, three times (1x1, 3x3, 1x1), plus the input.

    Args:
        level: Outer and inner width, and groups.
        dilation: Distance of the 3x3 kernel's taps.
        activation: Follows the norms. Not in place: whoever takes the norms out would change ``x``.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns the same shape.

    Cost:
        With :math:`m` inner channels ``(2 * C * m + 9 * m ** 2) / groups`` weights and ``2 * C +
        4 * m`` for the norms.

    References:
        Equation 2.2, Table 4.

    Example:
        >>> sum(p.numel() for p in bottleneck(dense_level(256, 64)).parameters())
        70400
    """
    convs = (
        GroupedConv2d(level.outer, level.inner, groups=level.groups),
        GroupedConv2d(
            level.inner, level.inner, kernel_size=3, dilation=dilation, groups=level.groups
        ),
        GroupedConv2d(level.inner, level.outer, groups=level.groups),
    )
    return Residual(_pre_activation(activation, *convs))


def inverted_residual(
    level: Level,
    *,
    kernel_size: int = 3,
    dilation: int = 1,
    squeeze: str = "none",
    activation: Activation = RELU,
) -> Residual:
    """MobileNetV3's block: expand, filter every channel, squeeze-excite, project, plus the input.

    Args:
        level: Outer width, expansion size (inner width) and groups of expansion and projection; no
            expansion where the two widths agree.
        kernel_size: Side of the depthwise kernel.
        dilation: Distance of its taps.
        squeeze: Squeeze-excite on ``"none"`` of the levels, the ``"finest"`` or ``"every"`` one.
        activation: Follows the first two norms.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns the same shape.

    Cost:
        With :math:`m` inner channels ``2 * C * m / groups + kernel_size ** 2 * m`` weights,
        ``2 * C + 4 * m`` for the norms, and those of :class:`SqueezeExcite`.

    Raises:
        ValueError: If ``squeeze`` is none of the three.

    References:
        Table 6 and Howard et al., Searching for MobileNetV3 (2019), Figure 4.

    Example:
        >>> list(dict(inverted_residual(dense_level(24, 72)).branch.named_children()))
        ['expand', 'depthwise', 'project']
    """
    return Residual(
        inverted_branch(
            level.outer,
            level.inner,
            level.outer,
            groups=level.groups,
            kernel_size=kernel_size,
            dilation=dilation,
            squeeze=has_squeeze(level, squeeze),
            activation=activation,
        )
    )


def inverted_branch(
    in_channels: int,
    expand: int,
    out_channels: int,
    *,
    groups: int = 1,
    kernel_size: int = 3,
    dilation: int = 1,
    squeeze: bool = False,
    activation: Activation = RELU,
) -> nn.Sequential:
    """The branch of :func:`inverted_residual`, between any two widths."""
    branch = nn.Sequential()
    if expand != in_channels:
        branch.expand = conv_norm_act(in_channels, expand, groups=groups, activation=activation)
    depthwise = DepthwiseConv2d(expand, expand, kernel_size=kernel_size, dilation=dilation)
    branch.depthwise = Chain(
        OrderedDict(conv=depthwise, norm=BatchNorm2d(expand), act=activation())
    )
    if squeeze:
        branch.squeeze = SqueezeExcite(expand)
    branch.project = _conv_norm(expand, out_channels, groups=groups)
    return branch


def ghost_bottleneck(
    level: Level,
    *,
    cheap_kernel: int = 3,
    squeeze: str = "none",
    activation: Activation = RELU,
) -> Residual:
    """Two ghost modules, out to the inner width and back, plus the input.

    Args:
        level: Outer and inner width, and groups.
        cheap_kernel: Side of the ghost modules' depthwise kernels.
        squeeze: As :func:`inverted_residual`.
        activation: Follows the first module's norms.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns the same shape.

    Cost:
        About half of an expansion and a projection: see :class:`GhostModule`.

    Raises:
        ValueError: If ``squeeze`` is none of the three.

    References:
        Han et al., GhostNet (2020), section 3.2.

    Example:
        >>> sum(p.numel() for p in ghost_bottleneck(dense_level(32, 128)).parameters())
        5136
    """
    return Residual(
        ghost_branch(
            level.outer,
            level.inner,
            level.outer,
            groups=level.groups,
            cheap_kernel=cheap_kernel,
            squeeze=has_squeeze(level, squeeze),
            activation=activation,
        )
    )


def ghost_branch(
    in_channels: int,
    expand: int,
    out_channels: int,
    *,
    groups: int = 1,
    cheap_kernel: int = 3,
    squeeze: bool = False,
    activation: Activation = RELU,
) -> nn.Sequential:
    """The branch of :func:`ghost_bottleneck`, between any two widths."""
    module = partial(GhostModule, groups=groups, cheap_kernel=cheap_kernel)
    branch = nn.Sequential(OrderedDict(expand=module(in_channels, expand, activation=activation)))
    if squeeze:
        branch.squeeze = SqueezeExcite(expand)
    branch.project = module(expand, out_channels, activation=nn.Identity)
    return branch


def dense_level(channels: int, inner: int | None = None) -> Level:
    """The only level of a block without a hierarchy.

    Example:
        >>> dense_level(24, 72).groups
        1
    """
    (level,) = level_plan(channels, inner, group_size=channels, coarse_size=channels, min_levels=0)
    return level


def has_squeeze(level: Level, squeeze: str) -> bool:
    """Whether ``squeeze`` asks for squeeze-excite on ``level``.

    Raises:
        ValueError: If ``squeeze`` is not ``"none"``, ``"finest"`` or ``"every"``.
    """
    if squeeze not in SQUEEZES:
        raise ValueError(f"squeeze must be one of {', '.join(SQUEEZES)}, got {squeeze!r}")
    return squeeze == "every" or (squeeze == "finest" and level.finest)


def _pre_activation(activation: Activation, *convs: nn.Conv2d) -> nn.Sequential:
    branch = Chain()
    for number, conv in enumerate(convs, 1):
        branch.add_module(f"norm{number}", BatchNorm2d(conv.in_channels))
        branch.add_module(f"act{number}", activation())
        branch.add_module(f"conv{number}", conv)
    return branch


def _conv_norm(in_channels: int, out_channels: int, *, groups: int) -> nn.Sequential:
    conv = GroupedConv2d(in_channels, out_channels, groups=groups)
    return nn.Sequential(OrderedDict(conv=conv, norm=BatchNorm2d(out_channels)))
