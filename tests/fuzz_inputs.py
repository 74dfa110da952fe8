"""Drawn wrong inputs for every public entry, in a process of their own.

A valid call is drawn, and one of its tensors is spoiled in every way: another size, type, device,
distance between its numbers, order, an index out of range, numbers that are not finite. Each time
it must give what plain PyTorch gives, or raise an error that names an argument. A crash ends the
process, and the test that started it says which call it was.

``python -m tests.fuzz_inputs FIRST LAST FILE`` does so for these seeds, prints what is wrong, and
writes to FILE how many calls it has made and the one it is about to make.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex

import mgic_geo
import mgic_vision
from mgic_geo import GroupedLinear, MGICLinear, MGICMessagePassing, graphs
from mgic_geo.graphs.adjacency import Adjacency, neighbor_max, to_adjacency
from mgic_geo.graphs.derivatives import DerivativeOperators, derivative_operators, edge_gradients
from mgic_geo.nn.diff_conv import DiffGCNConv
from mgic_geo.nn.dynamic_edge_conv import DynamicEdgeConv
from mgic_geo.nn.edge_conv import GroupedEdgeConv
from mgic_geo.ops.csrc import build
from tests.fuzz_values import Draw
from tests.kernels import kernels_off
from tests.operators import OPERATIONS, make_inputs
from tests.sparse_matrices import SparseMatrix, sparse_matrices, spmm

Arguments = dict[str, Any]
Call = Callable[..., Any]
Drawn = tuple[Call, Arguments]
Entry = Callable[[Draw], Drawn]

ERRORS = (ValueError, TypeError, RuntimeError, IndexError, NotImplementedError, MemoryError)
NODES, CHANNELS = 24, 8


def _graph(draw: Draw) -> Tensor:
    edges = torch.randint(0, NODES, (2, 60), generator=draw.generator)
    return edges[:, edges[1].argsort(stable=True)] if draw.integer(0, 1) else edges


def _adjacency(draw: Draw) -> Adjacency:
    return to_adjacency(_graph(draw), NODES, NODES)


def _features(draw: Draw, rows: int = NODES, channels: int = CHANNELS) -> Tensor:
    return draw.normal(rows, channels).float()


def _conv(make: Callable[[Draw], Call], *, weights: bool = False) -> Entry:
    """Of a convolution on edges, with derivatives along them or without."""

    def drawn(draw: Draw) -> Drawn:
        layer, edges = make(draw), _graph(draw)
        arguments = {"x": _features(draw), "edge_index": edges}
        if weights:
            arguments["edge_attr"] = edge_gradients(_features(draw, NODES, 3), edges)
        return layer, arguments

    return drawn


def _cycle(conv: Call) -> Callable[[Draw], Call]:
    return lambda draw: MGICMessagePassing(CHANNELS, CHANNELS, conv, group_size=2).eval()


def _prepared(make: Callable[[Draw], Any], apply: Callable[[Draw], Call]) -> Entry:
    """Of ``(x, graph) -> y`` where the graph, a named tuple, is given ready-made."""

    def drawn(draw: Draw) -> Drawn:
        graph, function = make(draw), apply(draw)

        def call(x: Tensor, **fields: Any) -> Any:
            return function(x, type(graph)(**fields))

        return call, {"x": _features(draw), **graph._asdict()}

    return drawn


def _ready_adjacency(draw: Draw) -> Adjacency:
    return _adjacency(draw)._replace(num_sources=draw.one_of(NODES, NODES, NODES + 1, 1))


def _ready_operators(draw: Draw) -> DerivativeOperators:
    edges = _graph(draw)
    graph = to_adjacency(edges, NODES, NODES)
    return derivative_operators(graph, graph.sort(edge_gradients(_features(draw, NODES, 3), edges)))


def _ready_matrix(draw: Draw) -> SparseMatrix:
    graph = _adjacency(draw)
    return sparse_matrices(graph, draw.normal(graph.index.numel(), 1).float())[0]


def _evaluated_or_trained(draw: Draw) -> Call:
    conv, train = DiffGCNConv(CHANNELS, CHANNELS, groups=draw.one_of(1, 4)), draw.integer(0, 1)

    def call(x: Tensor, operators: DerivativeOperators) -> Any:
        with torch.set_grad_enabled(bool(train)):
            y = conv(x, operators)
        return (y, *torch.autograd.grad(y.sum(), tuple(conv.parameters()))) if train else y

    return call


def _csr(draw: Draw) -> Drawn:
    graph, conv = _adjacency(draw), GroupedEdgeConv(CHANNELS, CHANNELS)
    ones = torch.ones(graph.index.numel())

    def call(x: Tensor, ptr: Tensor, index: Tensor) -> Tensor:
        size = NODES, NODES
        return conv(x, torch.sparse_csr_tensor(ptr, index, ones, size, check_invariants=False))

    return call, {"x": _features(draw), "index": graph.index, "ptr": graph.ptr}


def _coo(draw: Draw) -> Drawn:
    graph, conv = _adjacency(draw), GroupedEdgeConv(CHANNELS, CHANNELS)
    ones = torch.ones(graph.index.numel())

    def call(x: Tensor, target: Tensor, index: Tensor) -> Tensor:
        pair, size = torch.stack([target, index]), (NODES, NODES)
        return conv(x, torch.sparse_coo_tensor(pair, ones, size, check_invariants=False))

    return call, {"x": _features(draw), "index": graph.index, "target": graph.targets()}


def _edge_index(draw: Draw) -> Drawn:
    conv = GroupedEdgeConv(CHANNELS, CHANNELS)
    order = draw.one_of("col", "row", None)

    def call(x: Tensor, edges: Tensor) -> Tensor:
        return conv(x, EdgeIndex(edges, sparse_size=(NODES, NODES), sort_order=order))

    return call, {"x": _features(draw), "edges": _graph(draw)}


def _linear(draw: Draw) -> Drawn:
    layer = GroupedLinear(CHANNELS, 2 * CHANNELS, groups=draw.one_of(1, 2, 8))

    def call(x: Tensor, **parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (x,))

    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    return call, {"x": _features(draw, 300), **parameters}


def _linear_cycle(draw: Draw) -> Drawn:
    layer = MGICLinear(CHANNELS, group_size=2, make_norm=torch.nn.BatchNorm1d).eval()
    return layer, {"x": _features(draw, 300)}


def _neighbors(draw: Draw) -> Drawn:
    batch = torch.arange(NODES) // draw.integer(1, NODES)
    k = draw.one_of(1, 5, 40, 1000)
    return lambda x, batch: mgic_geo.knn_graph(x, k, batch).as_tensor(), {
        "x": _features(draw, NODES, 3),
        "batch": batch,
    }


def _between(draw: Draw) -> Drawn:
    k, r = draw.one_of(1, 5, 1000), draw.one_of(0.5, 2.0)
    search = draw.one_of(
        lambda x, y, batch_x, batch_y: graphs.knn(x, y, k, batch_x, batch_y),
        lambda x, y, batch_x, batch_y: graphs.knn(x, y, k, batch_x, batch_y, cosine=True),
        lambda x, y, batch_x, batch_y: graphs.radius(x, y, r, batch_x, batch_y, k),
    )
    batch = torch.arange(NODES) // draw.integer(1, NODES)
    x, y = (_features(draw, NODES, 3) for _ in range(2))
    return search, {"x": x, "y": y, "batch_x": batch, "batch_y": batch.flip(0)}


def _radius_graph(draw: Draw) -> Drawn:
    loop, most = bool(draw.integer(0, 1)), draw.one_of(1, 32)
    batch = torch.arange(NODES) // draw.integer(1, NODES)
    return lambda x, batch: graphs.radius_graph(x, 1.0, batch, loop, most).as_tensor(), {
        "x": _features(draw, NODES, 3),
        "batch": batch,
    }


def _farthest(draw: Draw) -> Drawn:
    ratio, batch = draw.one_of(0.1, 0.5, 1.0), torch.arange(NODES) // draw.integer(1, NODES)
    return lambda x, batch: graphs.fps(x, batch, ratio, random_start=False), {
        "x": _features(draw, NODES, 3),
        "batch": batch,
    }


def _interpolated(draw: Draw) -> Drawn:
    batch = torch.arange(NODES) // draw.integer(1, NODES)
    pos_x, pos_y = (_features(draw, NODES, 3) for _ in range(2))
    arguments = {"x": _features(draw), "pos_x": pos_x, "pos_y": pos_y}
    return graphs.knn_interpolate, {**arguments, "batch_x": batch, "batch_y": batch.flip(0)}


def _dynamic(draw: Draw) -> Drawn:
    conv = DynamicEdgeConv(torch.nn.Linear(2 * CHANNELS, CHANNELS), draw.one_of(1, 4))
    return conv, {"x": _features(draw), "batch": torch.arange(NODES) // 5}


def _gradients(draw: Draw) -> Drawn:
    arguments = {"pos": _features(draw, NODES, 3), "edge_index": _graph(draw)}
    return edge_gradients, {**arguments, "batch": torch.zeros(NODES, dtype=torch.long)}


def _point_network(name: str, *, fused: bool) -> Entry:
    def drawn(draw: Draw) -> Drawn:
        torch.manual_seed(0)
        model = mgic_geo.create_model(name, 3, width=8, k=3).eval()
        model = mgic_geo.fuse(model) if fused else model
        batch = torch.arange(NODES) // 8

        def call(pos: Tensor, batch: Tensor) -> Tensor:
            with torch.no_grad():
                return model(pos, batch, 3)

        return call, {"pos": _features(draw, NODES, 3), "batch": batch}

    return drawn


_images: dict[str, tuple[Any, Any]] = {}  # with kernels and without


def _image_network(name: str) -> Entry:
    def drawn(draw: Draw) -> Drawn:
        if name not in _images:
            torch.manual_seed(0)
            model = mgic_vision.create_model(name, 3).eval()
            _images[name] = mgic_vision.fuse(model), mgic_vision.fuse(model, native="never")
        x = draw.normal(2, 3, 32, 32).float()

        def call(x: Tensor) -> Tensor:
            with torch.no_grad():
                return _images[name][build.library() is None](x)

        return call, {"x": x}

    return drawn


def _operator(draw: Draw) -> Drawn:
    known = make_inputs(draw.generator, nodes=NODES)
    name = draw.one_of(*known)
    operator = attrgetter(OPERATIONS[name].name.replace("::", "."))(torch.ops)

    def call(**arguments: Any) -> Any:
        return operator(**arguments)

    call.operator = name
    return call, dict(zip(OPERATIONS[name].names, known[name], strict=True))


ENTRIES: dict[str, Entry] = {
    "GroupedEdgeConv": _conv(
        lambda draw: GroupedEdgeConv(CHANNELS, CHANNELS, groups=draw.one_of(1, 2, 4))
    ),
    "DiffGCNConv": _conv(
        lambda draw: DiffGCNConv(CHANNELS, CHANNELS, groups=draw.one_of(1, 2, 4)), weights=True
    ),
    "MGICMessagePassing(edge)": _conv(_cycle(GroupedEdgeConv)),
    "MGICMessagePassing(diff)": _conv(_cycle(DiffGCNConv), weights=True),
    "Adjacency": _prepared(_ready_adjacency, lambda draw: GroupedEdgeConv(CHANNELS, CHANNELS)),
    "DerivativeOperators": _prepared(_ready_operators, _evaluated_or_trained),
    "spmm": _prepared(_ready_matrix, lambda draw: lambda x, matrix: spmm(matrix, x)),
    "neighbor_max": _prepared(_adjacency, lambda draw: lambda x, graph: neighbor_max(graph, x)),
    "CSR": _csr,
    "COO": _coo,
    "EdgeIndex": _edge_index,
    "GroupedLinear": _linear,
    "MGICLinear": _linear_cycle,
    "knn_graph": _neighbors,
    "knn, radius": _between,
    "radius_graph": _radius_graph,
    "fps": _farthest,
    "knn_interpolate": _interpolated,
    "DynamicEdgeConv": _dynamic,
    "edge_gradients": _gradients,
    "mgic_diffgcn": _point_network("mgic_diffgcn", fused=False),
    "mgic_dgcnn, fused": _point_network("mgic_dgcnn", fused=True),
    "mgic_diffgcn, fused": _point_network("mgic_diffgcn", fused=True),
    "mgic_mobilenetv3_small, fused": _image_network("mgic_mobilenetv3_small"),
    "operator": _operator,
    "operator, once more": _operator,
    "operator, again": _operator,
}


TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
TYPES += (torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64)
NOT_FINITE = torch.nan, torch.inf, -torch.inf, 1e18, 1e-40
OUT_OF_RANGE = -1, NODES, NODES + 1, 10**7, -(2**62), 2**62, 2**31, -(2**31)


def spoilings(draw: Draw, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Every way to spoil a tensor: what was done to it, and the result."""
    for kind in TYPES:
        if kind != x.dtype:
            yield f"as {kind}", x.to(kind)
    yield "on meta", x.to("meta")
    yield "expanded", x[:1].expand_as(x)
    yield "every second", torch.stack([x, x], -1)[..., 0]
    yield "last axis first", x.movedim(-1, 0).contiguous().movedim(0, -1)
    yield "an axis more", x[None]
    if x.dim() > 1:
        yield "an axis less", x[0]
    for axis, size in enumerate(x.shape):
        yield f"flipped along {axis}", x.flip(axis)
        yield f"none along {axis}", x.narrow(axis, 0, 0)
        yield f"one less along {axis}", x.narrow(axis, 0, max(size - 1, 0))
        yield f"one more along {axis}", torch.cat([x, x.narrow(axis, 0, min(1, size))], axis)
    if not x.numel() or x.dtype == torch.bool:
        return
    last = x.numel() - 1
    for value in NOT_FINITE if x.is_floating_point() else OUT_OF_RANGE:
        for place in {0, last, draw.integer(0, last)}:
            spoiled = x.flatten().clone()
            spoiled[place] = value
            yield f"{value} at {place}", spoiled.view_as(x)


