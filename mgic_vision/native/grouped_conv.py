"""A convolution with narrow groups and the activation behind it, in one call."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from mgic_geo.native import build
from mgic_geo.native.activations import ACTIVATIONS
from mgic_geo.native.grouped_linear import packing
from mgic_vision.native import available, usable
from mgic_vision.native.kernel import MAX_KERNEL, PackedModule, run_kernel
from mgic_vision.native.packing import pack_bias

MAX_ZEROS = 4  # weights of a piece for one that is none of the padding


class ConvPlan(NamedTuple):
    """``conv`` of grouped_conv.c."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    dilation: int
    activation: int
    pieces: int
    inputs: int
    groups: int  # of no interest to the kernel


@torch.library.custom_op("mgic_vision::grouped_conv", mutates_args=(), device_types="cpu")
def run_grouped_conv(
    x: Tensor, begins: Tensor, weight: Tensor, bias: Tensor, sizes: list[int]
) -> Tensor:
    """Run a convolution as :class:`NativeConv` packs it; ``sizes`` are those of :class:`ConvPlan`.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns ``(B, out_channels, H / stride, W / stride)``, rounded
          up, channels innermost.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    y = _empty_result(x, sizes)
    run_kernel(
        *("mgic_grouped_conv", x, x.data_ptr(), y.data_ptr(), x.size(0), *x.shape[2:]),
        *y.shape[2:],
        *((ctypes.c_int64 * len(sizes))(*sizes), begins.data_ptr(), weight.data_ptr()),
        *(bias.data_ptr(), torch.get_num_threads()),
    )
    return y


@run_grouped_conv.register_fake
def _(x: Tensor, begins: Tensor, weight: Tensor, bias: Tensor, sizes: list[int]) -> Tensor:
    return _empty_result(x, sizes)


def _empty_result(x: Tensor, sizes: list[int]) -> Tensor:
    plan = ConvPlan(*sizes)
    height, width = (-(-side // plan.stride) for side in x.shape[2:])
    return torch.empty(
        (x.size(0), plan.out_channels, height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


@register_flop_formula(torch.ops.mgic_vision.grouped_conv, get_raw=True)
def _flops(x: Tensor, begins: Tensor, weight: Tensor, bias: Tensor, sizes: list[int], **_: object):
    plan = ConvPlan(*sizes)
    return 2 * _empty_result(x, sizes).numel() * plan.in_channels // plan.groups * plan.kernel**2


class NativeConv(PackedModule):
    """A convolution with narrow groups that runs in the compiled kernel where that can be.

    Args:
        conv: The convolution, its norm folded.
        act: The activation behind it, which this does as well.

    Shape:
        - As ``conv``.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act = conv, act
        self.sizes: list[int] = []
        self.begins: Tensor
        self.weight: Tensor
        self.bias: Tensor
        self.pack()

    def forward(self, x: Tensor) -> Tensor:
        """Run convolution and activation."""
        if not self.sizes or not usable(x):
            return self.act(self.conv(x))
        return run_grouped_conv(x, self.begins, self.weight, self.bias, self.sizes)

    def pack(self) -> None:
        """Lay out the weights, where there are kernels that know them."""
        plan = plan_conv(self.conv, self.act) if available() else None
        self.sizes, *packed = plan if plan is not None else ([], *(torch.empty(0),) * 3)
        for name, tensor in zip(("begins", "weight", "bias"), packed, strict=True):
            self.register_buffer(name, tensor.detach(), persistent=False)


def plan_conv(conv: nn.Conv2d, act: nn.Module) -> tuple[list[int], Tensor, Tensor, Tensor] | None:
    """Sizes, first channels of the pieces, weight and bias; ``None`` where torch is to do it.

    That is where groups are wide, or so narrow that most of a piece would be zeros.
    """
    kernel, stride, dilation = conv.kernel_size[0], conv.stride[0], conv.dilation[0]
    if type(act) not in ACTIVATIONS or conv.groups == 1 or conv.padding_mode != "zeros":
        return None
    same = all(pair == (pair[0],) * 2 for pair in (conv.kernel_size, conv.stride, conv.dilation))
    if not same or conv.padding != (kernel // 2 * dilation,) * 2:
        return None
    if kernel % 2 == 0 or kernel > MAX_KERNEL:
        return None
    inputs, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    layout = packing(conv.groups, outputs, inputs, kernel**2, lanes=build.lanes())
    pieces, _, seen, _ = layout.index.shape
    if outputs >= build.lanes() or seen > MAX_ZEROS * inputs or seen > conv.in_channels:
        return None
    weight = conv.weight.flatten(2).transpose(1, 2)  # (out, taps, in)
    sizes = ConvPlan(
        *(conv.in_channels, conv.out_channels, kernel, stride, dilation),
        *(ACTIVATIONS[type(act)], pieces, seen, conv.groups),
    )
    bias = pack_bias(conv.bias, conv.out_channels, 1)
    return list(sizes), layout.begins, layout.pack(weight.contiguous()), bias.flatten()
