"""Grouped linear maps on the last axis, and the channel transfers made of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula

from mgic_geo.levels import init_transfer_
from mgic_geo.ops import native
from mgic_geo.ops.operator import Operator


class GroupedLinear(nn.Module):
    r"""A linear map on the last axis whose matrix is block-diagonal.

    Output channels of group :math:`i` see the input channels of group :math:`i` only: what a
    grouped convolution is to an image, for node features and plain vectors. Groups narrower than a
    vector register are multiplied several at a time, with zeros between them: a number that is not
    finite may then spread to the groups beside its own.

    Args:
        in_channels: Channels in; a multiple of ``groups``.
        out_channels: Channels out; a multiple of ``groups``.
        groups: Diagonal blocks.
        bias: Whether to add one.
        transfer_init: Start as a restriction or prolongation does, with this rule of
            :func:`~mgic_geo.levels.init_transfer_`; ``None`` draws from
            :math:`U(-1/\sqrt{k}, 1/\sqrt{k})` with :math:`k` the inputs of one output, as
            ``torch.nn.Linear`` does.

    Shape:
        - ``x``: ``(..., in_channels)``. Returns ``(..., out_channels)``.
        - ``weight``: ``(groups, out_channels / groups, in_channels / groups)``.

    Cost:
        ``in_channels * out_channels / groups`` weights, as many multiply-adds a row, and
        ``out_channels`` for the bias.

    Raises:
        ValueError: If a width is below 1, or ``groups`` is or does not divide both.

    Example:
        >>> layer = GroupedLinear(8, 16, groups=4)
        >>> layer(torch.randn(5, 8)).shape, layer.weight.shape
        (torch.Size([5, 16]), torch.Size([4, 4, 2]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int = 1,
        bias: bool = True,
        transfer_init: str | None = None,
    ) -> None:
        super().__init__()
        check_groups(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.transfer_init = transfer_init
        self.weight = nn.Parameter(
            torch.empty(groups, out_channels // groups, in_channels // groups)
        )
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias again, by the rule given at construction."""
        self.draw_(self.weight, self.bias)
        if self.transfer_init is not None:
            init_transfer_(self.weight, init=self.transfer_init)

    @staticmethod
    def draw_(weight: Tensor, bias: Tensor | None) -> None:
        r"""Fill both from :math:`U(-1/\sqrt{k}, 1/\sqrt{k})`, ``k`` inputs an output, in place."""
        bound = 1 / math.sqrt(weight.size(-1))
        nn.init.uniform_(weight, -bound, bound)
        if bias is not None:
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis of ``x``."""
        return grouped_linear(x, self.weight, self.bias)

    def add_to(self, addend: Tensor, x: Tensor) -> Tensor:
        """``addend`` and the map of ``x``: one pass where no gradients are recorded.

        Shape:
            - ``addend``: ``(..., out_channels)``. ``x``: ``(..., in_channels)``. Returns
              ``(..., out_channels)``.
        """
        if (
            not torch.is_grad_enabled()
            and x.shape == (len(x), self.in_channels)
            and addend.shape == (len(x), self.out_channels)
            and native.usable(addend)
            and native.can_multiply(x, self.weight)
        ):
            return _native_add(addend, x, self.weight, self.bias)
        return addend + self(x)

    def extra_repr(self) -> str:
        """Widths and groups, as ``torch.nn.Linear`` shows them."""
        return (
            f"{self.in_channels}, {self.out_channels}, groups={self.groups}, "
            f"bias={self.bias is not None}"
        )


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a block-diagonal matrix, given by its blocks, to the last axis of ``x``.

    Shape:
        - ``x``: ``(..., in_channels)``. Returns ``(..., out_channels)``.
        - ``weight``: ``(groups, out_channels / groups, in_channels / groups)``.
        - ``bias``: ``(out_channels,)``.

    Example:
        >>> grouped_linear(torch.ones(1, 4), torch.ones(2, 1, 2))
        tensor([[2., 2.]])
    """
    groups, width, columns = weight.shape
    if x.size(-1) != groups * columns:
        raise ValueError(
            f"x must have {groups * columns} channels last, got shape {tuple(x.shape)}"
        )
    if x.device != weight.device or not x.is_floating_point():
        raise ValueError(
            f"x must be floating point on {weight.device}, got {x.dtype} on {x.device}"
        )
    rows = x if x.dim() == 2 else x.reshape(-1, x.size(-1))
    if native.can_multiply(rows, weight):
        return _native_linear(rows, weight, bias).view(*x.shape[:-1], groups * width)
    return _plain_linear(x, weight, bias)


def _plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    groups, rows, columns = weight.shape
    if groups == 1:
        return functional.linear(x, weight[0], bias)
    y = torch.bmm(
        x.reshape(-1, groups, columns).transpose(0, 1),  # (groups, N, in / groups)
        weight.transpose(1, 2),
    )
    y = y.transpose(0, 1).reshape(*x.shape[:-1], groups * rows)
    return y if bias is None else y + bias.to(y.dtype)  # autocast made y narrower


def _linear_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.size(0), weight.size(0) * weight.size(1))


def _linear_setup(ctx, inputs, output) -> None:
    x, weight, bias = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _linear_backward(ctx, grad: Tensor):
    x, weight = ctx.saved_tensors
    grad_x = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_x = _native_linear(grad, weight.transpose(1, 2), None)
    if ctx.needs_input_grad[1]:
        grad_weight = _native_linear_weight(x, grad, weight.size(0))
    return grad_x, grad_weight, grad.sum(0) if ctx.has_bias else None


_native_linear = Operator(
    "mgic::grouped_linear",
    native.grouped_linear,
    _linear_fake,
    backward=_linear_backward,
    setup=_linear_setup,
)


def _add_fake(addend: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _linear_fake(x, weight, bias)


_native_add = Operator("mgic::add_grouped_linear", native.add_grouped_linear, _add_fake)


def _weight_fake(x: Tensor, grad: Tensor, groups: int) -> Tensor:
    return x.new_empty(groups, grad.size(1) // groups, x.size(1) // groups)


def _weight_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])


def _weight_backward(ctx, change: Tensor):
    x, grad = ctx.saved_tensors
    back = _native_linear(grad, change.transpose(1, 2), None)
    return back, _native_linear(x, change, None), None


_native_linear_weight = Operator(
    "mgic::grouped_linear_weight",
    native.grouped_linear_weight,
    _weight_fake,
    backward=_weight_backward,
    setup=_weight_setup,
)


@register_flop_formula(torch.ops.mgic.grouped_linear)
def _linear_flops(x: torch.Size, weight: torch.Size, *args, **kwargs) -> int:
    return 2 * x[0] * weight.numel()


@register_flop_formula(torch.ops.mgic.add_grouped_linear)
def _add_flops(addend: torch.Size, x: torch.Size, weight: torch.Size, *args, **kwargs) -> int:
    return 2 * x[0] * weight.numel()


@register_flop_formula(torch.ops.mgic.grouped_linear_weight)
def _weight_flops(x: torch.Size, grad: torch.Size, groups: int, **kwargs) -> int:
    return 2 * x[0] * x[1] * grad[1] // groups


def transfer(in_width: int, out_width: int, groups: int, *, init: str = "aggregate") -> nn.Module:
    """A restriction or prolongation on node features: grouped, no bias, positive at the start.

    Example:
        >>> transfer(64, 32, 4)
        GroupedLinear(64, 32, groups=4, bias=False)
    """
    return GroupedLinear(in_width, out_width, groups=groups, bias=False, transfer_init=init)


def check_groups(in_channels: int, out_channels: int, groups: int) -> None:
    """Raise where ``groups`` does not divide both widths.

    Raises:
        ValueError: If a width is below 1, or ``groups`` is or does not divide both.
    """
    if min(in_channels, out_channels) < 1:
        raise ValueError(
            f"in_channels and out_channels must be at least 1, got {in_channels} and {out_channels}"
        )
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups must divide in_channels {in_channels} and out_channels {out_channels}, "
            f"got {groups}"
        )
