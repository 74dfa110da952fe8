"""The norm after a prolongation."""

from __future__ import annotations

from torch import Tensor, nn

from mgic_geo.levels import reset_parameters
from mgic_geo.nn.grouped_linear import GroupedLinear
from mgic_geo.nn.norm_act import fusable, is_hooked, move_running_statistics, norm_act
from mgic_geo.ops import native
from mgic_geo.ops.normalized_linear import add_normalized_linear

CORRECTION_SCALE = 0.1
MIN_ROWS = 256  # of a batch below which map and norm run one after the other


class CorrectionNorm(nn.Module):
    """The norm after a prolongation, whose scale starts small.

    At scale 1 the correction would be as large as the features it corrects, and since the coarse
    levels start as random as any layer, mostly noise: networks of many cycles then learn slowly.

    Args:
        norm: Takes the correction; its ``weight``, if it has one, is the scale.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start the norm again, its scale small."""
        reset_parameters(self.norm)
        for name, parameter in self.norm.named_parameters():
            if name.rpartition(".")[2] == "weight":
                nn.init.constant_(parameter, CORRECTION_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the correction."""
        return norm_act(self.norm, None, x)

    def correct(self, addend: Tensor, prolong: nn.Module, x: Tensor) -> Tensor:
        """``addend`` and the norm of what ``prolong`` makes of ``x``; one operation if that can be.

        Shape:
            - ``addend``: what ``prolong`` makes of ``x``. Returns the same.
        """
        norm = fusable(self.norm, addend)
        if (
            norm is None
            or type(prolong) is not GroupedLinear
            or prolong.bias is not None
            or x.shape != (len(x), prolong.in_channels)
            or addend.shape != (len(x), prolong.out_channels)
            or len(x) < MIN_ROWS
            or not native.can_multiply(x, prolong.weight)
            or any(map(is_hooked, (self, prolong)))
        ):
            return addend + self(prolong(x))
        weight, scale, shift = prolong.weight, norm.weight, norm.bias
        y, statistics = add_normalized_linear(addend, x, weight, scale, shift, norm.eps)
        mean, variance = statistics.detach()[:2]
        move_running_statistics(norm, mean, variance, len(x))
        return y
