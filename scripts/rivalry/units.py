"""The unit under test, a feed-forward map C -> m -> C, by MGIC and by its rivals, at equal cost."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mgic_geo import MGICBlock, Residual, feed_forward, num_weights, transfer
from mgic_geo.correction_norm import CorrectionNorm
from scripts.rivalry.maps import (
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
WARMUP, REPEATS = 2, 9

Map = Callable[[int, int], nn.Module]


class CycleUnit(nn.Module):
    """A cycle of feed-forward units; returns what it adds to ``x``.

    Args:
        width: Channels in and out.
        inner: Inner width of the finest level.
        group_size: Channels per group.
        coarse_size: Width of the coarsest level.
    """

    def __init__(self, width: int, *, inner: int, group_size: int, coarse_size: int) -> None:
        super().__init__()
        self.block = MGICBlock(
            width,
            lambda level: Residual(feed_forward(level)),
            transfer,
            inner=inner,
            group_size=group_size,
            coarse_size=coarse_size,
            make_norm=lambda width: CorrectionNorm(nn.LayerNorm(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the cycle."""
        return self.block.change(x)


def pair(make_map: Map, width: int, inner: int, last: Map | None = None) -> nn.Sequential:
    """Out to the inner width, activation, and back."""
    return nn.Sequential(make_map(width, inner), nn.GELU(), (last or make_map)(inner, width))


def dense(width: int, *, inner: int) -> nn.Module:
    """The unit as a transformer has it."""
    return pair(nn.Linear, width, inner)


def low_rank_unit(width: int, *, inner: int, rank: int) -> nn.Module:
    """Both matrices of low rank."""
    return pair(partial(low_rank, rank=rank), width, inner)


def shuffled(width: int, *, inner: int, groups: int) -> nn.Module:
    """Grouped maps with a shuffle between them."""
    return pair(
        partial(ShuffledLinear, groups=groups),
        width,
        inner,
        last=partial(ShuffledLinear, groups=groups),
    )


def ghost(width: int, *, inner: int) -> nn.Module:
    """Two ghost modules."""
    return pair(GhostLinear, width, inner)


def monarch(width: int, *, inner: int, blocks: int) -> nn.Module:
    """Two Monarch matrices."""
    return pair(partial(MonarchLinear, blocks=blocks), width, inner)


def butterfly(width: int, *, inner: int, products: int) -> nn.Module:
    """Two butterfly matrices."""
    return pair(partial(ButterflyLinear, products=products), width, inner)


MAKERS: dict[str, Callable[..., nn.Module]] = {
    "dense": dense,
    "MGIC": CycleUnit,
    "narrow": dense,
    "low rank": low_rank_unit,
    "shuffle": shuffled,
    "Ghost": ghost,
    "Monarch": monarch,
    "butterfly": butterfly,
}
RIVALS = tuple(kind for kind in MAKERS if kind not in ("dense", "MGIC"))


@dataclass(frozen=True)
class Unit:
    """A unit of the comparison.

    Args:
        kind: A key of ``MAKERS``.
        matched: ``"weights"`` or ``"time"``, what it shares with MGIC; empty for MGIC itself and
            for the dense unit that MGIC has on its finest level, without groups.
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
MGIC = Unit(
    "MGIC",
    options={
        "inner": EXPANSION * WIDTH,
        "group_size": GROUP_SIZE,
        "coarse_size": COARSE_SIZE,
    },
)


def sizes(kind: str) -> list[dict[str, int]]:
    """The sizes of a rival among which one of MGIC's cost is looked for.

    Where there is a second number beside the inner width, the inner width is that of the dense unit
    first, and others follow.
    """
    usual = EXPANSION * WIDTH
    inners = [usual, *(m for m in range(WIDTH, 2 * usual + 1, 32) if m != usual)]
    if kind in ("narrow", "Ghost"):
        return [{"inner": inner} for inner in range(16, 12 * WIDTH + 1, 8)]
    if kind == "low rank":
        return [{"inner": usual, "rank": rank} for rank in range(1, 2 * WIDTH)]
    if kind == "shuffle":
        return [{"inner": m, "groups": g} for m in inners for g in (2, 4, 8, 16)]
    if kind == "Monarch":
        return [{"inner": m, "blocks": b} for m in inners for b in (2, 4, 8, 16)]
    return [
        {"inner": copies * WIDTH, "products": products}
        for products in (1, 2, 3)
        for copies in (4, 2, 3, 5, 6, 7, 8)
    ]


def of_equal_weights(kind: str) -> Unit:
    """The size of a rival with MGIC's weights; the first in the list among the equally near."""
    target = num_weights(MGIC.make())

    def distance(options: dict[str, int]) -> float:
        weights = num_weights(MAKERS[kind](WIDTH, **options))
        return round(abs(weights / target - 1), 2)  # within a percent the usual width is preferred

    return Unit(kind, "weights", min(sizes(kind), key=distance))


def of_equal_time(kind: str, target: float) -> Unit:
    """The size of a rival whose training step takes as long as MGIC's.

    The sizes of every second number are ordered by weights and halved until one is left; of those,
    the nearest in time is taken.

    Args:
        kind: The rival.
        target: Seconds of MGIC's step.
    """
    families: dict[Any, list[dict[str, int]]] = {}
    for options in sizes(kind):
        second = next((v for k, v in options.items() if k not in ("inner", "rank")), None)
        families.setdefault(second, []).append(options)
    found = []
    for family in families.values():
        family.sort(key=lambda options: num_weights(MAKERS[kind](WIDTH, **options)))
        low, high = 0, len(family) - 1
        while low < high:
            middle = (low + high) // 2
            if step_seconds(MAKERS[kind](WIDTH, **family[middle])) < target:
                low = middle + 1
            else:
                high = middle
        seconds = step_seconds(MAKERS[kind](WIDTH, **family[low]))
        found.append((abs(seconds / target - 1), low, family[low]))
    return Unit(kind, "time", min(found)[2])


def match() -> list[dict[str, Any]]:
    """All units of the comparison, as plain values; takes about a minute of measuring."""
    target = step_seconds(MGIC.make())
    units = [DENSE, MGIC, *(of_equal_weights(kind) for kind in RIVALS)]
    units += [of_equal_time(kind, target) for kind in RIVALS]
    return [asdict(unit) for unit in units]


def step_seconds(unit: nn.Module) -> float:
    """Processor seconds of a forward and backward pass over ``ROWS`` rows, on one thread."""
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    return _median(lambda: unit(x).sum().backward())


@torch.no_grad()
def inference_seconds(unit: nn.Module) -> float:
    """Processor seconds of a forward pass over ``ROWS`` rows, on one thread."""
    x = torch.randn(ROWS, WIDTH)
    return _median(lambda: unit(x))


def _median(run: Callable[[], object]) -> float:
    """Of processor time, which other processes disturb least."""
    for _ in range(WARMUP):
        run()
    return statistics.median(_clock(run) for _ in range(REPEATS))


def _clock(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def read_units(rows: Iterable[dict[str, Any]]) -> list[Unit]:
    """The units that :func:`match` found."""
    return [Unit(**row) for row in rows]
