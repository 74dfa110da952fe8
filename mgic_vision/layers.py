"""Convolutions that start by the right rule, squeeze-excite and the ghost module."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import is_tracing
from torch.nn.modules.utils import _pair

from mgic_vision.norm import BatchNorm2d, Chain
from mgic_vision.ops.depthwise import depthwise
from mgic_vision.ops.kernel import keeps_size
from mgic_vision.tracing import leaf_of_fx

Activation = Callable[[], nn.Module]
Sides = int | tuple[int, int]

RELU: Activation = partial(nn.ReLU, inplace=True)
HARDSWISH: Activation = nn.Hardswish  # in place, autograd would copy the input first


class GroupedConv2d(nn.Conv2d):
    r"""A convolution without bias that keeps the resolution or divides it by its stride.

    The arguments are those of ``nn.Conv2d``, with other defaults. The weights are drawn from a
    normal distribution of variance :math:`2 / (k^2 c_{out} / g)`: an input channel reaches the
    outputs of its own group only, which torch's initializers overlook.

    Args:
        in_channels: Channels in; a multiple of ``groups``.
        out_channels: Channels out; a multiple of ``groups``.
        kernel_size: Side of the kernel, or both.
        stride: Step of the kernel.
        padding: Zeros around the image; ``None`` for as many as keep the resolution.
        dilation: Distance of the kernel's taps.
        groups: Groups of channels that do not see each other.
        bias: Whether there is a bias; it is zero at the start.
        **options: ``padding_mode``, ``device`` and ``dtype`` of ``nn.Conv2d``.

    Shape:
        - ``x``: ``(B, in_channels, H, W)``. Returns ``(B, out_channels, H', W')``, where
          :math:`H' = \lceil H / \text{stride} \rceil` unless ``padding`` is given.

    Cost:
        ``kernel_size ** 2 * in_channels * out_channels / groups`` weights, as many multiply-adds at
        every place of the result.

    Raises:
        ValueError: If ``kernel_size`` is even and ``padding`` is not given, or ``groups`` does not
            divide both widths.

    References:
        He et al., Delving deep into rectifiers (2015), for the variance.

    Example:
        >>> GroupedConv2d(8, 16, 3, stride=2, groups=4)(torch.rand(1, 8, 5, 5)).shape
        torch.Size([1, 16, 3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sides = 1,
        stride: Sides = 1,
        padding: Sides | str | None = None,
        dilation: Sides = 1,
        groups: int = 1,
        bias: bool = False,
        **options: Any,
    ) -> None:
        if padding is None:
            padding = _keeping(_pair(kernel_size), _pair(dilation))
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            **options,
        )

    def reset_parameters(self) -> None:
        """Draw the weights again."""
        fan_out = math.prod(self.kernel_size) * self.out_channels // self.groups
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_out))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @leaf_of_fx
    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``."""
        if is_tracing():  # whoever reads TorchScript knows PyTorch's operators only
            return super().forward(x)
        if is_depthwise(self) and x.dim() == 4 and x.size(1) == self.in_channels:
            return depthwise(x, self.weight, self.dilation[0])
        return super().forward(x)


class DepthwiseConv2d(GroupedConv2d):
    """A convolution with as many groups as both widths allow; equal widths make it depthwise.

    Args:
        in_channels: Channels in.
        out_channels: Channels out, any number.
        kernel_size: Side of the kernel, odd.
        stride: Step of the kernel.
        dilation: Distance of the kernel's taps.

    Shape:
        - As :class:`GroupedConv2d`.

    Cost:
        ``kernel_size ** 2 * in_channels * out_channels / gcd(in_channels, out_channels)`` weights.

    References:
        Section 3.3, "Changing the channel resolution blocks".

    Example:
        >>> DepthwiseConv2d(16, 24).groups, DepthwiseConv2d(64, 256).groups
        (8, 64)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
            groups=math.gcd(in_channels, out_channels),
        )


