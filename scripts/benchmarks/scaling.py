"""Growth with the width: one graph convolution, and a whole network at a large width."""

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import nn

from mgic_geo import DiffGCNConv, MGICMessagePassing, create_model, fuse
from mgic_geo.graphs.adjacency import from_neighbors
from mgic_geo.graphs.derivatives import derivative_operators, edge_gradients
from mgic_geo.graphs.neighbors import knn_indices
from scripts.benchmarks.points import make_batches
from scripts.benchmarks.timing import Pair, Suite, inference

SUMMARY = "one G-conv over widths, dense and MGIC, and diffGCN at a large width"
NUM_CLASSES = 10
GROUP_SIZE = 8

CONVS: dict[str, Callable[[int], nn.Module]] = {
    "dense": lambda width: DiffGCNConv(width, width),
    "MGIC": lambda width: MGICMessagePassing(width, width, DiffGCNConv, group_size=GROUP_SIZE),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark alone."""
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[256, 512, 1024, 2048], help="of one G-conv"
    )
    parser.add_argument("--nodes", type=int, default=1024, help="points under one G-conv")
    parser.add_argument("--width", type=int, default=512, help="of the whole network")
    parser.add_argument("--wide-clouds", type=int, default=4, help="clouds for the whole network")


def make_suites(arguments: argparse.Namespace) -> Iterator[Suite]:
    """The convolution over all widths, then the network."""
    if len(set(arguments.widths)) < 2 or min(arguments.widths) < GROUP_SIZE:
        raise ValueError(
            f"--widths must be at least two numbers of at least {GROUP_SIZE}, "
            f"got {arguments.widths}"
        )
    for name in ("nodes", "width", "wide_clouds"):
        if getattr(arguments, name) < 2:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} must be at least 2, got {getattr(arguments, name)}")
    yield _conv_suite(arguments.widths, arguments.nodes)
    yield _network_suite(arguments.width, arguments.wide_clouds, arguments.nodes)


def _conv_suite(widths: list[int], nodes: int) -> Suite:
    (pos, *_), _ = make_batches(1, nodes, 1)[0]
    graph = from_neighbors(knn_indices(pos, 10))
    operators = derivative_operators(graph, edge_gradients(pos, graph, softening=1.0))
    contenders, curves = {}, {}
    for kind, make_conv in CONVS.items():
        curves[kind] = {width: f"{kind}, {width}" for width in sorted(set(widths))}
        for width, name in curves[kind].items():
            torch.manual_seed(0)
            x = torch.randn(nodes, width)
            contenders[name] = inference(fuse(make_conv(width)), (x, operators))
    return Suite(
        f"inference, one differential G-conv, fused, {nodes} points, s_g = s_c = {GROUP_SIZE}",
        contenders,
        [Pair(dense, curves["MGIC"][width]) for width, dense in curves["dense"].items()],
        curves=curves,
    )


def _network_suite(width: int, clouds: int, points: int) -> Suite:
    inputs, _ = make_batches(clouds, points, 1)[0]
    contenders = {}
    for name in ("diffgcn", "mgic_diffgcn"):
        torch.manual_seed(0)
        model = fuse(create_model(name, NUM_CLASSES, width=width))
        contenders[f"{name}, {width}"] = inference(model, inputs)
    return Suite(
        f"inference, networks of width {width}, fused, {clouds} clouds of {points} points",
        contenders,
        [Pair(*contenders)],
    )
