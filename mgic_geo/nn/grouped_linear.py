"""Grouped linear maps on the last axis, and the channel transfers made of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mgic_geo.levels import check_counts, init_transfer_
from mgic_geo.ops import grouped_linear as ops


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
    if bias is not None and (
        bias.shape != (groups * width,)
        or (bias.dtype, bias.device) != (weight.dtype, weight.device)
    ):
        raise ValueError(
            f"bias must be ({groups * width},) of {weight.dtype} on {weight.device}, got shape "
            f"{tuple(bias.shape)} of {bias.dtype} on {bias.device}"
        )
    rows = x if x.dim() == 2 else x.reshape(-1, x.size(-1))
    return ops.grouped_linear(rows, weight, bias).view(*x.shape[:-1], groups * width)


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
    check_counts(in_channels=in_channels, out_channels=out_channels)
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups must divide in_channels {in_channels} and out_channels {out_channels}, "
            f"got {groups}"
        )
