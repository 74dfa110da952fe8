"""Table 1 and Figure 3: how well restrictions and prolongations alone code 64 channels in 8."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mgic_geo import num_weights
from scripts.experiments.figures import GRAY, frame
from scripts.experiments.pages import as_png, fill
from scripts.experiments.paper.channel_coding import (
    STEPS,
    ChannelCoder,
    dense_coder,
    rank_bound,
    train_coder,
)
from scripts.experiments.paper.features import (
    CHANNELS,
    Features,
    digits,
    photographs,
    resnet50_features,
)
from scripts.experiments.paper.item import Item, Page, number, published

GROUP_SIZES, COARSE = (32, 16, 8, 4), 8
SEEDS = (0, 1, 2)
SEEDS_USED = "0, 1, 2 of the coders, 0 of the filters"
SHOWN = 16  # feature maps in the picture
DENSE = "dense autoencoder"
COLORS = ("#d55e00", "#e69f00")  # of data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the real features."""
    parser.add_argument(
        "--weights", help="ResNet-50's: a file, or a name that torchvision downloads"
    )
    parser.add_argument("--images", type=Path, help="folder of images; both or neither")
    parser.add_argument("--steps", type=int, default=STEPS, help="of L-BFGS")


def load_features(arguments: argparse.Namespace) -> list[Features]:
    """What the options ask for, or what there is offline.

    Raises:
        ValueError: One of weights and images is missing.
    """
    if bool(arguments.weights) != bool(arguments.images):
        raise ValueError("--weights and --images go together")
    if arguments.weights:
        return [resnet50_features(arguments.weights, arguments.images)]
    return [photographs(0), digits(0)]


def make(arguments: argparse.Namespace) -> Page:
    """Train all coders on all features."""
    features = load_features(arguments)
    rows = [row for source in features for row in make_rows(source, arguments.steps)[0]]
    return Page(
        rows,
        fill("table1.md", options=arguments),
        {"": as_png(draw_errors, rows)},
        seeds=SEEDS_USED,
    )


def make_figure(arguments: argparse.Namespace) -> Page:
    """Train all coders and draw what they do to the features of one image."""
    rows, pictures = [], {}
    for index, source in enumerate(load_features(arguments)):
        lines, coders = make_rows(source, arguments.steps)
        rows += lines
        pictures["" if index == 0 else f"-{index + 1}"] = as_png(draw_maps, source, coders)
    return Page(rows, fill("figure3.md", options=arguments), pictures, seeds=SEEDS_USED)


def make_rows(
    features: Features, steps: int = STEPS
) -> tuple[list[dict[str, Any]], dict[int, ChannelCoder]]:
    """Train every coder with every seed; also return those of the first seed."""
    scale = features.moment.trace().item() / CHANNELS
    moment = features.moment / scale  # the mean square of a feature is 1
    bound, lines = rank_bound(moment, COARSE), []
    for row in published("table1")["rows"]:
        coders, errors = [], []
        for seed in SEEDS:
            torch.manual_seed(seed)
            coders.append(ChannelCoder(CHANNELS, group_size=row["s_g"], coarse_size=COARSE))
            errors.append(train_coder(coders[-1], moment, steps))
        lines.append((row, coders[0], errors))
    torch.manual_seed(0)
    dense = dense_coder(CHANNELS, COARSE)
    lines.append(({"model": DENSE}, dense, [train_coder(dense, moment, steps)]))
    lines.append(({"model": "PCA, the bound"}, None, [bound]))
    rows: list[dict[str, Any]] = []
    for row, coder, errors in lines:
        mean, paper = sum(errors) / len(errors), number("table1", row, "mse")
        weights = number("table1", row, "weights")
        line = {
            "features": features.source,
            "coder": row["model"],
            "paper weights": None if weights is None else round(weights),
            "ours weights": None if coder is None else num_weights(coder),
            "paper MSE": paper,
            "ours MSE": mean * scale,
            "ours MSE / mean square": mean,
            "ours, lowest seed": min(errors),
            "ours, highest seed": max(errors),
            "ours, times PCA": mean / bound,
        }
        first = rows[0] if rows else line
        line["paper, times s_g = 32"] = paper and paper / first["paper MSE"]
        line["ours, times s_g = 32"] = mean / first["ours MSE / mean square"]
        rows.append(line)
    return rows, {row["s_g"]: coder for row, coder, _ in lines if "s_g" in row}


