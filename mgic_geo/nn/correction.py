"""The correction of a cycle on graphs and vectors."""

from __future__ import annotations

from torch import Tensor, nn

from mgic_geo.levels import Correction
from mgic_geo.nn.grouped_linear import GroupedLinear
from mgic_geo.nn.norm_act import norm_act, training_batch_norm
from mgic_geo.ops.add_normalized_linear import train_correction
from mgic_geo.ops.grouped_linear import grouped_linear
from mgic_geo.ops.operator import is_hooked

CORRECTION_SCALE = 0.1


class GraphCorrection(Correction):
    """A correction that trains with its norm and its sum in one operation where that is possible.

    Args:
        transfer: The prolongation.
        norm: ``None`` for no norm. It starts at a tenth of its scale.

    Shape:
        - ``change``: ``(..., C)``. ``x``: what ``transfer`` returns. Returns the same.
    """

    def __init__(self, transfer: nn.Module, norm: nn.Module | None) -> None:
        super().__init__(transfer, norm, scale=CORRECTION_SCALE)

    def forward(self, change: Tensor, x: Tensor | None = None) -> Tensor:
        """The correction, added to ``x`` where that is given."""
        transfer = self.transfer
        if (
            x is None
            or change.dim() != 2
            or type(transfer) is not GroupedLinear
            or change.size(1) != transfer.in_channels
            or is_hooked(transfer, self.norm)
        ):
            correction = norm_act(self.norm, None, transfer(change))
            return correction if x is None else x + correction
        if type(self.norm) is nn.Identity:  # none, or folded into the transfer
            return grouped_linear(change, transfer.weight, transfer.bias, x)
        norm = training_batch_norm(self.norm, x)
        if norm is None or transfer.bias is not None:
            return x + norm_act(self.norm, None, transfer(change))
        return train_correction(x, change, transfer.weight, norm)
