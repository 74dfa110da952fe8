"""The benchmarks of a GPU: ``python -m scripts.bench points|images --device cuda``.

Time is taken between two events on the GPU, after runs that warm it up, and contenders take turns,
as on a processor. The peak of memory is that of one run, without what stays from one to the next:
weights, the state of an optimizer, workspaces of libraries.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from mgic_geo import GroupedEdgeConv, MGICMessagePassing, create_model, knn_indices
from mgic_geo.graphs.table import NeighborTable
from mgic_vision import fuse
from scripts.benchmarks import machine
from scripts.benchmarks.images import (
    GHOSTNET,
    MGIC_MOBILENET,
    MGIC_RESNET,
    RESNET,
    build,
    make_images,
)
from scripts.benchmarks.points import make_batches
from scripts.benchmarks.pyg_baselines import LinearEdgeConv, PyGPointCloudClassifier
from scripts.benchmarks.tensor_baselines import TensorDGCNN, product_knn_graph
from scripts.benchmarks.timing import (
    ADAMW,
    Batch,
    Pair,
    Run,
    Suite,
    exponents,
    inference,
    race,
    ratios,
    training_step,
)

TENSOR, PYG = "DGCNN, (B, C, N, k)", "PyG EdgeConv, bmm and topk"
POINT_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    TENSOR: TensorDGCNN,
    PYG: lambda: PyGPointCloudClassifier(
        LinearEdgeConv,
        dynamic=True,
        find_graph=lambda x, k, batch, clouds: product_knn_graph(x, k, clouds),
    ),
    "dgcnn": partial(create_model, "dgcnn"),
    "mgic_dgcnn, additive": partial(create_model, "mgic_dgcnn", cycle="additive"),
    "diffgcn": partial(create_model, "diffgcn"),
    "mgic_diffgcn": partial(create_model, "mgic_diffgcn"),
}
WIDTHS = (256, 512, 1024, 2048)
STEPS = 4  # batches, in turn


def make_suites(arguments: argparse.Namespace) -> Iterator[Suite]:
    """What is timed of points or of images, on ``arguments.device``."""
    device = torch.device(arguments.device)
    if arguments.benchmark == "points":
        yield point_suite(device, arguments.clouds, arguments.points)
        yield width_suite(device, WIDTHS, arguments.clouds * arguments.points)
    else:
        yield image_suite(device, MGIC_RESNET, RESNET, arguments.images, arguments.image)
        if find_spec("timm") is not None:
            yield image_suite(device, MGIC_MOBILENET, GHOSTNET, arguments.images, arguments.image)


def point_suite(device: torch.device, clouds: int, points: int) -> Suite:
    """A training step of every point network on the same batches."""
    batches: list[Batch] = [
        ((pos.to(device), batch.to(device), count), label.to(device))
        for (pos, batch, count), label in make_batches(clouds, points, STEPS)
    ]
    contenders = {}
    for name, make_model in POINT_NETWORKS.items():
        torch.manual_seed(0)
        contenders[name] = training_step(make_model().to(device), batches, ADAMW)
    return Suite(
        f"training step, {clouds} clouds of {points} points, k = 10, float32",
        contenders,
        [Pair(TENSOR, "dgcnn"), Pair(PYG, "dgcnn"), Pair(TENSOR, "mgic_diffgcn")],
    )


def width_suite(device: torch.device, widths: tuple[int, ...], nodes: int) -> Suite:
    """One G-conv of edge convolutions over widths, dense and MGIC."""
    pos = torch.rand(nodes, 3, generator=torch.Generator().manual_seed(0)).to(device)
    batch = torch.arange(nodes, device=device) // 1024
    graph = NeighborTable.of(knn_indices(pos, 10, batch), nodes)
    contenders: dict[str, Run] = {}
    curves: dict[str, dict[int, str]] = {"dense": {}, "MGIC": {}}
    for width in widths:
        x = torch.randn(nodes, width, device=device)
        for kind, conv in (
            ("dense", GroupedEdgeConv(width, width)),
            ("MGIC", MGICMessagePassing(width, width, GroupedEdgeConv, group_size=8)),
        ):
            curves[kind][width] = f"{kind}, {width}"
            contenders[f"{kind}, {width}"] = inference(conv.to(device), (x, graph))
    pairs = [Pair(dense, curves["MGIC"][width]) for width, dense in curves["dense"].items()]
    return Suite(
        f"inference, one edge G-conv, {nodes} points, s_g = s_c = 8, float32",
        contenders,
        pairs,
        curves=curves,
    )


def image_suite(device: torch.device, ours: str, theirs: str, images: int, side: int) -> Suite:
    """Inference of two networks, norms folded, channels-last, bf16, as they are and compiled."""
    x = make_images(images, side).to(device, torch.bfloat16)
    contenders, pairs = {}, []
    for prepare, how in ((lambda model: model, "as it is"), (_compile, "compiled")):
        for name in (ours, theirs):
            contenders[f"{name}, {how}"] = inference(prepare(_build_image(name, device)), (x,))
        pairs.append(Pair(f"{ours}, {how}", f"{theirs}, {how}"))
    title = f"inference, {ours} and {theirs}, {images} x 3 x {side} x {side}, bf16"
    return Suite(title, contenders, pairs)


def _build_image(name: str, device: torch.device) -> nn.Module:
    model = fuse(build(name).eval(), native="never").to(device, torch.bfloat16)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _compile(model: nn.Module) -> nn.Module:
    return torch.compile(model, mode="reduce-overhead")  # type: ignore[return-value]


def event_seconds(run: Run) -> float:
    """Seconds of one run between two events on the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def peak_bytes(run: Run) -> int:
    """Bytes allocated at most during one run, beside those that were there before it."""
    run()  # what is allocated once and stays is no contender's
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def run_suite(suite: Suite, repeats: int) -> dict[str, Any]:
    """Race the contenders and return what came out."""
    peaks = {name: peak_bytes(run) for name, run in suite.contenders.items()}
    samples = race(suite.contenders, repeats=repeats, settle=1, clock=event_seconds)
    return {
        "title": suite.title,
        "seconds": samples,
        "peak_bytes": peaks,
        "ratios": {str(pair): ratios(samples, pair) for pair in suite.pairs},
        "exponents": {name: exponents(samples, curve) for name, curve in suite.curves.items()},
    }


def describe() -> dict[str, Any]:
    """The card and the versions."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "card": properties.name,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "versions": machine.versions(),
    }
