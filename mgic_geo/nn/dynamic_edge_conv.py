"""PyG's edge convolution on a graph that is found again in every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch_geometric.nn import EdgeConv

from mgic_geo.graphs.between import knn
from mgic_geo.levels import check_counts


class DynamicEdgeConv(EdgeConv):
    r"""Edge convolution over the ``k`` nearest neighbors in feature space.

    .. math::
        y_i = \max_{j \in \mathcal{N}_k(i)} h([x_i, x_j - x_i])

    As in PyTorch Geometric a point is among its own neighbors. The graph passes no gradient.

    Args:
        nn: The map :math:`h`, on ``2 * in_channels`` channels.
        k: Neighbors per point.
        aggr: How messages are put together.
        num_workers: Not used: PyTorch's threads search.
        **kwargs: Of ``torch_geometric.nn.MessagePassing``.

    Shape:
        - ``x``: ``(N, in_channels)`` or a pair of sources and targets. ``batch``: ``(N,)``, or a
          pair. Returns ``(N, out_channels)``.

    Raises:
        ValueError: ``k`` is below 1; when called, as :func:`~mgic_geo.graphs.knn`.

    References:
        Wang et al., Dynamic graph CNN for learning on point clouds (the paper's [65]);
        ``torch_geometric.nn.DynamicEdgeConv``, which is called the same way.

    Example:
        >>> import torch
        >>> conv = DynamicEdgeConv(torch.nn.Linear(6, 8), k=4)
        >>> conv(torch.rand(20, 3)).shape
        torch.Size([20, 8])
    """

    def __init__(
        self,
        nn: Callable[..., Any],
        k: int,
        aggr: str = "max",
        num_workers: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(nn, aggr, **kwargs)
        check_counts(k=k)
        self.k = k

    def forward(  # type: ignore[override]
        self,
        x: Tensor | tuple[Tensor, Tensor],
        batch: Tensor | tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Find the graph and convolve ``x`` over it."""
        source, target = x if isinstance(x, tuple) else (x, x)
        clouds = batch if isinstance(batch, tuple) else (batch, batch)
        edge_index = knn(source, target, self.k, *clouds).flip(0)
        return self.propagate(edge_index, x=(source, target), size=(len(source), len(target)))

    def __repr__(self) -> str:
        """The map and the number of neighbors."""
        return f"{type(self).__name__}(nn={self.nn}, k={self.k})"
