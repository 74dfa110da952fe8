"""Linear maps whose matrix is that of an additive cycle, and convolutions made of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn import functional

from mgic_geo.levels import Level, MGICBlock, check_counts
from mgic_geo.nn.correction import GraphCorrection
from mgic_geo.nn.grouped_linear import GroupedLinear, transfer

MULTIPLIED_OUT = 256  # width up to which one dense product is faster than those of the levels


class StructuredLinear(nn.Module):
    r"""A linear map with the matrix of an additive cycle in place of a dense one.

    .. math::
        y_n = W_n x_n, \qquad y_j = W_j x_j + P_j y_{j+1}, \qquad x_{j+1} = R_j x_j

    All levels are linear, with :math:`W_j` block-diagonal on all but the coarsest, so that the map
    is one matrix whose weights grow linearly with the width. It may stand for the linear map of any
    layer, whatever that does before and after. Where the widths differ, :math:`C` is their greatest
    common divisor, and both sides are stacks of parts of that width: each part is restricted alike,
    and each result prolonged alike.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        group_size: Channels per group on every level but the last, :math:`s_g`.
        coarse_size: Levels are halved until they are this narrow, :math:`s_c`; ``None`` means
            ``group_size``.
        min_levels: Coarser levels to build even where the width is already small.
        bias: Whether to add one.
        transfer_init: How transfers start, see :func:`~mgic_geo.levels.init_transfer_`.

    Shape:
        - ``x``: ``(..., in_channels)``. Returns ``(..., out_channels)``.
        - ``weight``: ``(1, out_channels, in_channels)``, as that of :class:`GroupedLinear`.

    Cost:
        With :math:`a` parts in and :math:`b` parts out,
        :math:`\sum_{j<n} [a b C_j^2 / g_j + C_j^2 / g_j] + a b C_n^2` weights, and the bias.
        Multiply-adds up to a width of 256 are those of the dense map, which is faster there.

    Raises:
        ValueError: If a width or size is below 1, or ``min_levels`` below 0.

    References:
        Xu, Iterative methods by space decomposition and subspace correction, SIAM Review 34 (1992),
        section 3, for additive cycles.

    Example:
        >>> layer = StructuredLinear(128, 64, group_size=8, coarse_size=16)
        >>> layer(torch.ones(5, 128)).shape, layer.weight.shape
        (torch.Size([5, 64]), torch.Size([1, 64, 128]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        group_size: int,
        coarse_size: int | None = None,
        min_levels: int = 1,
        bias: bool = True,
        transfer_init: str = "normal",
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.width = math.gcd(in_channels, out_channels)
        parts = in_channels // self.width, out_channels // self.width

        def make_transfer(*widths: int) -> nn.Module:
            return transfer(*widths, init=transfer_init)

        self.block = MGICBlock(
            self.width,
            lambda level: PartsLinear(level, *parts),
            make_transfer,
            group_size=group_size,
            coarse_size=coarse_size,
            min_levels=min_levels,
            make_correction=GraphCorrection,
            cycle="additive",
        )
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        self.block.reset_parameters()
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_channels)
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def weight(self) -> Tensor:
        """The matrix, multiplied out: what the cycle makes of the unit vectors.

        It has the type of the parameters, in autocast as well, which the product with it is for.
        """
        some = next(self.block.parameters())
        units = torch.eye(self.in_channels, dtype=some.dtype, device=some.device)
        if not torch.is_autocast_enabled(some.device.type):
            return self._apply_block(units).t().unsqueeze(0)
        with torch.autocast(some.device.type, enabled=False):
            return self._apply_block(units).t().unsqueeze(0)

    def _apply_block(self, x: Tensor) -> Tensor:
        return self.block(x.unflatten(-1, (-1, self.width))).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis of ``x``."""
        if x.size(-1) != self.in_channels:
            raise ValueError(f"x must have {self.in_channels} channels last, got {tuple(x.shape)}")
        if self.width <= MULTIPLIED_OUT:
            return functional.linear(x, self.weight[0], self.bias)
        y = self._apply_block(x)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Widths, as ``torch.nn.Linear`` shows them."""
        return f"{self.in_channels}, {self.out_channels}, bias={self.bias is not None}"


class PartsLinear(GroupedLinear):
    """The map of one level, from several parts of its channels to several.

    Args:
        level: Width and groups.
        parts_in: Parts in; a group sees its channels of all of them.
        parts_out: Parts out.

    Shape:
        - ``x``: ``(..., parts_in, C)``. Returns ``(..., parts_out, C)``.

    Cost:
        ``parts_in * parts_out * C * C / groups`` weights.

    Example:
        >>> from mgic_geo import level_plan
        >>> finest = level_plan(16, group_size=8, coarse_size=8)[0]
        >>> PartsLinear(finest, 7, 1)(torch.ones(5, 7, 16)).shape
        torch.Size([5, 1, 16])
    """

    def __init__(self, level: Level, parts_in: int, parts_out: int) -> None:
        width = level.outer
        super().__init__(parts_in * width, parts_out * width, groups=level.groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map the parts of ``x``."""
        grouped = x.unflatten(-1, (self.groups, -1)).transpose(-3, -2)
        y = super().forward(grouped.flatten(-3))  # (..., groups * parts_in * width)
        y = y.unflatten(-1, (self.groups, -1, grouped.size(-1)))
        return y.transpose(-3, -2).flatten(-2)


def make_additive_conv(
    conv: Callable[..., nn.Module],
    in_channels: int | tuple[int, int],
    out_channels: int,
    *,
    group_size: int,
    coarse_size: int | None = None,
    min_levels: int = 1,
    **kwargs: Any,
) -> nn.Module:
    """Build a graph convolution whose linear maps are :class:`StructuredLinear`.

    The convolution passes its messages once, as it does with dense maps. Maps whose widths share
    no divisor above ``coarse_size`` stay dense: they are narrow on one side.

    Args:
        conv: ``(in_channels, out_channels, **kwargs) -> Module``: any convolution with
            ``nn.Linear``, PyG's ``Linear`` or :class:`GroupedLinear` inside.
        in_channels: Channels in, as ``conv`` takes them.
        out_channels: Channels out.
        group_size: As :class:`StructuredLinear`.
        coarse_size: As :class:`StructuredLinear`.
        min_levels: As :class:`StructuredLinear`.
        **kwargs: Passed to ``conv``.

    Raises:
        ValueError: If the convolution has no linear map, or a width is unknown before the first
            input.

    Example:
        >>> conv = make_additive_conv(pyg.SAGEConv, 64, 64, group_size=8)
        >>> sum(p.numel() for p in conv.parameters()), conv.lin_r.width
        (3776, 64)
    """
    made = conv(in_channels, out_channels, **copy.deepcopy(kwargs))
    widest = group_size if coarse_size is None else coarse_size
    maps = linear_maps(made)
    if not maps:
        raise ValueError(
            f"an additive cycle needs a convolution made of linear maps, {type(made).__name__} has "
            "none; cycle='multiplicative' takes any"
        )
    structured: dict[nn.Module, nn.Module] = {}
    for linear in maps.values():
        columns, rows = _widths(linear)
        if columns < 1:
            raise ValueError(f"in_channels must be known for an additive cycle, got {columns}")
        if math.gcd(columns, rows) > widest and linear not in structured:
            structured[linear] = StructuredLinear(
                columns,
                rows,
                group_size=group_size,
                coarse_size=coarse_size,
                min_levels=min_levels,
                bias=linear.bias is not None,
            )
    for name, linear in maps.items():
        if linear in structured:
            made.set_submodule(name, structured[linear])
    return made


def linear_maps(conv: nn.Module) -> dict[str, nn.Module]:
    """Dense linear maps inside a convolution, by every name that they have.

    Example:
        >>> list(linear_maps(pyg.GATv2Conv(4, 4, share_weights=True)))  # one map, two names
        ['lin_l', 'lin_r']
    """

    def is_dense(module: nn.Module) -> bool:
        if isinstance(module, GroupedLinear):
            return module.groups == 1
        return isinstance(module, nn.Linear | pyg.Linear)

    every = conv.named_modules(remove_duplicate=False)
    return {name: module for name, module in every if is_dense(module)}


def _widths(linear: Any) -> tuple[int, int]:
    if isinstance(linear, nn.Linear):
        return linear.in_features, linear.out_features
    return linear.in_channels, linear.out_channels
