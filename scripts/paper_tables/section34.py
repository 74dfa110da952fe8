"""Section 3.4: what a block costs against its width, dense and as MGIC."""

import argparse
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from mgic_vision import basic_block, mgic_unit, summary
from mgic_vision.blocks import dense_level
from scripts.benchmarks.timing import Contender, race, spread
from scripts.paper_tables.item import Item, Page
from scripts.paper_tables.memory import MemoryCounter
from scripts.paper_tables.pages import as_png

DENSE, GROUP_SIZES = "dense", (8, 16, 32)
WIDTHS = (64, 128, 256, 512, 1024, 2048, 4096)
QUANTITIES = {
    "weights": "weights",
    "multiply-adds": "multiply-adds",
    "ms": "time, ms",
    "inference MB": "inference memory, MB",
    "training MB": "memory kept for the backward pass, MB",
}
COLORS = {DENSE: "#8d96a0", "s_g = 8": "#56b4e9", "s_g = 16": "#0072b2", "s_g = 32": "#d55e00"}


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
    return Page(rows, _notes(rows, arguments), {"": draw(rows)}, seeds="0 of the weights")


def make_row(kind: str, width: int, size: int, milliseconds: float | None) -> dict[str, Any]:
    """Counts and memory, on a block without values."""
    with torch.device("meta"):
        block, x = make_block(kind, width), torch.empty(1, width, size, size)
    report = summary(block, (width, size, size))
    with torch.no_grad(), MemoryCounter() as inference:
        block.eval()(x)
    with MemoryCounter() as training:
        y = block.train()(x)
    kept = training.live
    del y
    return {
        "block": kind,
        "width": width,
        "weights": report.total.weights,
        "multiply-adds": report.total.multiply_adds,
        "multiply-adds of R and P": report.transfers.multiply_adds,
        "ms": milliseconds,
        "inference MB": inference.peak / 1e6,
        "training MB": kept / 1e6,
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
            contenders[kind, width] = Contender(f"{kind}, {width}", partial(block, x))
    if not contenders:
        return {}
    samples = race(list(contenders.values()), repeats=arguments.repeats)
    return {
        place: 1e3 * spread(samples[contender.name]).median
        for place, contender in contenders.items()
    }


def fit_exponent(widths: Sequence[float], values: Sequence[float]) -> float:
    """Slope of a straight line through the logarithms: 1 is linear growth, 2 quadratic.

    Example:
        >>> round(fit_exponent([64, 128, 256], [1.0, 4.0, 16.0]), 3)
        2.0
    """
    x, y = [math.log(width) for width in widths], [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread_x = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread_x


def exponents(rows: Sequence[dict[str, Any]], quantity: str) -> dict[str, float]:
    """Fitted exponent of every block, over the widths that have the quantity."""
    fits = {}
    for kind in dict.fromkeys(row["block"] for row in rows):
        own = [row for row in rows if row["block"] == kind and row[quantity] not in (None, "")]
        if len(own) > 1:
            widths = [float(row["width"]) for row in own]
            fits[kind] = fit_exponent(widths, [float(row[quantity]) for row in own])
    return fits


def _notes(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> list[str]:
    fits = [
        f"{quantity}: "
        + ", ".join(f"{kind} {value:.2f}" for kind, value in exponents(rows, quantity).items())
        for quantity in QUANTITIES
        if exponents(rows, quantity)
    ]
    return [
        "Fitted exponents of the width (1 linear, 2 quadratic): " + "; ".join(fits) + ".",
        f"The block is ResNet's with two 3x3 convolutions, on one map of {arguments.size}x"
        f"{arguments.size}, in channels-last order; s_c = s_g. Times are medians of "
        f"{arguments.repeats} interleaved runs in evaluation mode, up to width "
        f"{arguments.timed_up_to:,}. Memory counts tensors, without weights and input: the peak of "
        "a forward pass without gradients, and what is still alive at the end of one with them, "
        "waiting for the backward pass.",
        "The paper says that in training a cycle keeps about twice what a single block keeps, and "
        "in inference as much as a single block. The layers of all levels do keep twice as much as "
        "one; the outputs of R and P and the sums that the layers start from come on top.",
    ]


def draw(rows: Sequence[dict[str, Any]]) -> bytes:
    """Draw all quantities against the width, all logarithmic."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(2, 3).flat, QUANTITIES.items(), strict=False):
        for kind, exponent in exponents(rows, key).items():
            own = [row for row in rows if row["block"] == kind and row[key] is not None]
            axes.plot(
                [row["width"] for row in own],
                [row[key] for row in own],
                "o-",
                color=COLORS[kind],
                label=f"{kind}: width^{exponent:.2f}",
            )
        axes.set(xscale="log", yscale="log", xlabel="width", ylabel=label)
        axes.set_xticks([row["width"] for row in rows if row["block"] == DENSE])
        axes.set_xticklabels([str(r["width"]) for r in rows if r["block"] == DENSE], fontsize=8)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    figure.axes[-1].set_axis_off()
    return as_png(figure)


ITEM = Item(
    "section34",
    "weights, work, time and memory of a block against its width",
    needs="nothing",
    cost="about two minutes on one core",
    offline="all",
    make=make,
    add_arguments=add_arguments,
)
