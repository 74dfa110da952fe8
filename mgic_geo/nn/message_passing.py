"""Any graph convolution, run through one multigrid cycle over its channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.resolver import activation_resolver, normalization_resolver

from mgic_geo.graphs.adjacency import Adjacency
from mgic_geo.levels import (
    Differing,
    Level,
    MGICBlock,
    check_counts,
    check_cycle,
    reset_parameters,
)
from mgic_geo.nn.conv_names import find_conv
from mgic_geo.nn.correction import GraphCorrection
from mgic_geo.nn.diff_conv import DiffGCNConv
from mgic_geo.nn.grouped_conv import check_strategy, make_grouped_conv
from mgic_geo.nn.grouped_linear import transfer
from mgic_geo.nn.norm_act import norm_act
from mgic_geo.nn.prepared import PreparedConv
from mgic_geo.nn.structured_linear import make_additive_conv
from mgic_geo.nn.width_change import WidthChange
from mgic_geo.ops.inputs import check_tensors
from mgic_geo.ops.operator import may_skip


class MGICMessagePassing(MessagePassing):
    r"""A graph convolution whose channels are coupled by a multigrid cycle instead of densely.

    A drop-in replacement for ``conv(in_channels, out_channels)``. On the finest level the
    convolution is bare, so that the user's own norm and activation follow as before; on the coarser
    levels it is followed by a norm and an activation, without which the whole cycle would be
    linear. The norms after the prolongations start at a tenth of their scale.

    The convolutions of the levels run one after another. Each level adds a hop: the receptive field
    is :attr:`num_hops` hops. Compare it with as many convolutions in a row, and sample that
    many hops for it (``NeighborLoader(num_neighbors=[...] * layer.num_hops)``).

    With ``cycle="additive"`` the cycle replaces every linear map inside ``conv`` instead
    (:func:`make_additive_conv`): one convolution, one hop, all levels linear. ``norm``, ``act`` and
    ``strategy`` have no place there.

    Where the widths differ, a grouped pointwise map comes first. Where ``in_channels`` is below
    ``group_size`` (3 coordinates, say) it is ``conv(in_channels, out_channels)`` itself, one more
    hop, with norm and activation. A lazy layer keeps to the pointwise map.

    Args:
        in_channels: Channels of a node; -1 takes them from the first input; a pair for sources and
            targets that differ, which get a pointwise map each.
        out_channels: Channels out.
        conv: ``(in_channels, out_channels, **kwargs) -> Module``: a convolution with a ``groups``
            argument, or any PyG convolution, class or factory, which is then turned grouped (see
            :func:`make_grouped_conv`).
        group_size: Channels per group on every level but the last, :math:`s_g`.
        coarse_size: Levels are halved until they are this narrow, :math:`s_c`; ``None`` means
            ``group_size``.
        min_levels: Coarser levels to build even where the width is already small.
        norm: Norm of the coarser levels and after every prolongation, as PyG resolves it.
        norm_kwargs: Arguments of ``norm``.
        act: Activation of the coarser levels, as PyG resolves it.
        strategy: How ``conv`` is turned grouped: ``"auto"``, ``"wide"``, ``"vmap"`` or ``"loop"``,
            as :func:`make_grouped_conv`.
        cycle: ``"multiplicative"``, the paper's, or ``"additive"``.
        **kwargs: Passed to ``conv``.

    Shape:
        - ``x``: ``(N, in_channels)``, or a pair of sources and targets where ``conv`` takes one.
        - Other inputs: what ``conv`` takes; they are passed to the convolution of every level.
        - Returns ``(N, out_channels)``, a row a target node.

    Cost:
        As :class:`MGICBlock`, :math:`K` being the weights of ``conv(out_channels, out_channels)``;
        an additive cycle as :class:`StructuredLinear`.

    Raises:
        ValueError: If a width or size is below 1, ``cycle`` or ``strategy`` is unknown or not right
            for ``conv``, ``conv`` caches features, or the input is ``(x, None)``.

    References:
        Sections 3.2 and 4.5.

    Example:
        >>> import torch
        >>> from torch_geometric.nn import SAGEConv
        >>> layer = MGICMessagePassing(64, 64, SAGEConv, group_size=16)
        >>> layer(torch.randn(3, 64), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 64])
        >>> layer.num_hops
        3
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        conv: str | Callable[..., nn.Module],
        *,
        group_size: int = 8,
        coarse_size: int | None = None,
        min_levels: int = 1,
        norm: str | Callable | None = "batch_norm",
        norm_kwargs: dict[str, Any] | None = None,
        act: str | Callable | None = "relu",
        strategy: str = "auto",
        cycle: str = "multiplicative",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        conv = find_conv(conv)
        check_strategy(strategy)
        check_cycle(cycle)
        _check_widths(in_channels, out_channels)
        self.in_channels, self.out_channels, self.cycle = in_channels, out_channels, cycle
        self.entry: nn.Module | None = None
        self.width_changes = nn.ModuleList()
        sizes: dict[str, Any] = {
            "group_size": group_size,
            "coarse_size": coarse_size,
            "min_levels": min_levels,
        }
        if cycle == "additive":
            self.block = make_additive_conv(conv, in_channels, out_channels, **sizes, **kwargs)
            return
        if norm == "batch_norm" and norm_kwargs is None:
            norm_kwargs = {"allow_single_element": True}  # a lone node is a graph, too

        def make_norm(width: int) -> nn.Module:
            if norm is None:
                return nn.Identity()
            return normalization_resolver(norm, width, **(norm_kwargs or {}))

        def make_act() -> nn.Module:
            return nn.Identity() if act is None else activation_resolver(act)

        def make_layer(level: Level) -> nn.Module:
            width, groups = level.outer, level.groups
            layer = make_grouped_conv(conv, width, width, groups, strategy=strategy, **kwargs)
            return layer if level.finest else ConvNormAct(layer, make_norm(level.outer), make_act())

        self.block = MGICBlock(
            out_channels,
            make_layer,
            transfer,
            **sizes,
            make_norm=make_norm,
            make_correction=GraphCorrection,
        )
        widths = in_channels if isinstance(in_channels, tuple) else (in_channels,)
        if len(widths) == 1 and 0 < widths[0] < group_size and widths[0] != out_channels:
            layer = make_grouped_conv(conv, widths[0], out_channels, 1, **kwargs)
            self.entry = ConvNormAct(layer, make_norm(out_channels), make_act())
        else:
            self.width_changes.extend(
                WidthChange(width, out_channels, group_size=group_size) for width in widths
            )

    @property
    def num_hops(self) -> int:
        """Hops from which an output draws: one a level, and one for a dense convolution in front.

        One in an additive cycle. A convolution that reaches several hops by itself multiplies this.
        """
        levels = self.block.levels if isinstance(self.block, MGICBlock) else (None,)
        return len(levels) + (self.entry is not None)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The plan of the cycle; of the first one, where several maps have an additive one each."""
        cycles = (module for module in self.modules() if isinstance(module, MGICBlock))
        return next((cycle.levels for cycle in cycles), ())

    @property
    def plain_conv(self) -> nn.Module:
        """The convolution of the coarsest level, or the only one: not grouped."""
        last = self.block.layers[-1] if isinstance(self.block, MGICBlock) else self.block
        return last.conv if isinstance(last, ConvNormAct) else last

    def reset_parameters(self) -> None:
        """Draw all weights again; the transfers keep their rule."""
        super().reset_parameters()
        for module in (self.entry, self.block, *self.width_changes):
            if module is not None:
                reset_parameters(module)

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor | None],
        edge_index: Tensor | EdgeIndex | Adjacency,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Convolve ``x``; further inputs go to the convolution of every level."""
        if isinstance(self.plain_conv, MessagePassing):  # others may take graphs of other forms
            _check_inputs(x, edge_index)
        if not isinstance(self.block, MGICBlock):
            return self.block(x, edge_index, *args, **kwargs)
        if isinstance(x, tuple) and x[1] is None:
            raise ValueError(
                "MGICMessagePassing corrects the features of the targets and needs both, "
                "got (x_source, None); pass (x_source, x_target)"
            )
        finest = self.block.layers[0]
        if isinstance(finest, PreparedConv):  # once for all levels
            edge_index, args, kwargs = finest.prepare(x, edge_index, *args, **kwargs), (), {}
        if self.entry is not None:
            x = self.entry(x, edge_index, *args, **kwargs)
            return self.block(x, edge_index, *args, **kwargs)
        source, target = x if isinstance(x, tuple) else (None, x)
        target = self.width_changes[-1](target)
        if source is not None:
            source = self.width_changes[0](source)
        return self.block(target, edge_index, *args, source=source, **kwargs)

    def __repr__(self) -> str:
        """Widths, levels and the finest convolution."""
        widths = f"{type(self).__name__}({self.in_channels}, {self.out_channels}"
        if not isinstance(self.block, MGICBlock):
            return f"{widths}, cycle={self.cycle!r}, conv={self.block})"
        levels = " > ".join(f"{level.outer}/{level.groups}" for level in self.block.levels)
        return f"{widths}, channels/groups={levels}, conv={self.block.layers[0]})"


