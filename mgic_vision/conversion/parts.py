"""Parts of a residual block, and the modules that replace it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mgic_geo.levels import MGICBlock


@dataclass(frozen=True)
class Parts:
    """What ``act(shortcut(x) + after(branch(x)))`` is made of.

    Args:
        branch: The map :math:`F`, of the block's own modules in their order.
        after: What scales or drops the branch's output.
        act: What follows the sum.
        is_image: Whether features are ``(B, C, H, W)``; otherwise the channels are last.
        is_residual: Whether the block adds ``x`` itself; otherwise it is the branch of a residual
            connection that stays as it is.
        shortcut: The norm that ``x`` itself goes through, if any, as in MobileOne.
    """

    branch: nn.Module
    after: nn.Module = field(default_factory=nn.Identity)
    act: nn.Module = field(default_factory=nn.Identity)
    is_image: bool = True
    is_residual: bool = True
    shortcut: nn.Module = field(default_factory=nn.Identity)


def is_split_attention(module: nn.Module) -> bool:
    """Whether this is timm's convolution with attention over parts of its result, for ResNeSt."""
    return type(module).__name__ == "SplitAttn"


def taken_apart(module: Any) -> list[nn.Module]:
    """A module as those that it runs one after another, where it is known to hide some."""
    if not is_split_attention(module):
        return [module]
    return [module.conv, module.bn0, module.drop, module.act0, PartsAttention(module)]


def sequence(*modules: nn.Module | None) -> nn.Sequential:
    """The modules that are there and do something, in order."""
    return nn.Sequential(
        *(module for module in modules if module is not None and type(module) is not nn.Identity)
    )


class CycleResidual(nn.Module):
    """A cycle in place of a residual block: ``act(shortcut(x) + after(what the cycle adds))``.

    Args:
        cycle: Of residual layers.
        after: What scales or drops that.
        act: What follows the sum.
        shortcut: What ``x`` itself goes through.

    Shape:
        - ``x``: what the cycle takes. Returns the same shape.
    """

    def __init__(
        self, cycle: MGICBlock, after: nn.Module, act: nn.Module, shortcut: nn.Module
    ) -> None:
        super().__init__()
        self.cycle, self.after, self.act, self.shortcut = cycle, after, act, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Run the cycle on ``x``."""
        return self.act(self.shortcut(x) + self.after(self.cycle.change(x)))


class CycleBranch(nn.Module):
    """What a cycle adds to ``x``, in place of the branch of the user's residual connection.

    Args:
        cycle: Of residual layers.

    Shape:
        - ``x``: what the cycle takes. Returns the same shape.
    """

    def __init__(self, cycle: MGICBlock) -> None:
        super().__init__()
        self.cycle = cycle

    def forward(self, x: Tensor) -> Tensor:
        """Run the cycle on ``x``."""
        return self.cycle.change(x)


class ChannelScale(nn.Module):
    """One learned number a channel, as layer scale has it.

    Args:
        scale: The numbers, in a shape that spreads over the features.
    """

    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of ``x``."""
        return x * self.scale


class PartsAttention(nn.Module):
    """The attention of timm's ``SplitAttn``: weighs the parts of all channels, and adds them.

    Args:
        split: Whose attention it is.

    Shape:
        - ``x``: ``(B, parts * C, H, W)``. Returns ``(B, C, H, W)``.
    """

    def __init__(self, split: Any) -> None:
        super().__init__()
        self.num_parts = split.radix
        self.fc1, self.bn1, self.act1 = split.fc1, split.bn1, split.act1
        self.fc2, self.rsoftmax = split.fc2, split.rsoftmax

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the parts by what is in all of them, and add them up."""
        parts = x.unflatten(1, (self.num_parts, -1))
        pooled = parts.sum(1).mean((2, 3), keepdim=True)
        weights = self.rsoftmax(self.fc2(self.act1(self.bn1(self.fc1(pooled))))).flatten(1)
        return (parts * weights.unflatten(1, (self.num_parts, -1))[..., None, None]).sum(1)


class MeanOfParts(nn.Module):
    """The mean over the parts of all channels.

    Args:
        num_parts: How many they are.

    Shape:
        - ``x``: ``(B, parts * C, H, W)``. Returns ``(B, C, H, W)``.
    """

    def __init__(self, num_parts: int) -> None:
        super().__init__()
        self.num_parts = num_parts

    def forward(self, x: Tensor) -> Tensor:
        """Take the mean."""
        return x.unflatten(1, (self.num_parts, -1)).mean(1)


def coarse_form(squeeze: nn.Module) -> nn.Module:
    """What stands for attention over channels on coarser levels."""
    if isinstance(squeeze, PartsAttention):
        return MeanOfParts(squeeze.num_parts)
    return nn.Identity()
