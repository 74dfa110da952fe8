"""Exported networks beside the networks they were made from: ``torch.export``, ONNX Runtime."""

import argparse
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

import mgic_geo
import mgic_vision
from mgic_vision.merging import BLOCK
from scripts.benchmarks.images import HAS_ONNX, NO_ONNX
from scripts.benchmarks.timing import Pair, Run, Suite
from scripts.exporting.formats import FORMATS
from scripts.exporting.subject import Subject, make_subject
from scripts.training.networks import make_network
from scripts.training.weights import fresh_weights

SUMMARY = "networks in PyTorch beside what torch.export and ONNX make of them, plain and fused"
MODELS = ("mgic_diffgcn", "mgic_mobilenetv3")
TOOLS = {"pt2": "pt2", "onnx": "ONNX Runtime"} if HAS_ONNX else {"pt2": "pt2"}
PYTORCH = "PyTorch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark alone."""
    parser.add_argument(
        "--models", nargs="+", default=MODELS, metavar="MODEL", help="of mgic_geo or mgic_vision"
    )
    parser.add_argument("--batch", type=int, default=8, help="images or clouds in a batch")


def make_suites(arguments: argparse.Namespace) -> Iterator[Suite]:
    """One race a network, whose forms are exported to memory when it begins."""
    if arguments.batch < 1:
        raise ValueError(f"--batch must be at least 1, got {arguments.batch}")
    for name in arguments.models:
        yield _make_suite(name, arguments.batch)


def _make_suite(name: str, batch: int) -> Suite:
    torch.manual_seed(0)
    network, info = make_network(name, None, {}).eval(), {"name": name}
    package = mgic_geo if name in mgic_geo.list_models() else mgic_vision
    plain = make_subject(network, info)
    fused = make_subject(package.fuse(network), info, block=BLOCK)
    x = next(plain.inputs(batch))
    contenders = make_contenders(plain, "plain", x) | make_contenders(fused, "fused", x)
    pairs = [
        Pair(f"{form}, {tool}", f"{form}, {PYTORCH}")
        for form in ("plain", "fused")
        for tool in TOOLS.values()
    ]
    return Suite(
        title=f"inference of {name} on {' x '.join(map(str, x.shape))}, float32",
        contenders=contenders,
        pairs=pairs,
        notes=() if HAS_ONNX else (NO_ONNX,),
    )


def make_contenders(subject: Subject, form: str, x: Tensor) -> dict[str, Run]:
    """The network as it is called here, and each exported file read back and run."""
    weights = fresh_weights(subject.info["name"], subject.network)
    contenders: dict[str, Run] = {f"{form}, {PYTORCH}": partial(subject.reference, x)}
    for name, tool in TOOLS.items():
        run = FORMATS[name].read(FORMATS[name].write(subject, weights), weights)
        contenders[f"{form}, {tool}"] = partial(run, x)
    return contenders
