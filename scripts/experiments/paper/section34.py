"""Section 3.4: what a block costs against its width, dense and as MGIC."""

import argparse
import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from mgic_vision import basic_block, mgic_unit, summary
from mgic_vision.blocks import dense_level
from scripts.benchmarks.tensor_memory import MemoryCounter, kept_bytes
from scripts.benchmarks.timing import race, spread
from scripts.experiments.figures import BLUE, RED, frame
from scripts.experiments.pages import as_png, fill
from scripts.experiments.paper.item import Item, Page

DENSE, GROUP_SIZES = "dense", (8, 16, 32)
WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)
QUANTITIES = {
    "weights": "weights",
    "multiply-adds": "multiply-adds",
    "ms": "time, ms",
    "inference MB": "inference memory, MB",
    "training MB": "memory kept for the backward pass, MB",
}
# color, and a size that shows markers below others
MARKERS = {
    DENSE: (BLUE, "o", 6),
    "s_g = 8": ("#e69f00", "s", 9),
    "s_g = 16": (RED, "D", 6),
    "s_g = 32": ("#cc79a7", "o", 3),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add widths, resolution, and how long to time."""
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--size", type=int, default=14, help="height and width of the maps")
    parser.add_argument("--timed-up-to", type=int, default=1024, help="widest block that is timed")
    parser.add_argument("--repeats", type=int, default=20)


def make_block(kind: str, width: int) -> nn.Module:
    """A residual block of two 3x3 convolutions, or the cycle of it with ``s_c = s_g``."""
    if kind == DENSE:
        return basic_block(dense_level(width))
    group_size = int(kind.removeprefix("s_g = "))
    return mgic_unit(width, width, basic_block, group_size=group_size, coarse_size=group_size)


def make(arguments: argparse.Namespace) -> Page:
    """Count all, time what is not too wide, and fit exponents."""
    kinds = (DENSE, *(f"s_g = {size}" for size in GROUP_SIZES))
    widths = sorted(arguments.widths)
    times = time_blocks(kinds, [w for w in widths if w <= arguments.timed_up_to], arguments)
    rows = [
        make_row(kind, width, arguments.size, times.get((kind, width)))
        for width in widths
        for kind in kinds
    ]
    dense = {row["width"]: row for row in rows if row["block"] == DENSE}
    for row in rows:
        for key in ("inference MB", "training MB"):
            row[f"{key} / dense"] = row[key] / dense[row["width"]][key]
    fits = {quantity: exponents(rows, quantity) for quantity in QUANTITIES}
    notes = fill("section34.md", fits=fits, options=arguments)
    return Page(rows, notes, {"": as_png(draw, rows)}, seeds="0 of the weights")


def make_row(kind: str, width: int, size: int, milliseconds: float | None) -> dict[str, Any]:
    """Counts and memory, on a block without values."""
    with torch.device("meta"):
        block, x = make_block(kind, width), torch.empty(1, width, size, size)
    report = summary(block, (width, size, size))
    with torch.no_grad(), MemoryCounter() as inference:
        block.eval()(x)
    block.train()
    return {
        "block": kind,
        "width": width,
        "weights": report.total.weights,
        "multiply-adds": report.total.multiply_adds,
        "multiply-adds of R and P": report.transfers.multiply_adds,
        "ms": milliseconds,
        "inference MB": inference.peak / 1e6,
        "training MB": kept_bytes(lambda: block(x)) / 1e6,
    }


@torch.no_grad()
def time_blocks(
    kinds: Sequence[str], widths: Sequence[int], arguments: argparse.Namespace
) -> dict[tuple[str, int], float]:
    """Median milliseconds of every block on one input, all widths and kinds interleaved."""
    torch.manual_seed(0)
    contenders = {}
    for width in widths:
        x = torch.randn(1, width, arguments.size, arguments.size)
        x = x.to(memory_format=torch.channels_last)
        for kind in kinds:
            block = make_block(kind, width).eval()
            block.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            contenders[kind, width] = partial(block, x)
    samples = race(contenders, repeats=arguments.repeats)
    return {place: 1e3 * spread(times).median for place, times in samples.items()}


def exponents(rows: Sequence[dict[str, Any]], quantity: str) -> dict[str, float]:
    """Fitted exponent of every block: 1 is linear growth, 2 quadratic.

    Example:
        >>> rows = [{"block": "a", "width": w, "n": w * w} for w in (64, 128, 256)]
        >>> round(exponents(rows, "n")["a"], 3)
        2.0
    """
    fits = {}
    for kind in dict.fromkeys(row["block"] for row in rows):
        own = [row for row in rows if row["block"] == kind and row[quantity] not in (None, "")]
        if len(own) > 1:
            points = [(float(row["width"]), float(row[quantity])) for row in own]
            x, y = ([math.log(value) for value in column] for column in zip(*points, strict=True))
            fits[kind] = statistics.linear_regression(x, y).slope
    return fits


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw all quantities against the width, all logarithmic."""
    figure = Figure(figsize=(13, 7))
    panels = figure.subplot_mosaic("aabbcc;dddeee").values()
    for axes, (key, label) in zip(panels, QUANTITIES.items(), strict=True):
        for kind, exponent in exponents(rows, key).items():
            own = [row for row in rows if row["block"] == kind and row[key] is not None]
            color, marker, size = MARKERS[kind]
            axes.plot(
                [row["width"] for row in own],
                [row[key] for row in own],
                color=color,
                marker=marker,
                markersize=size,
                label=f"{kind}: width^{exponent:.2f}",
            )
        frame(axes, xscale="log", yscale="log", xlabel="width", ylabel=label)
        widths = [row["width"] for row in rows if row["block"] == DENSE]
        axes.set_xticks(widths, map(str, widths), fontsize=8)
        axes.minorticks_off()
    return figure


ITEM = Item(
    "section34",
    "weights, work, time and memory of a block against its width",
    cost="about two minutes on one core",
    offline="all",
    make=make,
    add_arguments=add_arguments,
)
