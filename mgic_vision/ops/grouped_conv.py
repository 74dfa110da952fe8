"""A convolution with narrow groups and the activation after it, in one call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from mgic_geo.ops.batch_norm_act import ACTIVATIONS
from mgic_geo.ops.grouped_linear import Packing, packing
from mgic_geo.ops.operator import Kernel, Operation, has_own_forward
from mgic_vision.ops.branch import is_nothing
from mgic_vision.ops.kernel import has_known_kernel, in_order, loaded, run_kernel
from mgic_vision.ops.packed import PackedModule
from mgic_vision.ops.packing import pack_bias
from mgic_vision.tracing import leaf_of_fx

MAX_SEEN = 24  # channels that a piece of outputs reads, most of them by weights of zero


class ConvPlan(NamedTuple):
    """What ``mgic_grouped_conv`` takes after the sizes of images, and the groups."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    dilation: int
    activation: int
    inputs: int
    groups: int  # of no interest to the kernel


def _run_grouped_conv(
    x: Tensor, begins: Tensor, weight: Tensor, bias: Tensor, sizes: list[int]
) -> Tensor:
    """Run a convolution as :func:`pack_conv` lays it out; ``sizes`` are a :class:`ConvPlan`.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns ``(B, out_channels, H / stride, W / stride)``, rounded
          up, channels innermost.
    """
    x = in_order(x)
    y = _empty_result(x, sizes)
    batch, _, height, width = x.shape
    run_kernel("mgic_grouped_conv", x, begins, weight, bias, y, batch, height, width, *sizes[:-1])
    return y


#: ``(x, begins, weight, bias, sizes)``: a convolution as :func:`pack_conv` lays it out. It has no
#: other form than the kernel: the module that packs itself is its reference.
run_grouped_conv = Operation(
    "mgic_vision::grouped_conv",
    _run_grouped_conv,
    Kernel("compiled", _run_grouped_conv, lambda *_: None),
    fake=lambda x, begins, weight, bias, sizes: _empty_result(x, sizes),
)


def _empty_result(x: Tensor, sizes: list[int]) -> Tensor:
    if len(sizes) != len(ConvPlan._fields):
        raise ValueError(f"sizes must be {', '.join(ConvPlan._fields)}, got {sizes}")
    plan = ConvPlan(*sizes)
    if min(plan.stride, plan.out_channels, plan.groups) < 1:
        raise ValueError(f"stride, out_channels and groups must be at least 1, got {plan}")
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


class NativeConv(PackedModule, nn.Sequential):
    """A convolution with narrow groups and its activation, in the kernel where possible.

    Shape:
        - As the convolution.
    """

    plain, operation = nn.Sequential, "mgic_vision::grouped_conv"

    @staticmethod
    def knows(module: nn.Sequential) -> bool:
        """Whether it is a convolution with narrow groups and at most an activation."""
        return read_pair(module) is not None

    @leaf_of_fx
    def forward(self, input: Tensor) -> Tensor:
        """Run convolution and activation."""
        packed = self.packed_for(input)
        if packed is None or input.dim() != 4 or input.size(1) != packed[-1][0]:
            return super().forward(input)
        return run_grouped_conv.run_first(input, *packed)

    def pack(self) -> tuple[Any, ...] | None:
        """First channels of the pieces, weight, bias and sizes."""
        pair = read_pair(self)
        return None if pair is None else pack_conv(*pair)


def read_pair(sequence: nn.Sequential) -> tuple[nn.Conv2d, nn.Module] | None:
    """The convolution and the activation that are all of a sequence; ``None`` for torch's work.

    That is where groups are wide or are single channels in and out, or where a piece, which may be
    of many groups, would read too much.
    """
    parts = [part for part in sequence if not is_nothing(part)]
    conv, act = parts[0] if parts else None, parts[1] if len(parts) > 1 else nn.Identity()
    if not isinstance(conv, nn.Conv2d) or type(act) not in ACTIVATIONS or len(parts) > 2:
        return None
    stride = conv.stride[0]
    if conv.groups == 1 or conv.stride != (stride, stride) or not has_known_kernel(conv):
        return None
    if has_own_forward(act):
        return None
    return (conv, act) if _is_narrow(conv) else None


def _is_narrow(conv: nn.Conv2d) -> bool:
    inputs, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    seen = _layout(conv, loaded().lanes).index.size(2)
    return inputs * outputs > 1 and outputs < loaded().lanes and seen <= MAX_SEEN


def pack_conv(conv: nn.Conv2d, act: nn.Module) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """What :func:`run_grouped_conv` takes beside the images."""
    layout = _layout(conv, loaded().lanes)
    weight = conv.weight.detach().flatten(2).transpose(1, 2)  # (out, taps, in)
    bias = None if conv.bias is None else conv.bias.detach()
    sizes = ConvPlan(
        *(conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0]),
        *(conv.dilation[0], ACTIVATIONS[type(act)], layout.index.size(2), conv.groups),
    )
    padded = pack_bias(bias, conv.out_channels, 1).flatten()
    return layout.begins, layout.lay_out(weight), padded, list(sizes)


def _layout(conv: nn.Conv2d, lanes: int) -> Packing:
    inputs, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    with torch.inference_mode(False), torch.device("cpu"):  # it is kept
        return packing(conv.groups, outputs, inputs, taps, lanes=lanes)
