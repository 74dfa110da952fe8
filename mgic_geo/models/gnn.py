"""MGIC layers behind PyG's model interface."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import CachedLoader, NeighborLoader
from torch_geometric.nn.models.basic_gnn import BasicGNN
from tqdm import tqdm

from mgic_geo.nn.message_passing import MGICMessagePassing


class MGICGNN(BasicGNN):
    r"""A stack of :class:`MGICMessagePassing` layers with the interface of PyG's basic models.

    Everything that PyG's basic models take works: dropout, norms, jumping knowledge,
    ``inference``. A layer reaches several hops, so that sampled subgraphs have to be larger: give
    ``NeighborLoader`` one entry of ``num_neighbors`` a hop, ``[10] * model.num_hops``, and the
    loader of :meth:`inference`, which runs one layer at a time, ``[-1] * model.num_layer_hops``.

    Args:
        in_channels: Channels of a node; -1 takes them from the first input.
        hidden_channels: Width of the hidden layers.
        num_layers: Number of MGIC layers.
        out_channels: Width of the last layer; ``None`` means ``hidden_channels``.
        conv: As for :class:`MGICMessagePassing`.
        **kwargs: ``dropout``, ``act``, ``norm``, ``jk`` and so on, between the layers, as PyG's
            ``BasicGNN`` takes them; ``level_norm`` and ``level_act``, inside the layers, and
            ``group_size``, ``coarse_size``, ``min_levels``, ``cycle`` and arguments of ``conv``, as
            :class:`MGICMessagePassing` takes them.

    Shape:
        - ``x``: ``(N, in_channels)``. ``edge_index``: ``(2, E)``. Returns ``(N, out_channels)``.

    Example:
        >>> import torch
        >>> from torch_geometric.nn import GCNConv
        >>> model = MGICGNN(16, 64, num_layers=2, out_channels=4, conv=GCNConv, group_size=16)
        >>> model(torch.randn(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 4])
        >>> model.num_hops, model.num_layer_hops
        (5, 3)
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
        takes = inspect.signature(first.plain_conv.forward).parameters
        self.supports_edge_weight = "edge_weight" in takes
        self.supports_edge_attr = "edge_attr" in takes

    @property
    def num_hops(self) -> int:
        """Hops from which an output draws, for neighbor sampling."""
        return sum(conv.num_hops for conv in self.convs)  # type: ignore[misc]

    @property
    def num_layer_hops(self) -> int:
        """Hops of the layer that reaches farthest, for the sampling of :meth:`inference`."""
        return max(conv.num_hops for conv in self.convs)  # type: ignore[type-var]

    @torch.no_grad()
    def inference(
        self,
        loader: NeighborLoader,
        device: str | torch.device | None = None,
        embedding_device: str | torch.device = "cpu",
        progress_bar: bool = False,
        cache: bool = False,
    ) -> Tensor:
        """Outputs of all nodes, layer after layer, each on subgraphs that ``loader`` samples.

        Args:
            loader: Every node once, in any order, with the whole neighborhoods of
                :attr:`num_layer_hops` hops: ``num_neighbors=[-1] * model.num_layer_hops``.
            device: Where the layers run; where the features are, by default.
            embedding_device: Where the features of all nodes are kept between layers.
            progress_bar: Whether to show one for each layer.
            cache: Whether to sample once and keep the subgraphs for all layers.

        Shape:
            - Returns ``(N, out_channels)``.

        Raises:
            ValueError: If ``loader`` samples less, the model is in training mode, or its jumping
                knowledge needs the outputs of more than one layer.
        """
        self._check_inference(loader)
        data: Any = loader.data
        x: Tensor = data.x.to(embedding_device)
        device = x.device if device is None else torch.device(device)
        batches = CachedLoader(loader, device, _adjacency_only) if cache else loader
        for index in range(self.num_layers):
            out: Tensor | None = None
            for batch in tqdm(batches, desc=f"layer {index}", disable=not progress_bar):
                nodes = batch.n_id.to(embedding_device)
                edge_index = batch.adj_t if "adj_t" in batch else batch.edge_index
                part = self.inference_per_layer(
                    index, x[nodes].to(device), edge_index.to(device), batch.batch_size
                ).to(embedding_device)
                out = part.new_empty(x.size(0), part.size(1)) if out is None else out
                out[nodes[: batch.batch_size]] = part
            assert out is not None
            x = out
        return x

    def _check_inference(self, loader: NeighborLoader) -> None:
        if self.training:
            raise ValueError("inference runs in evaluation mode: call eval() on the model first")
        if self.jk_mode not in (None, "last"):
            raise ValueError(f"jk must be None or 'last' for inference, got {self.jk_mode!r}")
        sampler: Any = loader.node_sampler
        hops, sampled = self.num_layer_hops, sampler.num_neighbors.get_values()
        if len(sampled) < hops or any(count != -1 for count in sampled):
            raise ValueError(
                f"the loader must sample num_neighbors=[-1] * {hops}, as a layer reaches {hops} "
                f"hops, got {sampled}"
            )
        seeds, nodes = len(loader.dataset), loader.data.num_nodes  # type: ignore[arg-type]
        if seeds != nodes:
            raise ValueError(f"the loader must go through all {nodes} nodes, got {seeds}")

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


def _adjacency_only(batch: Data) -> Data:
    kept = ("n_id", "batch_size", "adj_t" if "adj_t" in batch else "edge_index")
    return Data.from_dict({name: batch[name] for name in kept})