def draw_errors(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the error by group size: over that at s_g = 32, as the paper's, and over the bound."""
    figure = Figure(figsize=(10, 4.6))
    growth, bound = figure.subplots(1, 2)
    for source, color in zip(dict.fromkeys(row["features"] for row in rows), COLORS, strict=False):
        own = [row for row in rows if row["features"] == source]
        lines = [row for row in own if row["coder"].startswith("s_g")]
        label = f"ours: {source.split(', ')[0]}"
        times = [row["ours, times s_g = 32"] for row in lines]
        growth.plot(GROUP_SIZES, times, "o-", color=color, label=label)
        # errors and their range over the seeds, in units of the bound
        unit = [row["ours, times PCA"] / row["ours MSE / mean square"] for row in lines]
        mean = [row["ours, times PCA"] for row in lines]
        low = [row["ours, lowest seed"] * u for row, u in zip(lines, unit, strict=True)]
        high = [row["ours, highest seed"] * u for row, u in zip(lines, unit, strict=True)]
        bound.plot(GROUP_SIZES, mean, "o-", color=color, label=label)
        bound.fill_between(GROUP_SIZES, low, high, color=color, alpha=0.2, linewidth=0)
        (full,) = (row["ours, times PCA"] for row in own if row["coder"] == DENSE)
        bound.axhline(full, color=color, linestyle="--", linewidth=1, label=f"{label}, {DENSE}")
    paper = [row["paper, times s_g = 32"] for row in rows[: len(GROUP_SIZES)]]
    growth.plot(GROUP_SIZES, paper, "s-", color=GRAY, label="paper: 1,024 images of ImageNet")
    bound.axhline(1, color="black", linestyle=":", label="PCA, the bound of linear codes")
    for axes, label in ((growth, "error over that at s_g = 32"), (bound, "error over the bound")):
        frame(axes, xscale="log", yscale="log", xlabel="group size s_g", ylabel=label)
        axes.set_xticks(GROUP_SIZES, map(str, GROUP_SIZES))
        axes.minorticks_off()
        axes.set_yticks([1, 2, 5, 10, 20], map(str, [1, 2, 5, 10, 20]))
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14))
    return figure


@torch.no_grad()
def draw_maps(features: Features, coders: dict[int, ChannelCoder]) -> Figure:
    """Draw Figure 3 for one image."""
    x = features.maps.permute(1, 2, 0).double()
    decoded = {size: coder(x) for size, coder in coders.items()}
    code = coders[GROUP_SIZES[1]].restrict(x)
    strongest = int(x.std((0, 1)).argmax())
    image = features.image - features.image.amin()
    image /= image.amax()
    top = [image.permute(1, 2, 0), x[..., strongest]]
    top += [decoded[size][..., strongest] for size in GROUP_SIZES]
    titles = ["image", "a feature map", *(f"s_g = {size}" for size in GROUP_SIZES)]
    bottom = [_tiles(x[..., :SHOWN]), _tiles(code), _tiles(decoded[GROUP_SIZES[1]][..., :SHOWN])]
    figure = Figure(figsize=(11, 5.2))
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.9])
    upper, lower = parts
    _show(upper.subplots(1, 6), top, titles)
    names = ["feature maps", "the coarsest level, s_g = 16", "decoded, s_g = 16"]
    _show(lower.subplots(1, 3), bottom, names)
    return figure


def _show(row: Any, pictures: Sequence[Tensor], titles: Sequence[str]) -> None:
    for axes, picture, title in zip(row, pictures, titles, strict=True):
        axes.imshow(picture, cmap="gray")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()


def _tiles(maps: Tensor) -> Tensor:
    """(h, w, C) -> one picture of C maps in four columns, each in its own range."""
    low, high = maps.amin((0, 1)), maps.amax((0, 1))
    maps = (maps - low) / (high - low).clamp_min(1e-12)
    rows = [torch.cat(tuple(row.unbind(-1)), 1) for row in maps.split(4, -1)]
    return torch.cat(rows)


COST, OFFLINE = "under a minute", "three photographs and 5,000 digits in place of ImageNet"
ITEM = Item(
    "table1",
    "coding 64 channels in 8 by restrictions and prolongations alone",
    *(COST, OFFLINE, make, add_arguments),
)
FIGURE = Item(
    "figure3",
    "feature maps, their code on the coarsest level, and what is decoded from it",
    *(COST, OFFLINE, make_figure, add_arguments),
)
