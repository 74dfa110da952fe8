"""Restriction, prolongation and correction on images."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from mgic_geo.levels import Correction, init_transfer_
from mgic_vision.tracing import leaf_of_fx

#: ``(transfer, norm) -> Correction`` whose norm starts at a tenth: the coarse levels are random at
#: first, and networks of many cycles learn slowly where they correct as much as there is.
make_correction = partial(Correction, scale=0.1)


class TransferConv2d(nn.Conv2d):
    """A grouped 1x1 convolution between two levels: no bias, positive rows of sum 1 at the start.

    Args:
        in_channels: Channels of the level it reads.
        out_channels: Channels of the level it writes.
        groups: Groups; they divide both widths.
        init: Rule of :func:`mgic_geo.levels.init_transfer_`.

    Shape:
        - ``x``: ``(B, in_channels, H, W)``. Returns ``(B, out_channels, H, W)``.

    Cost:
        ``in_channels * out_channels / groups`` weights, as many multiply-adds a pixel.

    Raises:
        ValueError: If ``groups`` does not divide both widths, or ``init`` is none of the rules.

    References:
        Section 3.3 ("the restriction and prolongation operators").

    Example:
        >>> import torch
        >>> restrict = TransferConv2d(16, 8, 2)
        >>> restrict(torch.ones(1, 16, 4, 4)).allclose(torch.ones(1, 8, 4, 4))
        True
    """

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, *, init: str = "aggregate"
    ) -> None:
        self.init: str = init  # torch's constructor draws the weights
        super().__init__(in_channels, out_channels, 1, groups=groups, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights again, by the rule given at construction."""
        blocks = (self.groups, self.out_channels // self.groups, self.in_channels // self.groups)
        init_transfer_(self.weight.detach().view(blocks), init=self.init)

    @leaf_of_fx
    def forward(self, input: Tensor) -> Tensor:
        """Map every pixel."""
        return super().forward(input)
