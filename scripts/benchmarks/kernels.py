"""What each kernel gives: training and inference with the kernels of one operation off."""

import argparse
import importlib
import pkgutil
from collections.abc import Callable, Iterator

import torch
from torch import nn

import mgic_geo.ops
import mgic_vision.ops
from mgic_geo import create_model, fuse
from mgic_geo.ops.operator import Operation, noting
from mgic_vision import create_model as create_image_model
from scripts.benchmarks.points import make_batches
from scripts.benchmarks.timing import ADAMW, Batch, Pair, Suite, inference, training_step

SUMMARY = "training and inference with the kernels of one operation off at a time"
ALL = "all kernels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def make_suites(arguments: argparse.Namespace) -> Iterator[Suite]:
    """One race for every kind of work, all with the kernels on and off in one network."""
    points = make_batches(16, 1024, 12)
    for name in ("mgic_diffgcn", "mgic_dgcnn"):
        torch.manual_seed(0)
        yield _suite(f"{name}, training step", training_step(create_model(name), points, ADAMW))
        model = fuse(create_model(name).eval())
        yield _suite(f"{name}, inference, fused", inference(model, points[0][0]))
        pos, batch, _ = points[0][0]
        one = pos[:1024], batch[:1024], 1
        yield _suite(f"{name}, inference of one cloud, fused", inference(model, one))
    yield _suite("mgic_mobilenetv3_small, training step", _image_step())


def _image_step() -> Callable[[], object]:
    torch.manual_seed(0)
    model: nn.Module = create_image_model("mgic_mobilenetv3_small")
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(16, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    batch: Batch = ((x,), torch.randint(1000, (16,)))
    return training_step(model, [batch], ADAMW)


def _suite(title: str, run: Callable[[], object]) -> Suite:
    """Every operation that runs compiled here, forward and backward together, off once."""
    with noting() as counts:
        run()
    compiled = {name for name, ran, _ in counts if ran == "compiled"}
    known = [operation for operation in operations() if operation.name in compiled]
    families = sorted({_family(operation) for operation in known})
    contenders = {ALL: run}
    for family in families:
        members = [operation for operation in known if _family(operation) == family]
        contenders[f"without {family}"] = _without(members, run)
    pairs = [Pair(name, ALL) for name in contenders if name != ALL]
    return Suite(title, contenders, pairs)


def operations() -> list[Operation]:
    """All of both packages."""
    found = {}
    for package in (mgic_geo.ops, mgic_vision.ops):
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(info.name)).values():
                if isinstance(value, Operation):
                    found[value.name] = value
    return list(found.values())


def _family(operation: Operation) -> str:
    """An operation and its gradients share a name up to what says so."""
    name = operation.name.partition("::")[2]
    for ending in ("_backward", "_weight"):
        name = name.removesuffix(ending)
    return "neighbor_max" if name == "add_at_rows" else name


def _without(members: list[Operation], run: Callable[[], object]) -> Callable[[], object]:
    def run_without() -> object:
        kernels = [operation.kernels for operation in members]
        for operation in members:
            operation.kernels = tuple(k for k in operation.kernels if k.name != "compiled")
        try:
            return run()
        finally:
            for operation, before in zip(members, kernels, strict=True):
                operation.kernels = before

    return run_without
