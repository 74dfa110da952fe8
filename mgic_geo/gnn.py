"""MGIC layers behind PyG's model interface."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from torch_geometric.nn.models.basic_gnn import BasicGNN

from mgic_geo.message_passing import ConvNormAct, MGICMessagePassing


class MGICGNN(BasicGNN):
    r"""A stack of :class:`MGICMessagePassing` layers with the interface of PyG's basic models.

    Everything that PyG's basic models take works: dropout, norms, jumping knowledge,
    ``inference``. A layer reaches several hops, so that sampled subgraphs have to be larger: give
    ``NeighborLoader`` one entry of ``num_neighbors`` a hop, ``[10] * model.num_hops``, and the
    loader of :meth:`inference`, which runs one layer at a time, ``[-1] * model.convs[i].num_hops``
    of the deepest layer.

    Args:
        in_channels: Channels of a node; -1 takes them from the first input.
        hidden_channels: Width of the hidden layers.
        num_layers: Number of MGIC layers.
        out_channels: Width of the last layer; ``None`` means ``hidden_channels``.
        conv: As for :class:`MGICMessagePassing`.
        **kwargs: ``dropout``, ``act``, ``norm``, ``jk`` and so on, between the layers, as PyG's
            ``BasicGNN`` takes them; ``level_norm`` and ``level_act``, inside the layers, and
            ``group_size``, ``coarse_size``, ``min_levels`` and arguments of ``conv``, as
            :class:`MGICMessagePassing` takes them.

    Shape:
        - ``x``: ``(N, in_channels)``. ``edge_index``: ``(2, E)``. Returns ``(N, out_channels)``.

    Example:
        >>> import torch
        >>> from torch_geometric.nn import GCNConv
        >>> model = MGICGNN(16, 64, num_layers=2, out_channels=4, conv=GCNConv, group_size=16)
        >>> model(torch.randn(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 4])
        >>> model.num_hops
        5
    """

    supports_edge_weight: bool  # pyright: ignore[reportGeneralTypeIssues]
    supports_edge_attr: bool  # pyright: ignore[reportGeneralTypeIssues]

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        num_layers: int,
        out_channels: int | None = None,
        *,
        conv: Callable[..., nn.Module],
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels, hidden_channels, num_layers, out_channels, conv=conv, **kwargs
        )
        first = next(conv for conv in self.convs if isinstance(conv, MGICMessagePassing))
        coarsest = first.block.layers[-1]  # dense: the convolution as the user wrote it
        plain = coarsest.conv if isinstance(coarsest, ConvNormAct) else coarsest
        takes = inspect.signature(plain.forward).parameters
        self.supports_edge_weight = "edge_weight" in takes
        self.supports_edge_attr = "edge_attr" in takes

    @property
    def num_hops(self) -> int:
        """Hops from which an output draws, for neighbor sampling."""
        return sum(conv.num_hops for conv in self.convs)  # type: ignore[misc]

    def init_conv(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        *,
        level_norm: str | Callable | None = "batch_norm",
        level_act: str | Callable | None = "relu",
        **kwargs: Any,
    ) -> MGICMessagePassing:
        """One layer of the stack."""
        return MGICMessagePassing(
            in_channels, out_channels, norm=level_norm, act=level_act, **kwargs
        )
