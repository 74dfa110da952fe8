"""Laws that every layer keeps, whatever it computes."""

import copy
import io
import pickle
from functools import partial

import pytest
import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.utils import to_torch_csr_tensor

from mgic_geo import (
    MGICGNN,
    MGICMLP,
    DiffGCNConv,
    GroupedEdgeConv,
    GroupedLinear,
    MGICBlock,
    MGICLinear,
    MGICMessagePassing,
    Residual,
    edge_gradients,
    make_grouped_conv,
    multiply_adds,
    num_weights,
    transfer,
)
from mgic_geo.graphs.adjacency import to_adjacency
from mgic_geo.nn.width_change import WidthChange
from tests.graphs import CONVS, EDGES, NODES
from tests.slow import some

kernels = pytest.mark.usefixtures("kernels")
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
POS = torch.rand(NODES, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ATTR = edge_gradients(POS, EDGES)


def block(channels: int, **options) -> MGICBlock:
    def layer(level):
        return Residual(GroupedLinear(level.outer, level.outer, groups=level.groups))

    return MGICBlock(channels, layer, transfer, group_size=4, coarse_size=4, **options)


GROUPED = {
    "GroupedLinear": lambda: GroupedLinear(32, 48, groups=4),
    "GroupedEdgeConv": lambda: GroupedEdgeConv(32, 48, groups=4),
    "DiffGCNConv": lambda: DiffGCNConv(32, 48, groups=4),
}
OURS = {conv.__name__: conv for conv in (GroupedEdgeConv, DiffGCNConv)}
CYCLES = {
    f"MGIC {name}": lambda conv=conv, **sizes: MGICMessagePassing(32, 64, conv, **sizes)
    for name, conv in (CONVS | OURS | {"factory": lambda i, o: pyg.SAGEConv(i, o)}).items()
}
STRATEGIES = {  # of a class and of a function, which cannot be pickled
    f"{name}, {strategy}": partial(make_grouped_conv, conv, 32, 48, 4, strategy=strategy)
    for name, conv in {**CONVS, "a function": lambda i, o: pyg.GATConv(i, o)}.items()
    for strategy in ("wide", "vmap", "loop")
    if conv is not GroupedEdgeConv
}
ON_ROWS = {
    "WidthChange": lambda: WidthChange(32, 48, group_size=8),
    "MGICBlock": lambda: block(32, make_norm=nn.BatchNorm1d),
    "MGICLinear": lambda: MGICLinear(32, group_size=8, make_norm=nn.LayerNorm, make_act=nn.ReLU),
    "MGICMLP": lambda: MGICMLP(32, 64, 3, 2, group_size=8),
}
GNN = {"MGICGNN": lambda: MGICGNN(32, 32, 2, 4, conv=pyg.SAGEConv, group_size=8)}
LAYERS = GROUPED | ON_ROWS | STRATEGIES | CYCLES | GNN


def make(name: str, seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return LAYERS[name](**options)


def features(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(NODES, 32, generator=torch.Generator().manual_seed(2), dtype=dtype)


def further(name: str, edges: Tensor = EDGES, attr: Tensor = ATTR) -> tuple[Tensor, ...]:
    """What a layer takes beside the features."""
    if name == "GroupedLinear" or name in ON_ROWS:
        return ()
    return (edges, attr) if "Diff" in name else (edges,)


ON_GRAPHS = [name for name in LAYERS if further(name)]


def single(tensors) -> list[Tensor]:
    return [x.float() if x.is_floating_point() else x for x in tensors]


@pytest.mark.parametrize("name", LAYERS)
def test_copies_pickles_and_saved_states_give_the_same_layer(name):
    layer, inputs = make(name).eval(), single([features(), *further(name)])
    other, stream = make(name, seed=1).eval(), io.BytesIO()
    torch.save(layer.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    twins = [other, copy.deepcopy(layer)]
    if "gin" not in name:  # PyG's own module cannot be pickled
        twins.append(pickle.loads(pickle.dumps(layer)))
    for twin in twins:
        assert_close(twin(*inputs), layer(*inputs), **EXACT)


@pytest.mark.parametrize("name", LAYERS)
def test_reset_draws_all_weights_again_by_their_rules(name):
    layer = make(name)
    before = copy.deepcopy(dict(layer.named_parameters()))
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 7.0)
    layer.reset_parameters()
    for key, parameter in layer.named_parameters():
        assert not (parameter == 7).any(), key
        if before[key].unique().numel() == 1:  # biases and norms that begin as constants
            assert_close(parameter, before[key], **EXACT)
        else:
            assert not torch.equal(parameter, before[key]), key
    for cycle in (module for module in layer.modules() if isinstance(module, MGICBlock)):
        for weight in (module.weight for module in (*cycle.restrict, *cycle.prolong)):
            assert (weight > 0).all()
            assert (weight.amax(-1) >= 0.45).all()  # aggregation: rows hold a pair or a parent
            assert_close(weight.sum(-1), torch.ones(weight.shape[:2]))


@pytest.mark.parametrize("name", LAYERS)
def test_every_parameter_gets_a_gradient(name):
    layer = make(name)
    layer(*single([features(), *further(name)])).square().sum().backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", ON_GRAPHS)
def test_permuting_nodes_permutes_outputs(name):
    layer, x = make(name).double().eval(), features()
    order = torch.randperm(NODES, generator=torch.Generator().manual_seed(3))
    permuted = layer(x[order], *further(name, order.argsort()[EDGES]))
    assert_close(permuted, layer(x, *further(name))[order], **CLOSE)


@pytest.mark.parametrize("name", ON_GRAPHS)
def test_two_graphs_at_once_equal_two_runs(name):
    layer, x = make(name).double().eval(), features()
    both = further(name, torch.cat([EDGES, EDGES + NODES], dim=1), torch.cat([ATTR, ATTR]))
    apart = torch.cat([layer(x, *further(name)), layer(-x, *further(name))])
    assert_close(layer(torch.cat([x, -x]), *both), apart, **CLOSE)


def kinds_of_adjacency(name: str):
    size = NODES, NODES
    index = EdgeIndex(EDGES, sparse_size=size)
    yield index.sort_by("col").values
    if "GAT" in name or "Transformer" in name:
        return
    if name.removeprefix("MGIC ") not in OURS:
        yield to_torch_csr_tensor(EDGES, size=size).t().to_sparse_csr()
        return
    matrix = torch.sparse_coo_tensor(EDGES.flip(0), torch.ones(EDGES.size(1)), size)
    yield from (EDGES.flip(1), index, matrix, matrix.to_sparse_csr(), to_adjacency(EDGES, *size))


@pytest.mark.parametrize("name", ON_GRAPHS)
def test_every_kind_of_adjacency_gives_the_same_with_attributes_in_its_own_order(name):
    layer = make(name).eval()
    x, pos = features(torch.float32), POS.float()
    expected = layer(x, *further(name, EDGES, edge_gradients(pos, EDGES)))
    for edges in kinds_of_adjacency(name):
        attr = edge_gradients(pos, edges) if "Diff" in name else ATTR
        assert_close(layer(x, *further(name, edges, attr)), expected)


@kernels
@pytest.mark.parametrize("name", GROUPED)
def test_a_group_sees_its_own_channels_only(name):
    layer, x = make(name), features(torch.float32)
    changed = torch.cat([x[:, :8], x[:, 8:] + torch.rand(NODES, 24)], dim=1)
    inputs = single(further(name))
    y, other = layer(x, *inputs), layer(changed, *inputs)
    assert_close(other[:, :12], y[:, :12], **EXACT)
    heard = EDGES[1].unique()  # without neighbors an edge convolution gives 0
    assert (other[heard, 12:] != y[heard, 12:]).all()


AUTOCAST = {"GroupedLinear": (0.02, 0.02), "DiffGCNConv": (0.05, 0.1)}


@kernels
@pytest.mark.parametrize("name", GROUPED | STRATEGIES | CYCLES)
def test_autocast_computes_in_bfloat16_and_stays_near_full_precision(name):
    layer, inputs = make(name).eval(), single([features(), *further(name)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(*inputs)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 or name not in GROUPED
    rtol, atol = AUTOCAST.get(name, (0.1, 0.05) if name in CYCLES else (0.05, 0.05))
    assert_close(y.float(), layer(*inputs), rtol=rtol, atol=atol)


QUICK = (
    *("GroupedEdgeConv", "MGIC GATConv", "MGIC GroupedEdgeConv"),
    *("GCNConv, wide", "SAGEConv, wide", "GraphConv, wide", "SAGEConv, loop"),
)


# the last one as in its cycle
@pytest.mark.parametrize("name", some(dict.fromkeys([*QUICK, *CYCLES, "GATConv, vmap"]), *QUICK))
def test_layers_compile_to_one_graph_with_the_same_gradients(name):
    torch.compiler.reset()
    # two levels; all others have more, which take as long again
    sizes = {"group_size": 32} if name in ("MGIC GATConv", "MGIC GroupedEdgeConv") else {}
    layer, x = make(name, **sizes).double().eval(), features().requires_grad_()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    results = []
    for function in (layer, compiled):
        y = function(x, *further(name))
        results.append((y, torch.autograd.grad(y.square().sum(), x)))
    assert_close(*results, rtol=1e-9, atol=1e-9)


SMOOTH = {
    "GroupedLinear, dense": (GroupedLinear(4, 6), 4),
    "GroupedLinear": (GroupedLinear(4, 6, groups=2), 4),
    "GroupedEdgeConv": (GroupedEdgeConv(4, 4, groups=2), 4),
    "DiffGCNConv": (DiffGCNConv(4, 2, groups=2), 4),
    "MGICLinear": (MGICLinear(8, group_size=2, make_act=nn.Tanh), 8),
    "MGICBlock": (block(12), 12),
}


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("name", SMOOTH)
def test_is_differentiable_twice_in_inputs_and_parameters(name, check):
    layer, channels = SMOOTH[name]
    layer = copy.deepcopy(layer).double()
    edges = torch.tensor([[1, 2, 2, 0], [0, 0, 1, 1]])
    graph, attr = (edges,) if "Conv" in name else (), torch.randn(4, 3).double()
    x = torch.randn(3 if graph else 2, channels).double()
    leaves = dict(layer.named_parameters()) | {"x": x}
    leaves |= {"edge_attr": attr} if "Diff" in name else {}

    def apply(*tensors: Tensor) -> Tensor:
        state = dict(zip(leaves, tensors, strict=True))
        attr = (state.pop("edge_attr"),) if "Diff" in name else ()
        return torch.func.functional_call(layer, state, (state.pop("x"), *graph, *attr)).square()

    assert check(apply, tuple(leaf.detach().requires_grad_() for leaf in leaves.values()))


@kernels
@pytest.mark.parametrize("name", GROUPED)
def test_single_precision_is_differentiable_twice(name):
    layer = make(name)

    def curvature(dtype: torch.dtype) -> Tensor:
        at = features().to(dtype).requires_grad_()
        inputs = [x.to(dtype) if x.is_floating_point() else x for x in further(name)]
        y = layer.to(dtype)(at.tanh(), *inputs)
        slope = torch.autograd.grad(y.square().sum(), at, create_graph=True)[0]
        return torch.autograd.grad(slope.square().sum(), at)[0]

    single, double = curvature(torch.float32).double(), curvature(torch.float64)
    assert_close(single / double.abs().max(), double / double.abs().max(), rtol=0, atol=1e-4)


# (in_channels, out_channels, groups)
SHAPES = [(8, 8, 1), (8, 16, 4), (16, 8, 8), (6, 9, 3), (5, 5, 5), (64, 64, 16), (512, 512, 64)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("kind", "operands"), [(GroupedLinear, 1), (GroupedEdgeConv, 2), (DiffGCNConv, 7)]
)
def test_weights_and_multiply_adds_are_those_of_the_cost_line(kind, operands, shape):
    in_channels, out_channels, groups = shape
    layer = kind(in_channels, out_channels, groups=groups)
    maps = operands * in_channels * out_channels // groups
    # six operators, edges and a loop at every node
    derivatives = 6 * (EDGES.size(1) + NODES) * in_channels * (kind is DiffGCNConv)
    assert num_weights(layer) == maps + out_channels
    inputs = single([torch.ones(NODES, in_channels), *further(kind.__name__)])
    assert multiply_adds(layer, *inputs) == NODES * maps + derivatives


@pytest.mark.parametrize("kind", [GroupedLinear, GroupedEdgeConv, DiffGCNConv])
@pytest.mark.parametrize(("shape", "groups"), [((8, 6), 4), ((6, 8), 4), ((8, 8), 0), ((8, 8), -2)])
def test_groups_that_do_not_divide_both_widths_are_refused(kind, shape, groups):
    message = f"must divide in_channels {shape[0]} and out_channels {shape[1]}, got {groups}"
    with pytest.raises(ValueError, match=message):
        kind(*shape, groups=groups)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (GroupedLinear(8, 16, groups=4), "GroupedLinear(8, 16, groups=4, bias=True)"),
        (GroupedEdgeConv(8, 12, groups=2), "GroupedEdgeConv(8, 12, groups=2)"),
        (DiffGCNConv(8, 12, groups=2), "DiffGCNConv(8, 12, groups=2)"),
        (WidthChange(8, 12, group_size=4), "WidthChange(8, 12, groups=2)"),
        (WidthChange(-1, 12, group_size=4), "WidthChange(-1, 12, groups=1)"),
    ],
)
def test_repr_shows_widths_and_groups(layer, text):
    assert repr(layer) == text