class SqueezeExcite(nn.Module):
    """Scales every channel by a number between 0 and 1 that all channels decide on.

    Args:
        channels: Channels in and out, :math:`C`.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns the same shape.

    Cost:
        ``2 * C * S + S + C`` weights and ``2 * C * S`` multiply-adds, with ``S`` the multiple of 8
        that is next to ``C / 4``.

    References:
        Howard et al., Searching for MobileNetV3 (2019), section 5.3.

    Example:
        >>> SqueezeExcite(72)(torch.rand(2, 72, 7, 7)).shape
        torch.Size([2, 72, 7, 7])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_width(channels / 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = RELU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of ``x``."""
        return x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))


class GhostModule(nn.Module):
    """Half of the channels by a convolution, the other half from those by a depthwise one.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Side of the convolution's kernel.
        stride: Its step.
        groups: Its groups, as far as they divide what it computes.
        cheap_kernel: Side of the depthwise kernel.
        activation: Follows both norms; ``nn.Identity`` for none.

    Shape:
        - ``x``: ``(B, in_channels, H, W)``. Returns ``(B, out_channels, H / stride, W / stride)``.

    Cost:
        With ``h`` half of the channels out, rounded up: ``kernel_size ** 2 * in_channels * h /
        groups + cheap_kernel ** 2 * h`` weights and ``4 * h`` for the norms.

    References:
        Han et al., GhostNet (2020), section 3.1, with s = 2.

    Example:
        >>> GhostModule(16, 33)(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 33, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        cheap_kernel: int = 3,
        activation: Activation = RELU,
    ) -> None:
        super().__init__()
        half = (out_channels + 1) // 2
        self.out_channels = out_channels
        self.primary = conv_norm_act(
            in_channels,
            half,
            kernel_size=kernel_size,
            stride=stride,
            groups=math.gcd(groups, in_channels, half),
            activation=activation,
        )
        self.cheap = Chain(
            OrderedDict(
                conv=DepthwiseConv2d(half, half, kernel_size=cheap_kernel),
                norm=BatchNorm2d(half),
                act=activation(),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute both halves."""
        x = self.primary(x)
        y = torch.cat([x, self.cheap(x)], 1)
        return y[:, : self.out_channels] if self.out_channels % 2 else y


class Permute(nn.Module):
    """Axes in another order.

    Args:
        *order: Of the axes.
    """

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """Permute the axes of ``x``."""
        return x.permute(self.order)

    def extra_repr(self) -> str:
        """The order."""
        return ", ".join(map(str, self.order))


def _keeping(kernel_size: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """Zeros around an image that keep its resolution."""
    if any(side % 2 == 0 for side in kernel_size):
        raise ValueError(f"kernel_size must be odd where padding is not given, got {kernel_size}")
    return dilation[0] * (kernel_size[0] // 2), dilation[1] * (kernel_size[1] // 2)


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution filters every channel with several taps, and keeps the size."""
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.bias is None
        and conv.kernel_size != (1, 1)
        and keeps_size(conv)
    )


def conv_norm_act(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: Activation = RELU,
) -> nn.Sequential:
    """A convolution, its norm and an activation (``Conv2D`` in Tables 4 and 6).

    Example:
        >>> [name for name, _ in conv_norm_act(3, 16, kernel_size=3).named_children()]
        ['conv', 'norm', 'act']
    """
    conv = GroupedConv2d(
        in_channels, out_channels, kernel_size=kernel_size, stride=stride, groups=groups
    )
    return Chain(OrderedDict(conv=conv, norm=BatchNorm2d(out_channels), act=activation()))


def round_width(width: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` next to ``width``, but never below nine tenths of it.

    References:
        Sandler et al., MobileNetV2 (2018); the rule of its released code.

    Example:
        >>> round_width(0.6 * 112), round_width(18), round_width(3)
        (64, 24, 8)
    """
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded
