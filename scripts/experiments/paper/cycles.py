"""Other ways to run a cycle, for what the paper leaves open; no network of the packages has them.

Each takes a finished :class:`mgic_geo.MGICBlock` and returns its replacement, with the
same weights wherever it has the same layers: with the same seed two variants then differ in nothing
but the question that is asked.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from mgic_geo import MGICBlock
from mgic_geo.levels import Level, group_count, reset_parameters
from mgic_vision.blocks import dense_level
from mgic_vision.transfers import TransferConv2d

MakeLayer = Callable[[Level], nn.Module]
Change = Callable[[MGICBlock, MakeLayer], nn.Module]


def change_cycles(network: nn.Module, change: Change, make_layer: MakeLayer) -> None:
    """Put what ``change`` makes of it in place of every cycle of a network, which is changed."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MGICBlock):
                setattr(parent, name, change(child, make_layer))


def unchanged(block: MGICBlock, make_layer: MakeLayer) -> nn.Module:
    """The cycle as it is."""
    return block


def interleaved(block: MGICBlock, make_layer: MakeLayer) -> nn.Module:
    """Transfers whose group i has the channels i, i + g, i + 2 g, ... in place of neighbors."""
    for index, restrict in enumerate(block.restrict):
        block.restrict[index] = _interleave(restrict)
    for correction in block.corrections:
        correction.transfer = _interleave(correction.transfer)
    return block


def _interleave(transfer: nn.Conv2d) -> nn.Sequential:
    deal = nn.ChannelShuffle(transfer.in_channels // transfer.groups)
    return nn.Sequential(deal, transfer, nn.ChannelShuffle(transfer.groups))


def norm_after_restriction(block: MGICBlock, make_layer: MakeLayer) -> nn.Module:
    """A norm after R, too."""
    for index, restrict in enumerate(block.restrict):
        block.restrict[index] = nn.Sequential(restrict, nn.BatchNorm2d(restrict.out_channels))
    return block


def initial_transfers(
    block: MGICBlock, make_layer: MakeLayer, *, init: Literal["uniform", "constant"]
) -> nn.Module:
    """R and P that start by another rule of :func:`mgic_geo.levels.init_transfer_`."""
    for transfer in (*block.restrict, *block.prolong):
        transfer.init = init
        transfer.reset_parameters()
    return block


def zero_scale(block: MGICBlock, make_layer: MakeLayer) -> nn.Module:
    """The scale of the norm after P starts at 0, so that the coarse levels add nothing at first."""
    for norm in block.norms:
        nn.init.zeros_(norm.weight)
    return block


def any_groups(block: MGICBlock, make_layer: MakeLayer, *, group_size: int) -> nn.Module:
    """The group rule without the demand that groups become fewer from level to level."""
    block.levels = tuple(
        level
        if level.coarsest
        else replace(level, groups=group_count(level.outer, level.inner, group_size=group_size))
        for level in block.levels
    )
    block.layers = nn.ModuleList(make_layer(level) for level in block.levels)
    for index, (fine, coarse) in enumerate(zip(block.levels, block.levels[1:], strict=False)):
        groups = math.gcd(fine.groups, fine.outer, coarse.outer)
        block.restrict[index] = TransferConv2d(fine.outer, coarse.outer, groups)
        block.corrections[index].transfer = TransferConv2d(coarse.outer, fine.outer, groups)
    return block


def shared_transfers(block: MGICBlock, make_layer: MakeLayer) -> nn.Module:
    """P with the weights of R, transposed; the norm after P sets their scale."""
    for index, restrict in enumerate(block.restrict):
        block.corrections[index].transfer = Transposed(restrict)
    return block


class Transposed(nn.Module):
    """The transpose of a restriction, whose weights stay its own.

    Shape:
        - ``x``: ``(B, coarse, H, W)``. Returns ``(B, fine, H, W)``.
    """

    def __init__(self, transfer: nn.Conv2d) -> None:
        super().__init__()
        self.transfer = transfer

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the transposed weights."""
        return functional.conv_transpose2d(x, self.transfer.weight, groups=self.transfer.groups)


class WholeFeatures(nn.Module):
    r"""The cycle in which P carries up the coarse features and not what changed in them.

    .. math::
        y_j = B_j\bigl(x_j + N_j(P_j y_{j+1})\bigr)

    Shape:
        - As :class:`mgic_geo.MGICBlock`, on images.

    References:
        Section 3.3, "The importance of up-sampled residuals".
    """

    def __init__(self, block: MGICBlock, make_layer: MakeLayer) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Run the cycle."""
        features = [x]
        for restrict in self.block.restrict:
            features.append(restrict(features[-1]))
        y = self.block.layers[-1](features.pop())
        steps = zip(self.block.layers, self.block.prolong, self.block.norms, strict=False)
        for layer, prolong, norm in reversed(list(steps)):
            y = layer(features.pop() + norm(prolong(y)))
        return y


class BothWays(nn.Module):
    r"""The cycle with a layer :math:`D_j` in front of every restriction: relaxation both ways.

    .. math::
        x'_j = D_j(x_j), \qquad x_{j+1} = R_j x'_j, \qquad
        y_j = B_j\bigl(x'_j + N_j(P_j (y_{j+1} - x_{j+1}))\bigr)

    Every :math:`D_j` is as :math:`B_j`, with weights of its own.

    Shape:
        - As :class:`mgic_geo.MGICBlock`, on images.
    """

    def __init__(self, block: MGICBlock, make_layer: MakeLayer) -> None:
        super().__init__()
        self.block = block
        self.down = nn.ModuleList(map(copy.deepcopy, block.layers[:-1]))
        for layer in self.down:
            reset_parameters(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Run the cycle."""
        given, relaxed = [x], []
        for layer, restrict in zip(self.down, self.block.restrict, strict=True):
            relaxed.append(layer(given[-1]))
            given.append(restrict(relaxed[-1]))
        y = self.block.layers[-1](given[-1])
        steps = zip(self.block.layers, self.block.prolong, self.block.norms, strict=False)
        for layer, prolong, norm in reversed(list(steps)):
            y = layer(relaxed.pop() + norm(prolong(y - given.pop())))
        return y


def dense(block: MGICBlock, make_layer: MakeLayer) -> nn.Module:
    """The dense layer that the cycle stands for."""
    finest = block.levels[0]
    return make_layer(dense_level(finest.outer, finest.inner))


def dense_as_deep(block: MGICBlock, make_layer: MakeLayer) -> nn.Module:
    """As many dense layers in a row as the cycle has levels."""
    return nn.Sequential(*(dense(block, make_layer) for _ in block.levels))
