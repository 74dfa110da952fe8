"""Block-diagonal maps with narrow groups, compiled: the product and the gradient of its weight."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from mgic_geo.native import build

ROWS_PER_SHARE = 1024
MAX_SHARES = 64


def num_shares(rows: int) -> int:
    """Shares of the rows whose sums are added up in the end, whatever the number of threads."""
    return min(max(rows // ROWS_PER_SHARE, 1), MAX_SHARES)


def address(x: Tensor | None) -> int:
    """Where a tensor lies; 0 where there is none."""
    return 0 if x is None else x.data_ptr()


class Packing(NamedTuple):
    """How a weight ``(groups, out, parts * in)`` is laid out for the kernel.

    Args:
        begins: First input channel of every piece of as many outputs as a vector has lanes,
            ``(pieces,)``.
        index: Where every number comes from in the flat weight with a zero behind it,
            ``(pieces, parts, inputs, lanes)``.
        inverse: Where every number of the flat weight is in the packed one.
    """

    begins: Tensor
    index: Tensor
    inverse: Tensor

    def pack(self, weight: Tensor) -> Tensor:
        """Returns the packed weight, ``(pieces, parts, inputs, lanes)``."""
        kept = _kept.get(weight)
        if kept is None:
            return self._pack(weight)
        state = weight._version, weight.data_ptr()
        if kept.plan is not self or kept.state != state:
            _kept[weight] = kept = _Kept(self, state, self._pack(weight))
        return kept.packed

    def _pack(self, weight: Tensor) -> Tensor:
        weight, packed = weight.contiguous(), weight.new_empty(self.index.shape)
        build.loaded().mgic_pack(
            *(weight.data_ptr(), weight.numel(), self.index.data_ptr(), packed.numel()),
            *(packed.data_ptr(), 1),
        )
        return packed

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Address of ``begins``, pieces, and inputs of a piece."""
        return self.begins.data_ptr(), self.index.size(0), self.index.size(2)

    def pad(self, bias: Tensor | None) -> Tensor | None:
        """Returns the bias with zeros up to a full piece."""
        missing = 0 if bias is None else self.index.size(3) * self.index.size(0) - bias.numel()
        return bias if bias is None or not missing else functional.pad(bias, (0, missing))

    def unpack(self, sums: Tensor, shape: Sequence[int]) -> Tensor:
        """Returns the weight that several packed ones add up to, ``(shares, *packed)``."""
        weight = sums.new_empty(shape)
        build.loaded().mgic_unpack(
            *(sums.data_ptr(), sums.size(0), self.index.numel(), self.inverse.data_ptr()),
            *(weight.numel(), weight.data_ptr(), 1),
        )
        return weight


class _Kept(NamedTuple):
    plan: Packing | None
    state: tuple[int, int]  # version and address
    packed: Tensor


_kept = WeakIdKeyDictionary()


def keep_packed_(weight: Tensor) -> None:
    """Let a weight stay packed from one product to the next, until it changes.

    Worth it where nobody trains any more: twice the memory, and changes by way of ``weight.data``
    go unnoticed.
    """
    if not weight.is_inference():  # these do not count their changes
        _kept[weight] = _Kept(None, (-1, -1), torch.empty(0))


@lru_cache(maxsize=256)
def packing(groups: int, rows: int, columns: int, parts: int = 1, *, lanes: int) -> Packing:
    """Lay out ``groups`` blocks of ``rows`` outputs by ``parts`` times ``columns`` inputs."""
    width = groups * columns
    outputs = torch.arange(-(-groups * rows // lanes) * lanes).view(-1, 1, 1, lanes)
    group = (outputs // rows).clamp(max=groups - 1)
    begins = group[..., 0].view(-1) * columns
    inputs = int((group[..., -1].view(-1) * columns + columns - begins).max())
    begins = begins.clamp(max=width - inputs)
    channel = begins.view(-1, 1, 1, 1) + torch.arange(inputs).view(-1, 1)
    part = torch.arange(parts).view(-1, 1, 1)
    index = ((group * rows + outputs % rows) * parts + part) * columns + channel % columns
    there = (channel // columns == group) & (outputs < groups * rows)
    size = groups * rows * parts * columns
    index = index.where(there, size)
    inverse = torch.empty(size + 1, dtype=torch.long)
    inverse[index.view(-1)] = torch.arange(index.numel())
    return Packing(begins, index, inverse[:-1].clone())


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a block-diagonal matrix.

    Shape:
        - ``x``: ``(N, groups * in)``, rows at any distance. ``weight``: ``(groups, out, in)``.
          ``bias``: ``(groups * out,)``. Returns ``(N, groups * out)``.
    """
    return _multiply(x, weight, bias, None)


def add_grouped_linear(addend: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same, added to ``addend``, ``(N, groups * out)``, in one pass."""
    return _multiply(x, weight, bias, addend.contiguous())


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, addend: Tensor | None) -> Tensor:
    x = _rows(x)
    plan = packing(*weight.shape, lanes=build.lanes())
    packed, bias = plan.pack(weight), plan.pad(bias)
    y = x.new_empty(x.size(0), weight.size(0) * weight.size(1))
    build.loaded().mgic_grouped_linear(
        *(x.data_ptr(), x.stride(0), x.size(0), *plan.sizes, y.size(1)),
        *(packed.data_ptr(), address(bias), address(addend), y.data_ptr()),
        torch.get_num_threads(),
    )
    return y


def grouped_linear_weight(x: Tensor, grad: Tensor, groups: int) -> Tensor:
    """The gradient of the weight of :func:`grouped_linear`.

    Shape:
        - ``x``: ``(N, groups * in)``. ``grad``: ``(N, groups * out)``. Returns
          ``(groups, out, in)``.
    """
    x, grad = _rows(x), grad.contiguous()
    rows, columns = grad.size(1) // groups, x.size(1) // groups
    plan = packing(groups, rows, columns, lanes=build.lanes())
    sums = grad.new_zeros(num_shares(x.size(0)), *plan.index.shape)
    build.loaded().mgic_grouped_linear_weight(
        *(x.data_ptr(), x.stride(0), x.size(0), *plan.sizes, grad.size(1)),
        *(grad.data_ptr(), sums.data_ptr(), sums.size(0), torch.get_num_threads()),
    )
    return plan.unpack(sums, (groups, rows, columns))


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()
