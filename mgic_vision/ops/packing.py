"""Weights of grouped convolutions as the kernels read them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mgic_vision.ops.kernel import loaded


def pad_channels(x: Tensor, dim: int) -> Tensor:
    """Fill ``dim`` up with zeros to whole vectors of the kernels."""
    missing = -x.size(dim) % loaded().lanes
    return functional.pad(x.movedim(dim, -1), (0, missing)).movedim(-1, dim) if missing else x


def pack_map(weight: Tensor, groups: int) -> Tensor:
    """Lay out the weight of a convolution, group by group.

    Shape:
        - ``weight``: ``(out, in / groups, k, k)``. Returns ``(groups, pieces, k * k, in / groups,
          lanes)``, the outputs of a group in pieces of as many as a vector has lanes.
    """
    by_group = weight.reshape(groups, -1, weight.size(1), weight[0, 0].numel())
    by_piece = pad_channels(by_group, 1).unflatten(1, (-1, loaded().lanes))
    return by_piece.permute(0, 1, 4, 3, 2)


def pack_filter(weight: Tensor, groups: int) -> Tensor:
    """Lay out the weight of a depthwise convolution, ``(channels, 1, k, k)``, in the same way."""
    by_piece = pad_channels(weight.reshape(groups, -1, weight[0].numel()), 1)
    return by_piece.unflatten(1, (-1, loaded().lanes)).transpose(2, 3)


def pack_bias(bias: Tensor | None, channels: int, groups: int) -> Tensor:
    """The bias of a convolution, or zeros: ``(groups, pieces * lanes)``."""
    bias = torch.zeros(channels, dtype=torch.float32) if bias is None else bias
    return pad_channels(bias.reshape(groups, -1), 1)


class Store:
    """One long vector of weights, and where each of them begins in it."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.size = 0

    def add(self, weight: Tensor) -> int:
        """Append ``weight`` and return where it begins; vectors begin at multiples of 16."""
        begin = self.size
        self.parts.append(functional.pad(weight.reshape(-1), (0, -weight.numel() % 16)))
        self.size += self.parts[-1].numel()
        return begin

    def joined(self) -> Tensor:
        """All of it."""
        return torch.cat(self.parts).detach()
