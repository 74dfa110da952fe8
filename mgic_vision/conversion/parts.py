"""Parts of a residual block, and the modules that replace it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from mgic_geo.levels import MGICBlock


@dataclass(frozen=True)
class Parts:
    """What ``act(x + after(branch(x)))`` is made of.

    Args:
        branch: The map :math:`F`, of the block's own modules in their order.
        after: What scales or drops the branch's output.
        act: What follows the sum.
        is_image: Whether features are ``(B, C, H, W)``; otherwise the channels are last.
        is_residual: Whether the block adds ``x`` itself; otherwise it is the branch of a residual
            connection that stays as it is.
    """

    branch: nn.Module
    after: nn.Module = field(default_factory=nn.Identity)
    act: nn.Module = field(default_factory=nn.Identity)
    is_image: bool = True
    is_residual: bool = True


#: Names of attention over channels, which is kept on the finest level only.
SQUEEZES = ("SqueezeExcite", "SqueezeExcitation", "SEModule", "EffectiveSEModule")


def is_squeeze(module: nn.Module) -> bool:
    """Whether this is attention over channels."""
    return type(module).__name__ in SQUEEZES


def sequence(*modules: nn.Module | None) -> nn.Sequential:
    """The modules that are there and do something, in order."""
    return nn.Sequential(
        *(module for module in modules if module is not None and type(module) is not nn.Identity)
    )


class CycleResidual(nn.Module):
    """A cycle in place of a residual block: ``act(x + after(what the cycle adds))``.

    Args:
        cycle: Of residual layers.
        after: What scales or drops that.
        act: What follows the sum.

    Shape:
        - ``x``: what the cycle takes. Returns the same shape.
    """

    def __init__(self, cycle: MGICBlock, after: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.cycle, self.after, self.act = cycle, after, act

    def forward(self, x: Tensor) -> Tensor:
        """Run the cycle on ``x``."""
        return self.act(x + self.after(self.cycle.change(x)))


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