def draw_calls(seed: int) -> Iterator[tuple[str, Call, Arguments]]:
    """A call, one of whose tensors is spoiled in every way, with what was done in words."""
    draw = Draw(seed)
    entry = list(ENTRIES)[seed % len(ENTRIES)]
    torch.manual_seed(seed)
    call, arguments = ENTRIES[entry](draw)
    name = draw.one_of(*(name for name, x in arguments.items() if isinstance(x, Tensor)))
    entry = getattr(call, "operator", entry)
    for done, spoiled in spoilings(draw, arguments[name]):
        yield f"{entry}: {name} {done}", call, {**arguments, name: spoiled}


def check(what: str, call: Call, arguments: Arguments) -> str:
    """What is wrong with how a call ends; empty where it is right."""
    operator = getattr(call, "operator", None)
    found = _end(call, arguments, kernels=True)
    if isinstance(found, Exception):
        text = str(found).lower()
        names = {word.lower().removesuffix("_t") for word in (*arguments, *ALSO)}
        named = any(name in text for name in names)
        return "" if named else f"{what}: {type(found).__name__} names no argument: {found}"
    if operator is None:
        expected = _end(call, arguments, kernels=False)
    else:  # without kernels there is no such operator: the same numbers, laid out plainly
        plain = {k: v.contiguous() if isinstance(v, Tensor) else v for k, v in arguments.items()}
        known = call if operator in DIFFERING else OPERATIONS[operator].reference
        expected = _end(known, plain, kernels=True)
    if isinstance(expected, Exception):
        return f"{what}: a result, where plain PyTorch says {type(expected).__name__}: {expected}"
    return _compare(what, found, expected)


