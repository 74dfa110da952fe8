"""Table 8: how long light networks take for one image, and for a training step."""

import argparse
import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mgic_vision import summary
from scripts.benchmarks.images import make_images
from scripts.benchmarks.machine import keep_freed_memory, num_cores, threads
from scripts.benchmarks.tensor_memory import kept_bytes
from scripts.benchmarks.timing import Pair, race, ratios, spread, training_step
from scripts.experiments.pages import fill
from scripts.experiments.paper.counts import Ours, build
from scripts.experiments.paper.item import Item, Page, published

SIZE, CLASSES, PAPERS_BATCH = 224, 1000, 128
PEER = "GhostNet 1.0x"  # whom the paper calls MGIC on par with
NETWORKS = {
    "MobileNetV2 1.0x": Ours("mobilenet_v2"),
    "MobileNetV3-Large 0.75x": Ours("timm:mobilenetv3_large_075"),
    "GhostNet 1.0x": Ours("ghostnet_100"),
    "MGIC-MobileNetV3 1.0x": Ours("mgic_mobilenetv3"),
}
SPARE = 0.8  # of the memory that is free; the rest is for scratch memory and everybody else


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how often to run, and the batch of a training step."""
    parser.add_argument("--repeats", type=int, default=50, help="images that are timed")
    parser.add_argument(
        "--batch-size", type=int, default=PAPERS_BATCH, help="images of a training step"
    )
    parser.add_argument("--steps", type=int, default=3, help="training steps that are timed")


def make(arguments: argparse.Namespace) -> Page:
    """Time all networks side by side on one thread, first one image, then training steps."""
    allocator, load = keep_freed_memory(), os.getloadavg()[0]
    with threads(1):
        networks = {name: make_network(ours) for name, ours in NETWORKS.items()}
        images = time_inference(networks, arguments.repeats)
        need = {
            name: training_memory(ours, arguments.batch_size) for name, ours in NETWORKS.items()
        }
        fits = {name for name, size in need.items() if size < SPARE * available_memory()}
        trained = {name: network for name, network in networks.items() if name in fits}
        steps = time_training(trained, arguments) if trained and arguments.steps else {}
    rows = [
        make_row(row, images, steps, need[row["model"]], arguments)
        for row in published("table8")["rows"]
    ]
    label = f"ours CPU training step of {arguments.batch_size}, s"
    notes = fill(
        "table8.md",
        options=arguments,
        allocator=allocator,
        size=SIZE,
        spare=SPARE,
        papers_batch=PAPERS_BATCH,
        cores=num_cores(),
        load=(load, os.getloadavg()[0]),
        missing=[row["model"] for row in rows if row[label] is None],
        kept=[size / 1e9 * PAPERS_BATCH / arguments.batch_size for size in need.values()],
    )
    return Page(rows, notes, seeds="0 of weights and inputs")


def make_network(ours: Ours) -> nn.Module:
    """Build a network with values, every pixel's channels side by side in memory."""
    torch.manual_seed(0)
    return build(ours, "cpu").to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def time_inference(networks: dict[str, nn.Module], repeats: int) -> dict[str, list[float]]:
    """Seconds for one image, every network once a round."""
    x = make_images(1, SIZE)
    for network in networks.values():
        network.eval()
    with torch.inference_mode():
        return race({name: partial(n, x) for name, n in networks.items()}, repeats=repeats)


def time_training(
    networks: dict[str, nn.Module], arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds for a training step of stochastic gradient descent, every network once a round."""
    x = make_images(arguments.batch_size, SIZE)
    targets = torch.arange(arguments.batch_size) % CLASSES
    contenders = {n: training_step(network, [((x,), targets)]) for n, network in networks.items()}
    return race(contenders, repeats=arguments.steps)


def training_memory(ours: Ours, batch_size: int) -> float:
    """Bytes of the tensors that wait for the backward pass, counted without computing anything."""
    network = build(ours).train()
    with torch.device("meta"):
        x = torch.empty(batch_size, 3, SIZE, SIZE)
    return kept_bytes(lambda: network(x))


def available_memory() -> float:
    """Bytes that this machine can still give, where it says so; otherwise no limit."""
    path = Path("/proc/meminfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * float(line.split()[1])
    return float("inf")


def make_row(
    row: dict[str, Any],
    images: dict[str, list[float]],
    steps: dict[str, list[float]],
    need: float,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """The paper's times of a network, and ours."""
    name = row["model"]
    counts = summary(build(NETWORKS[name]), (3, SIZE, SIZE)).total
    one = spread(images[name])
    beside = spread(ratios(images, Pair(name, PEER)))
    line = {
        "model": name,
        "paper mobile, ms": float(row["mobile_ms"]),
        "paper CPU, ms": float(row["cpu_ms"]),
        "ours CPU, mean of images, ms": 1e3 * statistics.fmean(images[name]),
        "ours median, ms": 1e3 * one.median,
        "ours quartiles, ms": f"{1e3 * one.low:.1f} to {1e3 * one.high:.1f}",
        f"paper CPU / {PEER}": float(row["cpu_ms"]) / _paper(PEER, "cpu_ms"),
        f"ours CPU / {PEER}": beside.median,
        "ours ratio, lower quartile": beside.low,
        "ours ratio, upper quartile": beside.high,
        "paper GPU training step, s": float(row["gpu_train_s"]),
    }
    label = f"ours CPU training step of {arguments.batch_size}"
    trained = name in steps
    line |= {
        f"{label}, s": spread(steps[name]).median if trained else None,
        f"{label}, fastest and slowest, s": (
            f"{min(steps[name]):.1f} to {max(steps[name]):.1f}" if trained else ""
        ),
        f"paper training / {PEER}": float(row["gpu_train_s"]) / _paper(PEER, "gpu_train_s"),
        f"ours training / {PEER}": (
            spread(ratios(steps, Pair(name, PEER))).median if trained and PEER in steps else None
        ),
        f"ours memory kept in a step of {arguments.batch_size}, GB": need / 1e9,
    }
    return line | {"ours weights": counts.weights, "ours multiply-adds": counts.multiply_adds}


def _paper(model: str, key: str) -> float:
    (row,) = (row for row in published("table8")["rows"] if row["model"] == model)
    return float(row[key])


ITEM = Item(
    "table8",
    "runtimes of light networks",
    cost="about three minutes, nearly all of it in the training steps",
    offline="the processor; neither the paper's phone nor its GPU",
    make=make,
    add_arguments=add_arguments,
)
