"""The unit under test: a norm and a feed-forward map C -> m -> C, by MGIC and by its rivals."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from mgic_geo import MGICBlock, MGICLinear, Residual, feed_forward, transfer
from scripts.experiments.rivals.maps import (
    BlastLinear,
    BlockTensorTrain,
    ButterflyLinear,
    GhostLinear,
    MonarchLinear,
    ShuffledLinear,
    low_rank,
)

WIDTH = 128  # of all networks
EXPANSION = 4  # of the dense unit and of MGIC
ROWS = 1024  # of every training step, of all tasks
GROUP_SIZE, COARSE_SIZE = 16, 32


class CycleUnit(nn.Module):
    """The cycle around the whole block ``x + map(norm(x))``; returns what it adds to ``x``.

    Every level has a norm in front of its map, an activation in it and a residual around it, as the
    one level of a rival has, and the correction is normalized as the paper defines it.
    """

    def __init__(
        self,
        width: int,
        *,
        inner: int,
        group_size: int,
        coarse_size: int,
        cycle: str = "multiplicative",
    ) -> None:
        super().__init__()
        self.block = MGICBlock(
            width,
            lambda level: Residual(after_norm(level.outer, feed_forward(level))),
            transfer,
            inner=inner,
            group_size=group_size,
            coarse_size=coarse_size,
            make_norm=nn.LayerNorm,
            cycle=cycle,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the cycle."""
        return self.block.change(x)


def after_norm(width: int, layer: nn.Module) -> nn.Sequential:
    """The norm that every unit begins with, on every level that it has."""
    return nn.Sequential(OrderedDict(norm=nn.LayerNorm(width), map=layer))


def pair_of(make_map: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Units of norm, map to the inner width, activation, and map back."""

    def make(width: int, *, inner: int, **options: int) -> nn.Module:
        steps = (make_map(width, inner, **options), nn.GELU(), make_map(inner, width, **options))
        return after_norm(width, nn.Sequential(*steps))

    return make


MAKERS: dict[str, Callable[..., nn.Module]] = {
    "dense": pair_of(nn.Linear),
    "MGIC": CycleUnit,
    "MGIC additive": partial(CycleUnit, cycle="additive"),
    "narrow": pair_of(nn.Linear),
    "low rank": pair_of(low_rank),
    "shuffle": pair_of(ShuffledLinear),
    "Ghost": pair_of(GhostLinear),
    "Monarch": pair_of(MonarchLinear),
    "butterfly": pair_of(ButterflyLinear),
    "BTT": pair_of(BlockTensorTrain),
    "BLAST": pair_of(BlastLinear),
    "MGICLinear": pair_of(partial(MGICLinear, cycle="additive")),
}
CYCLES = ("MGIC", "MGIC additive")
RIVALS = tuple(kind for kind in MAKERS if kind not in ("dense", *CYCLES))


@dataclass(frozen=True)
class Unit:
    """A unit of the comparison.

    Args:
        kind: A key of ``MAKERS``.
        matched: ``"weights"`` or ``"time"``, what it shares with MGIC; empty for MGIC itself, in
            both cycles, and for the dense unit that MGIC has on its finest level, without groups.
        options: What it is made with, beside the width.
    """

    kind: str
    matched: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name in tables and of files."""
        return f"{self.kind}-{self.matched}" if self.matched else self.kind

    def make(self) -> nn.Module:
        """Build it."""
        return MAKERS[self.kind](WIDTH, **self.options)


DENSE = Unit("dense", options={"inner": EXPANSION * WIDTH})
_SIZES = {"inner": EXPANSION * WIDTH, "group_size": GROUP_SIZE, "coarse_size": COARSE_SIZE}
MGIC, ADDITIVE = (Unit(kind, options=_SIZES) for kind in CYCLES)
