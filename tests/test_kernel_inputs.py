"""Graphs and tensors that are not what they should be are refused by name, never read outside.

Each case is one that once crashed the process or gave numbers from elsewhere in memory.
"""

import io
import time
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from training_runs import start

import mgic_geo
from mgic_geo import MGICLinear, MGICMessagePassing, edge_gradients
from mgic_geo.graphs.adjacency import Adjacency, to_adjacency
from mgic_geo.graphs.derivatives import derivative_operators
from mgic_geo.nn.diff_conv import DiffGCNConv
from mgic_geo.nn.edge_conv import GroupedEdgeConv
from mgic_geo.nn.norm_act import norm_act
from mgic_geo.ops.csrc import build
from mgic_geo.ops.grouped_linear import packing
from tests.kernels import needs_compiler

N = 30
EDGES = torch.randint(0, N, (2, 100), generator=torch.Generator().manual_seed(0))
POS = torch.rand(N, 3, generator=torch.Generator().manual_seed(1))
X = torch.randn(N, 16, generator=torch.Generator().manual_seed(2))
GRAPH = to_adjacency(EDGES, N, N)
OPERATORS = derivative_operators(GRAPH, GRAPH.sort(edge_gradients(POS, EDGES)))


def with_node(row: int, node: int) -> torch.Tensor:
    edges = EDGES.clone()
    edges[row, 50] = node
    return edges


@pytest.mark.fault(45)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("kind", [GroupedEdgeConv, DiffGCNConv])
def test_a_compiled_layer_refuses_nodes_that_do_not_exist(kind):
    torch.compiler.reset()
    conv = kind(16, 16, groups=2)
    extra = (torch.rand(100, 3),) if kind is DiffGCNConv else ()
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True, dynamic=False)
    assert_close(compiled(X, EDGES, *extra), conv(X, EDGES, *extra), rtol=1e-5, atol=1e-5)
    for row, role in ((0, "source"), (1, "target")):
        for node in (N, 10**7, -1):
            with pytest.raises(ValueError, match=f"names {role} node {node}, but there are {N}"):
                compiled(X, with_node(row, node), *extra)


