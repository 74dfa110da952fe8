"""A norm and the activation after it, in one pass over the features where that is possible."""

from __future__ import annotations

from torch import Tensor, nn
from torch_geometric.nn import BatchNorm

from mgic_geo.ops.batch_norm_act import ACTIVATIONS, takes_batch_statistics, train_batch_norm
from mgic_geo.ops.operator import is_hooked


def norm_act(norm: nn.Module, act: nn.Module | None, x: Tensor) -> Tensor:
    """Apply a norm and then an activation.

    A batch norm in training and a ReLU or hard swish are one operation, forward and backward.
    Everything else, and what a hook watches, is called as it is. The running statistics move as
    those of :class:`torch.nn.BatchNorm1d`.

    Args:
        norm: Any module.
        act: Any module, or ``None`` for none.
        x: Features.

    Shape:
        - ``x``: ``(N, C)``. Returns the same.

    Example:
        >>> import torch
        >>> norm_act(nn.BatchNorm1d(1), nn.ReLU(), torch.tensor([[-1.0], [1.0]])).round()
        tensor([[0.],
                [1.]], grad_fn=<RoundBackward0>)
    """
    batch_norm = training_batch_norm(norm, x)
    if batch_norm is None or is_hooked(act) or not (act is None or type(act) in ACTIVATIONS):
        x = norm(x)
        return x if act is None else act(x)
    return train_batch_norm(batch_norm, act, x)


def training_batch_norm(norm: nn.Module, x: Tensor) -> nn.BatchNorm1d | None:
    """The batch norm that ``norm`` is, if it takes the statistics of ``x`` and no hook watches."""
    batch_norm = unwrap_norm(norm)
    if (
        type(norm) in (BatchNorm, nn.BatchNorm1d)
        and type(batch_norm) is nn.BatchNorm1d
        and not is_hooked(norm, batch_norm)
        and x.dim() == 2
        and takes_batch_statistics(batch_norm, x)
    ):
        return batch_norm
    return None


def unwrap_norm(norm: nn.Module) -> nn.Module:
    """Torch's batch norm inside PyG's wrapper; another norm as it is."""
    return norm.module if isinstance(norm, BatchNorm) else norm