class ConvNormAct(Differing):
    """A graph convolution, a norm and an activation, in Table 10's order.

    Args:
        conv: Takes the features, the graph and whatever else the layer is given.
        norm: Takes the features.
        act: Takes the features.

    Shape:
        - Returns what ``conv`` returns.
    """

    def __init__(self, conv: nn.Module, norm: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.act = conv, norm, act

    def forward(self, x: Tensor | tuple[Tensor, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Convolve, normalize, activate."""
        return norm_act(self.norm, self.act, self.conv(x, *args, **kwargs))

    def less(
        self, subtrahend: Tensor, x: Tensor | tuple[Tensor, Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The same less ``subtrahend``: one pass where only a differential convolution is left."""
        if (
            may_skip(self, ConvNormAct)
            and may_skip(self.conv, DiffGCNConv)
            and may_skip(self.norm, nn.Identity)
            and may_skip(self.act, nn.Identity)
        ):
            return self.conv.less(subtrahend, x, *args, **kwargs)  # type: ignore[arg-type]
        return self(x, *args, **kwargs) - subtrahend


def _check_inputs(x: Any, edge_index: Any) -> None:
    """Say in this layer's words what the convolutions inside would stumble over."""
    source, target = x if isinstance(x, tuple) and len(x) == 2 else (x, None)
    check_tensors(x=source, x_target=target)
    if type(edge_index).__module__ == "numpy":
        check_tensors(edge_index=edge_index)
    if not isinstance(edge_index, Tensor) or edge_index.layout is not torch.strided:
        return
    if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.is_floating_point():
        given = f"{tuple(edge_index.shape)} of {edge_index.dtype}"
        advice = ""
        if edge_index.dim() == 2 and edge_index.size(0) == edge_index.size(1) == len(source):
            advice = "; torch_geometric.utils.dense_to_sparse reads a dense adjacency"
        elif edge_index.dim() == 2 and edge_index.size(1) == 2:
            advice = "; edge_index.t() turns a list of pairs"
        raise ValueError(
            "edge_index must be (2, E) integers, sources above targets, an EdgeIndex, or sparse, "
            f"got {given}{advice}"
        )


def _check_widths(in_channels: int | tuple[int, int], out_channels: int) -> None:
    widths = in_channels if isinstance(in_channels, tuple) else (in_channels,)
    valid = all(isinstance(width, int) and (width > 0 or width == -1) for width in widths)
    if len(widths) not in (1, 2) or not valid:
        raise ValueError(
            f"in_channels must be at least 1, -1 (lazy) or a pair of those, got {in_channels!r}"
        )
    check_counts(out_channels=out_channels)
