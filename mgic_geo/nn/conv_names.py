"""Graph convolutions by name, and what is no convolution said so."""

from __future__ import annotations

from collections.abc import Callable

import torch_geometric.nn.conv as convolutions
from torch import nn
from torch_geometric.nn.conv import MessagePassing

from mgic_geo.ops.inputs import did_you_mean

ConvMaker = Callable[..., nn.Module]


def _short(name: str) -> str:
    return name.lower().replace("_", "").removesuffix("conv")


def find_conv(conv: str | ConvMaker) -> ConvMaker:
    """Return what makes convolutions, which may be named as in PyG, with or without ``Conv``.

    Raises:
        ValueError: There is no convolution of this name, or a module is given in place of a class.

    Example:
        >>> find_conv("gcn"), find_conv("SAGEConv").__name__
        (<class 'torch_geometric.nn.conv.gcn_conv.GCNConv'>, 'SAGEConv')
    """
    if isinstance(conv, nn.Module):
        name = type(conv).__name__
        raise ValueError(
            f"conv must be a class such as {name}, got a module; pass {name} and its options"
        )
    if not isinstance(conv, str):
        if not callable(conv):
            raise ValueError(f"conv must be a class or a name such as 'GCNConv', got {conv!r}")
        return conv
    known = {
        _short(name): made
        for name, made in vars(convolutions).items()
        if isinstance(made, type) and issubclass(made, MessagePassing)
    }
    if _short(conv) in known:
        return known[_short(conv)]
    raise ValueError(f"PyG has no convolution {conv!r}{did_you_mean(_short(conv), known)}")
