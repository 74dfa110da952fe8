"""ResNet-56 as published, and with ghost modules: what Table 3 compares MGIC-ResNet-56 with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from torch import Tensor, nn
from torch.nn import functional

from mgic_vision.layers import RELU, conv_norm_act
from mgic_vision.models.backbone import Backbone
from mgic_vision.models.interface import ModelOptions, make_model
from mgic_vision.models.resnet import small_rows
from mgic_vision.models.stages import Stages


class PlainBlock(nn.Module):
    """ResNet-56's own block: two convolutions around a shortcut without weights, then ReLU.

    Where the width changes, the shortcut takes every other pixel and fills up with zero channels.

    Args:
        in_channels: Channels in.
        out_channels: Channels out, at least as many.
        stride: Step of the first convolution.
        make_conv: ``(in_channels, out_channels, kernel_size=, stride=, activation=)``: convolution,
            norm and activation, e.g. :func:`conv_norm_act` or :class:`GhostModule`.

    Shape:
        - ``x``: ``(B, in_channels, H, W)``. Returns ``(B, out_channels, H / stride, W / stride)``.

    Cost:
        ``9 * out_channels * (in_channels + out_channels) + 4 * out_channels`` weights with
        :func:`conv_norm_act`.

    References:
        He et al., Deep residual learning (2016), section 4.2, option A.

    Example:
        >>> import torch
        >>> PlainBlock(16, 32, stride=2)(torch.rand(2, 16, 7, 7)).shape
        torch.Size([2, 32, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        make_conv: Callable[..., nn.Module] = conv_norm_act,
    ) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, out_channels - in_channels
        self.conv1 = make_conv(
            in_channels, out_channels, kernel_size=3, stride=stride, activation=RELU
        )
        self.conv2 = make_conv(out_channels, out_channels, kernel_size=3, activation=nn.Identity)
        self.act = RELU()

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y = self.conv2(self.conv1(x))
        if self.new_channels or self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
            before = self.new_channels // 2
            x = functional.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        return self.act(y + x)


def plain_resnet56(
    make_conv: Callable[..., nn.Module],
    num_classes: int = 10,
    *,
    depth: int = 56,
    width: int = 16,
    in_chans: int = 3,
    **options: Unpack[ModelOptions],
) -> Backbone:
    """ResNet-56 as published, ``resnet56``, and with ghost modules, ``ghost_resnet56``.

    Args:
        make_conv: As :class:`PlainBlock`.
        num_classes: Classes to tell apart.
        depth: 6 n + 2, with n blocks a stage.
        width: Channels of the first stage; the next ones have twice and four times as many.
        in_chans: Channels of the images.
        **options: As :class:`ModelOptions`.

    Cost:
        853,018 weights and 125.5 M multiply-adds at 32x32 with ten classes; 438,154 and 65.3 M with
        a ghost module in place of every convolution of the blocks.

    Raises:
        ValueError: If ``depth`` is not 6 n + 2.

    References:
        He et al., Deep residual learning (2016), section 4.2; Han et al., GhostNet (2020), section
        4.1; Table 3 (0.85 M and 125 M, 0.43 M and 63 M).

    Example:
        >>> from mgic_vision import GhostModule
        >>> for make_conv in (conv_norm_act, GhostModule):
        ...     print(sum(p.numel() for p in plain_resnet56(make_conv).parameters()))
        853018
        438154
    """
    stages = Stages(width, 1)
    for row in small_rows(depth, width):
        for stride in (row.stride, *[1] * (row.repeat - 1)):
            block = PlainBlock(stages.channels, row.out, stride=stride, make_conv=make_conv)
            stages.add(block, row.out, stride=stride)
    stem = conv_norm_act(in_chans, width, kernel_size=3)
    backbone = Backbone(stem, stages, input_size=(in_chans, 32, 32))
    return make_model(backbone, num_classes, **options)
