"""The sizes of the rivals with which they cost what MGIC costs, in weights or in time."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from mgic_geo import num_weights
from scripts.benchmarks.machine import median_time
from scripts.experiments.rivals.units import (
    ADDITIVE,
    DENSE,
    EXPANSION,
    MGIC,
    RIVALS,
    ROWS,
    WIDTH,
    Unit,
)

WARMUP, REPEATS = 2, 9


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
    if kind == "BTT":
        return [{"inner": m, "rank": rank} for m in inners for rank in (2, 3, 4)]
    if kind == "BLAST":
        ranks = range(2, 65, 2)
        return [{"inner": m, "blocks": b, "rank": r} for m in inners for b in (4, 8) for r in ranks]
    if kind == "Monarch":
        return [{"inner": m, "blocks": b} for m in inners for b in (2, 4, 8, 16)]
    if kind == "MGICLinear":
        shapes = [(8, 16), (8, 32), (8, 64), (16, 32), (16, 64), (32, 64)]
        return [
            {"inner": m, "group_size": group_size, "coarse_size": coarse_size}
            for m in inners
            for group_size, coarse_size in shapes
        ]
    return [
        {"inner": copies * WIDTH, "products": products}
        for products in (1, 2, 3)
        for copies in (4, 1, 2, 3, 5, 6, 7, 8)
    ]


def of_equal_weights(kind: str) -> Unit:
    """The size of a rival with MGIC's weights; the first in the list among the equally near."""
    target = num_weights(MGIC.make())

    def distance(options: dict[str, int]) -> float:
        weights = num_weights(Unit(kind, options=options).make())
        return round(abs(weights / target - 1), 2)  # within a percent the usual width is preferred

    return Unit(kind, "weights", min(sizes(kind), key=distance))


def of_equal_time(kind: str, target: float) -> Unit:
    """The size of a rival whose training step takes as long as MGIC's, ``target`` seconds.

    The sizes of every second number are ordered by weights and halved until one is left; of those,
    the nearest in time is taken.
    """
    families: dict[Any, list[dict[str, int]]] = {}
    for options in sizes(kind):
        second = next((v for k, v in options.items() if k not in ("inner", "rank")), None)
        families.setdefault(second, []).append(options)
    found = []
    for family in families.values():
        family.sort(key=lambda options: num_weights(Unit(kind, options=options).make()))
        low, high = 0, len(family) - 1
        while low < high:
            middle = (low + high) // 2
            if step_seconds(Unit(kind, options=family[middle]).make()) < target:
                low = middle + 1
            else:
                high = middle
        seconds = step_seconds(Unit(kind, options=family[low]).make())
        found.append((abs(seconds / target - 1), low, family[low]))
    return Unit(kind, "time", min(found)[2])


def match() -> list[dict[str, Any]]:
    """All units of the comparison, as plain values; takes about a minute of measuring."""
    target = step_seconds(MGIC.make())
    units = [DENSE, MGIC, ADDITIVE, *(of_equal_weights(kind) for kind in RIVALS)]
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
    return median_time(run, REPEATS, WARMUP, clock=time.process_time)
