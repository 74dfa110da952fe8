"""The cycle on plain vectors: a layer, a feed-forward unit for its levels, and a small network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from mgic_geo.levels import Level, MGICBlock, check_counts, reset_parameters
from mgic_geo.nn.correction import GraphCorrection
from mgic_geo.nn.grouped_linear import GroupedLinear, transfer
from mgic_geo.nn.width_change import WidthChange


class MGICLinear(nn.Module):
    r"""Replaces ``nn.Linear(channels, out_channels)`` with weights that are linear in the width.

    Every level has a linear map, grouped on all but the coarsest one, so that every channel sees
    every other. As it stands, the layer is a linear map like the one it replaces, one whose matrix
    is a product and sum of block-diagonal ones. With ``make_act`` it is more than linear: an
    activation follows the maps of the coarser levels, while the finest one stays bare, so that the
    user's own norm and activation follow as before.

    Args:
        channels: Channels in, :math:`C`.
        out_channels: Channels out, ``None`` for as many. Where they differ, a grouped map, as in
            front of a convolution (section 3.3), leads to this width, on which the cycle works.
        group_size: Channels per group on every level but the last, :math:`s_g`.
        coarse_size: Levels are halved until they are this narrow, :math:`s_c`; ``None`` means
            ``group_size``.
        min_levels: Coarser levels to build even where the width is already small.
        bias: Whether the maps add one.
        make_norm: ``(width) -> Module``, in front of the activation of the coarser levels and,
            starting small, after every prolongation.
        make_act: ``() -> Module``, the activation of the coarser levels.
        cycle: ``"multiplicative"`` or ``"additive"``, as :class:`MGICBlock`.

    Shape:
        - ``x``: ``(..., channels)``. Returns ``(..., out_channels)``.

    Cost:
        As :class:`MGICBlock` with :math:`K = C^2`, and :math:`C_j` a level for the bias; as many
        multiply-adds a row without the biases. Without norms :math:`2 C_j` fewer a level. Where the
        widths differ :math:`C` is the width out, and :class:`WidthChange` comes on top.

    Raises:
        ValueError: If ``channels`` or a size is below 1, ``min_levels`` below 0, or ``cycle``
            unknown.

    References:
        Section 3.2, with a linear map as CNN block, and section 5 ("a universal approach").

    Example:
        >>> import torch
        >>> layer = MGICLinear(256, group_size=16)
        >>> layer(torch.rand(2, 9, 256)).shape
        torch.Size([2, 9, 256])
        >>> sum(p.numel() for p in layer.parameters()), sum(
        ...     p.numel() for p in nn.Linear(256, 256).parameters()
        ... )
        (16112, 65792)
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        group_size: int = 16,
        coarse_size: int | None = None,
        min_levels: int = 1,
        bias: bool = True,
        make_norm: Callable[[int], nn.Module] | None = None,
        make_act: Callable[[], nn.Module] | None = None,
        cycle: str = "multiplicative",
    ) -> None:
        super().__init__()

        def make_layer(level: Level) -> nn.Module:
            linear = GroupedLinear(level.outer, level.outer, groups=level.groups, bias=bias)
            parts = OrderedDict[str, nn.Module](linear=linear)
            if make_norm is not None:
                parts["norm"] = make_norm(level.outer)
            if make_act is not None:
                parts["act"] = make_act()
            return linear if level.finest or len(parts) == 1 else nn.Sequential(parts)

        check_counts(channels=channels)
        self.channels = channels
        self.out_channels = channels if out_channels is None else out_channels
        self.width_change = WidthChange(channels, self.out_channels, group_size=group_size)
        self.block = MGICBlock(
            self.out_channels,
            make_layer,
            transfer,
            group_size=group_size,
            coarse_size=coarse_size,
            min_levels=min_levels,
            make_norm=make_norm,
            make_correction=GraphCorrection,
            cycle=cycle,
        )

    def reset_parameters(self) -> None:
        """Draw all weights again; the transfers keep their rule."""
        self.width_change.reset_parameters()
        self.block.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Run the cycle on the last axis of ``x``."""
        if x.size(-1) != self.channels:
            raise ValueError(
                f"x must have {self.channels} channels last, got shape {tuple(x.shape)}"
            )
        rows = x.reshape(-1, self.channels)  # what a norm takes
        return self.block(self.width_change(rows)).view(*x.shape[:-1], self.out_channels)

    def extra_repr(self) -> str:
        """Show the widths above the levels."""
        return f"{self.channels}, {self.out_channels}"


class MGICMLP(nn.Module):
    """A multilayer perceptron whose square layers are :class:`MGICLinear`.

    A grouped map to the hidden width (none where it is the input's), ``num_layers`` times a layer,
    its norm and its activation, and a dense map to the output.

    Args:
        in_channels: Channels in; -1 takes them from the first input.
        hidden_channels: Width of the layers.
        num_layers: Number of them.
        out_channels: Channels out.
        group_size: Channels per group, :math:`s_g`.
        coarse_size: Width of the coarsest level, :math:`s_c`; ``None`` means ``group_size``.
        min_levels: Coarser levels to build even where the width is already small.
        make_norm: ``(width) -> Module``, after every layer and inside it; ``None`` for no norm.
        make_act: ``() -> Module``, likewise.
        cycle: As :class:`MGICLinear`.

    Shape:
        - ``x``: ``(..., in_channels)``; norms see ``(N, width)``. Returns ``(..., out_channels)``.

    Cost:
        ``num_layers`` times :class:`MGICLinear` and two norms, and the maps at both ends.

    Raises:
        ValueError: If a width, a size or ``num_layers`` is below 1.

    Example:
        >>> import torch
        >>> MGICMLP(5, 128, 2, 1)(torch.rand(8, 5)).shape
        torch.Size([8, 1])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_layers: int,
        out_channels: int,
        *,
        group_size: int = 16,
        coarse_size: int | None = None,
        min_levels: int = 1,
        make_norm: Callable[[int], nn.Module] | None = nn.BatchNorm1d,
        make_act: Callable[[], nn.Module] = nn.ReLU,
        cycle: str = "multiplicative",
    ) -> None:
        super().__init__()
        check_counts(num_layers=num_layers)
        self.width_change = WidthChange(in_channels, hidden_channels, group_size=group_size)
        self.layers = nn.Sequential()
        for _ in range(num_layers):
            linear = MGICLinear(
                hidden_channels,
                group_size=group_size,
                coarse_size=coarse_size,
                min_levels=min_levels,
                make_norm=make_norm,
                make_act=make_act,
                cycle=cycle,
            )
            norm = nn.Identity() if make_norm is None else make_norm(hidden_channels)
            self.layers.append(nn.Sequential(OrderedDict(linear=linear, norm=norm, act=make_act())))
        self.head = nn.Linear(hidden_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        for child in self.children():
            reset_parameters(child)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis of ``x``."""
        rows = x.reshape(-1, x.size(-1))  # what a norm takes
        y = self.head(self.layers(self.width_change(rows)))
        return y.view(*x.shape[:-1], self.head.out_features)


def feed_forward(level: Level, *, make_act: Callable[[], nn.Module] = nn.GELU) -> nn.Sequential:
    """A transformer's feed-forward map on one level: out to the inner width, activation, back.

    Args:
        level: Outer and inner width, and groups.
        make_act: ``() -> Module``, the activation.

    Shape:
        - ``x``: ``(..., C)``. Returns the same shape.

    Cost:
        ``2 * C * m / groups + m + C`` weights.

    References:
        Section 5 ("a universal approach"); Vaswani et al., Attention is all you need (2017), 3.3.

    Example:
        >>> from mgic_geo import level_plan
        >>> finest = level_plan(64, 256, group_size=16, coarse_size=16)[0]
        >>> sum(p.numel() for p in feed_forward(finest).parameters())
        8512
    """
    return nn.Sequential(
        OrderedDict(
            expand=GroupedLinear(level.outer, level.inner, groups=level.groups),
            act=make_act(),
            project=GroupedLinear(level.inner, level.outer, groups=level.groups),
        )
    )