def sparse(layout: str, ptr: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """A matrix that torch has not looked at."""
    options = {"size": (N, N), "check_invariants": False}
    if layout == "coo":
        pair = torch.stack([torch.arange(N).repeat_interleave(ptr.diff()), index])
        return torch.sparse_coo_tensor(pair, torch.ones(100), **options)
    make = torch.sparse_csr_tensor if layout == "csr" else torch.sparse_csc_tensor
    return make(ptr, index, torch.ones(100), **options)


@pytest.mark.fault(45)
@pytest.mark.parametrize("layout", ["csr", "coo", "csc"])
@pytest.mark.parametrize("node", [N, 10**7, -1])
def test_a_sparse_adjacency_is_looked_at(layout, node):
    graph = to_adjacency(EDGES, N, N)
    graph.index[50] = node
    with pytest.raises(ValueError, match=rf"names \w+ node {node}, but there are {N}"):
        GroupedEdgeConv(16, 16)(X, sparse(layout, graph.ptr, graph.index))


@pytest.mark.fault(45)
@pytest.mark.parametrize("place", [0, 10, N])
def test_pointers_of_a_sparse_adjacency_are_looked_at(place):
    graph = to_adjacency(EDGES, N, N)
    graph.ptr[place] = 10**6
    with pytest.raises(ValueError, match="pointers that rise from 0 to 100"):
        GroupedEdgeConv(16, 16)(X, sparse("csr", graph.ptr, graph.index))


@pytest.mark.fault(45)
@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("count", [1, N, N + 2])
def test_a_sparse_adjacency_has_a_pointer_for_every_row_and_one_more(layout, count):
    graph = to_adjacency(EDGES, N, N)
    ptr = torch.cat([graph.ptr, graph.ptr[-1:]])[-count:]
    with pytest.raises(ValueError, match=rf"must have {N + 1} pointers \(ptr\), got {count}"):
        GroupedEdgeConv(16, 16)(X, sparse(layout, ptr, graph.index))


@pytest.mark.fault(46)
@pytest.mark.parametrize("nodes", [50, 10])
def test_a_graph_of_another_size_is_refused_with_both_numbers(nodes):
    x = torch.randn(nodes, 16)
    with pytest.raises(ValueError, match=f"those of {N} nodes, got features of {nodes}"):
        DiffGCNConv(16, 16)(x, OPERATORS)
    for layer in (GroupedEdgeConv(16, 16), MGICMessagePassing(16, 16, GroupedEdgeConv)):
        with pytest.raises(ValueError, match=f"{N} sources and {N} targets, got .* {nodes}"):
            layer(x, GRAPH)


@pytest.mark.fault(45)
@needs_compiler
@pytest.mark.parametrize("node", [N, 10**7, -1, -(2**62)])
def test_ready_made_graphs_are_looked_at_where_they_are_read(node):
    for layer, graph in ((GroupedEdgeConv, GRAPH), (DiffGCNConv, OPERATORS)):
        bad = graph._replace(index=graph.index.clone())
        bad.index[50] = node
        with pytest.raises(ValueError, match=rf"index\[50\] must be from 0 to {N - 1}, got {node}"):
            layer(16, 16)(X, bad)


@needs_compiler
def test_clouds_that_edges_leave_are_refused():
    edges = torch.randint(0, 1500, (2, 4000))
    graph = to_adjacency(edges, 1500, 1500)
    operators = derivative_operators(graph, torch.rand(4000, 3))
    wrong = operators._replace(crossings=torch.zeros_like(operators.crossings))
    with pytest.raises(ValueError, match="crossings must count the edges"):
        DiffGCNConv(16, 16)(torch.randn(1500, 16), wrong)


@needs_compiler
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_an_empty_tensor_is_not_taken_for_one_that_is_not_there(name):
    norm = nn.BatchNorm1d(16)
    setattr(norm, name, nn.Parameter(torch.empty(0)))
    with pytest.raises(ValueError, match=f"{name} must have 16 numbers, got 0"):
        norm_act(norm, None, X)


@needs_compiler
def test_sums_without_room_are_refused():
    x, y, plan = torch.randn(N, 16), torch.empty(N, 16), packing(1, 16, 16, 7, lanes=build.lanes())
    of_graph = (OPERATORS.ptr, OPERATORS.index, OPERATORS.value, OPERATORS.crossings)
    mix = (plan.begins, plan.inputs, 16, *plan.pack(torch.randn(1, 16, 112)), None, 0, None, y)
    sums = (x, 16, plan.begins, plan.inputs, plan.inverse, torch.empty(1, 16, 112), None)
    with pytest.raises(ValueError, match="grad_bias must have 16 numbers, got 0"):
        build.run("mgic_mix_derivatives", x, N, 16, *of_graph, *mix, *sums)


SOURCE, TARGET = EDGES.repeat(1, 2)[:, :101]
WEIGHT = torch.randn(2, 3, 8)
MIX = torch.randn(2, 3, 56)
FITTING = {
    "grouped_linear": {"x": X, "weight": WEIGHT, "bias": None},
    "grouped_linear_weight": {"x": X, "grad": X, "groups": 2},
    "mix_derivatives": {
        "x": X,
        "weight": MIX,
        "bias": None,
        "subtrahend": None,
        "relu": False,
        **OPERATORS._asdict(),
    },
    "edge_gradients": {
        "pos": POS,
        "source": EDGES[0],
        "target": EDGES[1],
        "batch": None,
        "softening": 0.0,
    },
    "derivative_operators": {
        "ptr": GRAPH.ptr,
        "index": GRAPH.index,
        "edge_value": torch.rand(100, 3),
    },
    "add_at_rows": {"grad": X, "row": torch.zeros(N, 16).long(), "num_rows": N},
    "spmm": {
        "x": X,
        "ptr": GRAPH.ptr,
        "index": GRAPH.index,
        "value": torch.rand(100),
        "ptr_t": GRAPH.ptr,
        "index_t": GRAPH.index,
        "value_t": torch.rand(100),
    },
    "compress": {"source": EDGES[0], "target": EDGES[1], "num_sources": N, "num_targets": N},
    "knn": {"x": X, "batch": torch.zeros(N).long(), "k": 3, "backend": "auto"},
}
REFUSED = [
    *(
        (name, {"x": X.repeat(1, 2)[:, :n]}, rf"x must be .*got shapes? \({N}, {n}\)")
        for name in ("grouped_linear", "mix_derivatives")
        for n in (0, 14, 15, 17, 32)
    ),
    ("grouped_linear", {"weight": WEIGHT[..., 1:]}, r"x must be \(N, 14\), got shape"),
    ("grouped_linear_weight", {"groups": 3}, "groups must divide .* got 3 for 16 and 16"),
    ("mix_derivatives", {"weight": MIX[..., 1:]}, r"got shapes .* and \(2, 3, 55\)"),
    ("mix_derivatives", {"ptr": OPERATORS.ptr[None]}, r"ptr must have 1 axis"),
    ("edge_gradients", {"source": EDGES[:1]}, "source must have 1 axis"),
    ("edge_gradients", {"batch": torch.zeros(1, N).long()}, "batch must have 1 axis"),
    ("derivative_operators", {"edge_value": torch.rand(1, 100, 3)}, "edge_value must have 2 axes"),
    ("add_at_rows", {"row": torch.zeros(1, N, 16).long()}, "row must have 2 axes"),
    *(
        ("spmm", {part: getattr(GRAPH, part).to(kind)}, rf"must be int64 or int32, got .*{kind}")
        for part in ("ptr", "index")
        for kind in (torch.uint8, torch.bool)
    ),
    *(("compress", {"source": SOURCE[:n]}, rf"\({n},\) and \(100,\)") for n in (0, 99, 101)),
    *(("compress", {"target": TARGET[:n]}, rf"\(100,\) and \({n},\)") for n in (0, 99, 101)),
    *(
        ("compress", {name: row.to(kind)}, f"must be int64, got .*{kind}")
        for name, row in (("source", EDGES[0]), ("target", EDGES[1]))
        for kind in (torch.complex64, torch.float32, torch.int32, torch.bool)
    ),
    *(
        ("knn", {"batch": torch.zeros(n).long()}, rf"batch must be \({N},\), got shape \({n},\)")
        for n in (0, N - 1, N + 1)
    ),
]


@needs_compiler
@pytest.mark.parametrize(("name", "wrong", "message"), REFUSED)
def test_operators_refuse_other_sizes_and_types_by_name(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        getattr(torch.ops.mgic, name)(**FITTING[name] | wrong)


def test_an_order_that_is_not_there_is_refused():
    edges = EdgeIndex(EDGES, sparse_size=(N, N), sort_order="col")
    with pytest.raises(ValueError, match="says that it is sorted by target"):
        GroupedEdgeConv(16, 16)(X, edges)


@pytest.mark.parametrize("width", [8, 14, 28, 32])
def test_a_differential_convolution_refuses_other_widths(width):
    weights = edge_gradients(POS, EDGES)
    with pytest.raises(ValueError, match=rf"x must be \(N, 16\), got shape \({N}, {width}\)"):
        DiffGCNConv(16, 16)(torch.randn(N, width), EDGES, weights)


@pytest.mark.fault(47)
@needs_compiler
def test_a_bias_of_another_kind_is_refused_by_name():
    x, layer = torch.randn(300, 16), mgic_geo.GroupedLinear(16, 16, groups=4)
    wrong = {
        "float64": torch.randn(16).double(),
        "bfloat16": torch.randn(16).bfloat16(),
        "meta": torch.randn(16, device="meta"),
        "15": torch.randn(15),
        "24": torch.randn(24),
    }
    for text, bias in wrong.items():
        layer.bias = nn.Parameter(bias)
        with pytest.raises((TypeError, ValueError), match=f"bias.*{text}"):
            layer(x)
    layer.bias = nn.Parameter(torch.randn(2, 16).t()[:, 0])  # every second number
    expected = nn.functional.linear(x, torch.block_diag(*layer.weight), layer.bias)
    assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.fault(47)
def test_graphs_and_weights_of_other_types_are_right():
    conv, edge = DiffGCNConv(16, 16), GroupedEdgeConv(16, 16)
    weights = edge_gradients(POS, EDGES)
    expected = conv(X, EDGES, weights)
    assert_close(conv(X, EDGES, weights.double()), expected, rtol=1e-4, atol=1e-4)
    assert_close(edge_gradients(POS, EDGES.int()), weights, rtol=0, atol=0)
    assert_close(conv(X, EDGES.int(), weights), expected, rtol=0, atol=0)
    short = Adjacency(GRAPH.ptr.int(), GRAPH.index.int(), N)
    assert_close(edge(X, short), edge(X, GRAPH), rtol=0, atol=0)


@needs_compiler
def test_tensors_without_content_have_shapes_and_are_never_read():
    layer = MGICLinear(16, group_size=4)
    with pytest.raises(ValueError, match=r"x must be floating point on cpu, got .* on meta"):
        layer(torch.randn(300, 16, device="meta"))
    assert layer.to("meta")(torch.randn(300, 16, device="meta")).shape == (300, 16)


@pytest.mark.parametrize("backend", ["auto", "exact"])
def test_points_without_coordinates_have_no_neighbors(backend):
    with pytest.raises(ValueError, match=r"x must be \(N, D\) with D >= 1, got shape \(5, 0\)"):
        torch.ops.mgic.knn(torch.rand(5, 0), None, 2, backend)


@pytest.mark.fault(51)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace")
@pytest.mark.parametrize("grad", [True, False])
def test_traced_layers_compute_what_they_get(grad):
    torch.manual_seed(0)
    layer = MGICLinear(32, group_size=8, make_norm=nn.BatchNorm1d, make_act=nn.ReLU).eval()
    x, other = torch.randn(2, 300, 32)
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(layer, (x,))
        assert_close(traced(other), layer(other), rtol=1e-5, atol=1e-5)
        assert_close(traced(x[:40]), layer(x[:40]), rtol=1e-5, atol=1e-5)


@pytest.mark.fault(51)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace")
@pytest.mark.parametrize("name", ["mgic_diffgcn", "mgic_dgcnn"])
def test_traced_networks_compute_what_they_get(name):
    torch.manual_seed(0)
    model = mgic_geo.create_model(name, 4, width=16, k=4).eval()
    batch = torch.arange(60) // 20
    model.requires_grad_(False)  # a function has no parameters, and these become constants
    traced = torch.jit.trace(lambda pos: model(pos, batch, 3), (torch.rand(60, 3),))
    other = torch.rand(60, 3)
    assert_close(traced(other), model(other, batch, 3), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_the_older_onnx_export_has_its_inputs():
    torch.manual_seed(0)
    layer = MGICLinear(32, group_size=8, make_norm=nn.BatchNorm1d, make_act=nn.ReLU).eval()
    x, other = torch.randn(2, 300, 32)
    file = io.BytesIO()
    torch.onnx.export(layer, (x,), file, dynamo=False, input_names=["x"])
    session = onnxruntime.InferenceSession(file.getvalue())
    (found,) = session.run(None, {"x": other.numpy()})
    assert_close(torch.from_numpy(found), layer(other), rtol=1e-4, atol=1e-4)


SEEDS = 27  # in the default run: every entry once, some 1,000 calls


@needs_compiler
def test_drawn_wrong_inputs_are_right_or_an_error_that_names_them(tmp_path):
    made, wrong = _fuzz(0, SEEDS, tmp_path / "call")
    assert not wrong, "\n".join(wrong)
    assert made > 10 * SEEDS


@pytest.mark.slow
def test_many_drawn_wrong_inputs(tmp_path, pytestconfig):
    """As many as ``--fuzz-minutes`` allow."""
    end = time.monotonic() + 60 * pytestconfig.getoption("fuzz_minutes")
    first = seed = pytestconfig.getoption("fuzz_seed")
    calls, wrong = 0, list[str]()
    while time.monotonic() < end and len(wrong) < 40:
        made, found = _fuzz(seed, seed + SEEDS, tmp_path / "call")
        seed, calls, wrong = seed + SEEDS, calls + made, wrong + found
    print(f"{calls} calls, seeds {first} to {seed - 1}")
    assert not wrong, "\n".join(wrong)


def _fuzz(first: int, last: int, log: Path) -> tuple[int, list[str]]:
    """How many calls a process made, and what went wrong; it is started again after a crash."""
    calls, found = 0, list[str]()
    while first < last:
        process = start(log.with_suffix(".txt"), first, last, log, script="tests.fuzz_inputs")
        process.join()
        found += log.with_suffix(".txt").read_text().splitlines()
        made, seed, what = log.read_text().split(" ", 2)
        calls += int(made) + 1
        if not process.exitcode:
            break
        found.append(f"{seed}, {what}: ended with {process.exitcode}")
        first = int(seed) + 1
    return calls, found
