"""Convolutions that prepare a graph once for all levels of a cycle."""

from __future__ import annotations

from typing import Any

from torch_geometric.nn import MessagePassing


class PreparedConv(MessagePassing):
    """A graph convolution that takes its graph in a form of its own, too."""

    def shows_messages(self) -> bool:
        """Whether an explainer, or one of PyG's hooks, wants to see what every edge says."""
        tables = (
            *(self._propagate_forward_pre_hooks, self._propagate_forward_hooks),
            *(self._message_forward_pre_hooks, self._message_forward_hooks),
            *(self._aggregate_forward_pre_hooks, self._aggregate_forward_hooks),
        )
        return bool(self.explain) or any(tables)

    def prepare(self, x: Any, edge_index: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what may be passed as ``edge_index``, alone and many times."""
        raise NotImplementedError
