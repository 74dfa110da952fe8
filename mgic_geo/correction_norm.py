"""The norm after a prolongation."""

from __future__ import annotations

from torch import Tensor, nn

from mgic_geo.levels import reset_parameters
from mgic_geo.norm_act import norm_act

CORRECTION_SCALE = 0.1


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
