"""Image networks: inference and training beside the networks they stand for."""

import argparse
import io
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from mgic_vision import create_model, fuse, merge_groups
from scripts.benchmarks.timing import Pair, Suite, inference, training_step
from scripts.exporting.formats import open_session

SUMMARY = "image networks, prepared alike: fused, channels-last, in PyTorch and in ONNX Runtime"
NUM_CLASSES = 1000
HAS_ONNX = find_spec("onnxruntime") is not None and find_spec("onnxscript") is not None

RESNET, MGIC_RESNET = "resnet50", "mgic_resnet50, s_g = 16"
GHOSTNET, MGIC_MOBILENET = "ghostnet_100", "mgic_mobilenetv3 1.0x"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    RESNET: lambda: create_model("resnet50", NUM_CLASSES),
    MGIC_RESNET: lambda: create_model("mgic_resnet50", NUM_CLASSES, group_size=16),
    GHOSTNET: lambda: create_model("ghostnet_100", NUM_CLASSES),
    MGIC_MOBILENET: lambda: create_model("mgic_mobilenetv3", NUM_CLASSES),
}
NO_ONNX = "onnxruntime or onnxscript is not installed: PyTorch only"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark alone."""
    parser.add_argument("--image", type=int, default=224, help="side of an image in pixels")
    parser.add_argument("--images", type=int, default=16, help="images in the larger batch")
    parser.add_argument(
        "--onnx", action=argparse.BooleanOptionalAction, default=HAS_ONNX, help="ONNX Runtime too"
    )


def make_suites(arguments: argparse.Namespace) -> Iterator[Suite]:
    """One race for every kind of work; its networks are built when it begins."""
    if arguments.image < 32 or arguments.images < 2:
        raise ValueError(
            "--image must be at least 32 and --images at least 2, "
            f"got {arguments.image} and {arguments.images}"
        )
    if arguments.onnx and not HAS_ONNX:
        raise ValueError("--onnx needs onnxruntime and onnxscript")
    for images in (1, arguments.images):
        yield _inference_suite(MGIC_RESNET, RESNET, images, arguments)
    yield _inference_suite(MGIC_MOBILENET, GHOSTNET, 1, arguments, threads=1)
    yield _training_suite(MGIC_MOBILENET, GHOSTNET, arguments)


def _inference_suite(
    ours: str, theirs: str, images: int, arguments: argparse.Namespace, threads: int | None = None
) -> Suite:
    x = make_images(images, arguments.image)
    contenders, pairs = {}, []
    tools = {"PyTorch": inference}
    if arguments.onnx:
        count = threads or arguments.threads
        tools["ONNX Runtime"] = lambda model, inputs: onnx_run(model, inputs[0], count)
    for tool, prepare in tools.items():
        for name in (ours, theirs):
            contenders[f"{name}, {tool}"] = prepare(fuse(build(name)), (x,))
        pairs.append(Pair(f"{ours}, {tool}", f"{theirs}, {tool}"))
    size = f"{images} x 3 x {arguments.image} x {arguments.image}"
    return Suite(
        f"inference, {ours} and {theirs}, fused, {size}",
        contenders,
        pairs,
        notes=() if arguments.onnx else (NO_ONNX,) if not HAS_ONNX else (),
        threads=threads,
    )


def _training_suite(ours: str, theirs: str, arguments: argparse.Namespace) -> Suite:
    x = make_images(arguments.images, arguments.image)
    label = torch.randint(NUM_CLASSES, (arguments.images,), generator=_generator())
    contenders = {}
    for name in (ours, theirs):
        network = build(name).to(memory_format=torch.channels_last)
        contenders[name] = training_step(network, [((x,), label)])
    return Suite(
        f"training step, {arguments.images} x 3 x {arguments.image} x {arguments.image}",
        contenders,
        [Pair(ours, theirs)],
    )


def onnx_run(model: nn.Module, x: Tensor, threads: int) -> Callable[[], object]:
    """A run of the exported network in ONNX Runtime, on so many threads."""
    file = io.BytesIO()
    program = torch.onnx.export(merge_groups(model), (x.contiguous(),), dynamo=True, verbose=False)
    assert program is not None
    program.save(file)
    session = open_session(file.getvalue(), threads)
    feed = {session.get_inputs()[0].name: x.contiguous().numpy()}
    return lambda: session.run(None, feed)


def build(name: str) -> nn.Module:
    """Build one of :data:`NETWORKS`."""
    torch.manual_seed(0)
    return NETWORKS[name]()


def make_images(images: int, side: int) -> Tensor:
    """Inputs, with values that do not matter, ``(images, 3, side, side)`` in channels-last."""
    x = torch.randn(images, 3, side, side, generator=_generator())
    return x.contiguous(memory_format=torch.channels_last)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