#: operators whose kernels take what references compute again, know other types, choose another one
#: of equal neighbors, or have NaN elsewhere where a scale is infinite
DIFFERING = {
    "add_normalized_linear_backward",
    "batch_norm_act",
    "batch_norm_act_backward",
    "mix_derivatives_backward",
    "neighbor_max",
}

#: words in which PyTorch's own modules, and ours inside others, speak of an argument
ALSO = (
    "kernel",
    "height",
    "width",
    "edge",
    "node",
    "adjacency",
    "channels",
    "dtype",
    "expected",
    "finite",
    "input",
    "indices",
)


def _end(call: Call, arguments: Arguments, *, kernels: bool) -> Any:
    with nullcontext() if kernels else kernels_off():
        try:
            return call(**arguments)
        except ERRORS as error:
            return error


def _compare(what: str, found: Any, expected: Any) -> str:
    if isinstance(found, Tensor):
        found, expected = [found], [expected]
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape or one.device != other.device:
            return f"{what}: {tuple(one.shape)} on {one.device}, not {tuple(other.shape)}"
        if one.is_meta:
            continue
        one, other = one.double(), other.double()
        both = one.isfinite() & other.isfinite()
        if (one.isfinite() & ~other.isfinite()).any():
            return f"{what}: a number where plain PyTorch has none"
        scale = other[both].abs().max().clamp_min(1.0) if both.any() else 1.0
        if both.any() and (one - other)[both].abs().max() > 1e-3 * scale:
            return f"{what}: off by {float((one - other)[both].abs().max() / scale):.1e}"
    return ""


def main(args: Sequence[str]) -> None:
    """Make the calls of the seeds FIRST, ..., LAST - 1 and print what is wrong with them."""
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    made = 0
    with Path(args[2]).open("w") as file:
        for seed in range(*map(int, args[:2])):
            for what, call, arguments in draw_calls(seed):
                file.seek(0)
                file.write(f"{made} {seed} {what}")
                file.truncate()
                file.flush()
                if wrong := check(what, call, arguments):
                    print(f"{seed}, {wrong}", flush=True)
                made += 1


if __name__ == "__main__":
    main(sys.argv[1:])
