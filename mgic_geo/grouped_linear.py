"""Grouped linear maps on the last axis, and the channel transfers made of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from mgic_geo.levels import init_transfer_

MERGED_WIDTH = 128  # input channels up to which groups are multiplied together
_merging = True  # see unmerged_groups


class GroupedLinear(nn.Module):
    r"""A linear map on the last axis whose matrix is block-diagonal.

    Output channels of group :math:`i` see the input channels of group :math:`i` only: what a
    grouped convolution is to an image, for node features and plain vectors.

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
    groups, rows, columns = weight.shape
    if x.size(-1) != groups * columns:
        raise ValueError(
            f"x must have {groups * columns} channels last, got shape {tuple(x.shape)}"
        )
    weight = merge_groups(weight)
    blocks = weight.size(0)
    if blocks == 1:
        return functional.linear(x, weight[0], bias)
    y = torch.bmm(
        x.reshape(-1, blocks, weight.size(2)).transpose(0, 1),  # (blocks, N, in / blocks)
        weight.transpose(1, 2),
    )
    y = y.transpose(0, 1).reshape(*x.shape[:-1], groups * rows)
    return y if bias is None else y + bias


_separate = False


@contextmanager
def separate_groups() -> Iterator[None]:
    """Multiply every group by itself, as where multiply-adds are counted."""
    global _separate
    before, _separate = _separate, True
    try:
        yield
    finally:
        _separate = before


def merge_groups(weight: Tensor, max_columns: int = MERGED_WIDTH) -> Tensor:
    """Fewer, wider diagonal blocks of up to ``max_columns``, zero between the groups of each.

    A matrix product with a few columns costs its memory traffic, so that the zeros come for free.
    Inside :func:`separate_groups` the blocks stay as they are.
    """
    if _separate:
        return weight
    groups, rows, columns = weight.shape
    most = max(max_columns // columns, 1) if _merging else 1
    merge = next(m for m in range(min(most, groups), 0, -1) if groups % m == 0)
    if merge == 1:
        return weight
    eye = torch.eye(merge, dtype=weight.dtype, device=weight.device).view(1, merge, 1, merge, 1)
    blocks = weight.view(groups // merge, merge, rows, 1, columns) * eye
    return blocks.reshape(groups // merge, merge * rows, merge * columns)


@contextmanager
def unmerged_groups() -> Iterator[None]:
    """Within it no group is multiplied with the zeros beside it, which is slower.

    For counting multiply-adds: those with zeros are how the processor is kept busy, not the method.
    """
    global _merging
    before, _merging = _merging, False
    try:
        yield
    finally:
        _merging = before


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
