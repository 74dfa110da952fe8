import copy
import pickle

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.nn import EdgeConv

from mgic_geo import GroupedEdgeConv
from tests import oracles

pytestmark = pytest.mark.usefixtures("kernels")

# (in_channels, out_channels, groups)
SHAPES = [(8, 12, 1), (8, 12, 2), (8, 12, 4), (6, 6, 6), (6, 3, 3), (512, 64, 8)]
# unsorted, a self-loop, an edge that is there twice; node 5 has no neighbors, node 4 is nobody's
EDGES = torch.tensor([[3, 0, 1, 3, 2, 0, 5, 1], [2, 1, 0, 0, 2, 1, 3, 4]])
NUM_NODES = 6
EXACT = {"rtol": 0, "atol": 0}


def layer_and_nodes(shape=(8, 12, 2), **options) -> tuple[GroupedEdgeConv, Tensor]:
    torch.manual_seed(0)
    in_channels, out_channels, groups = shape
    conv = GroupedEdgeConv(in_channels, out_channels, groups=groups, **options).double()
    return conv, torch.randn(NUM_NODES, in_channels, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_pyg_edge_conv_group_by_group(shape, bias):
    conv, x = layer_and_nodes(shape, bias=bias)
    expected = oracles.edge_conv(conv.lin.weight, conv.lin.bias, x, EDGES)
    assert_close(conv(x, EDGES), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_equals_pyg_edge_conv_group_by_group(shape):
    conv, x = layer_and_nodes(shape)
    conv, x = conv.float(), x.float()
    expected = oracles.edge_conv(conv.lin.weight, conv.lin.bias, x, EDGES)
    assert_close(conv(x, EDGES), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_those_of_pyg_edge_conv(shape):
    conv, x = layer_and_nodes(shape)
    inputs = x.requires_grad_(), conv.lin.weight, conv.lin.bias
    ours, theirs = conv(x, EDGES), oracles.edge_conv(conv.lin.weight, conv.lin.bias, x, EDGES)
    assert_close(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(theirs.square().sum(), inputs),
        rtol=1e-12,
        atol=1e-12,
    )


def test_one_group_takes_the_weights_of_pyg_edge_conv_as_they_are():
    conv, x = layer_and_nodes((8, 12, 1))
    pyg = EdgeConv(torch.nn.Linear(16, 12)).double()
    conv.load_state_dict({"lin.weight": pyg.nn.weight[None], "lin.bias": pyg.nn.bias})
    assert_close(conv(x, EDGES), pyg(x, EDGES), rtol=1e-12, atol=1e-12)


def test_an_edge_says_source_minus_target_and_not_the_reverse():
    conv = GroupedEdgeConv(1, 2, bias=False)
    conv.lin.weight.data = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # rows: x_i, x_j - x_i
    x = torch.tensor([[1.0], [5.0], [2.0]])
    y = conv(x, torch.tensor([[1, 2, 0], [0, 0, 1]]))
    # node 0 hears 5 - 1 and 2 - 1, node 1 hears 1 - 5, node 2 nobody
    assert_close(y, torch.tensor([[1.0, 4.0], [5.0, -4.0], [0.0, 0.0]]))


def test_node_without_neighbors_gives_0_in_spite_of_the_bias():
    conv, x = layer_and_nodes()
    assert_close(conv(x, EDGES)[5], torch.zeros(12, dtype=torch.float64), **EXACT)


def test_node_without_neighbors_gives_the_bias_no_gradient():
    conv, x = layer_and_nodes()
    conv(x, EDGES)[5].sum().backward()
    assert_close(conv.lin.bias.grad, torch.zeros(12, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("groups", [1, 2])
def test_bipartite_pair_equals_pyg_edge_conv(groups):
    conv, source = layer_and_nodes((8, 12, groups))
    target = torch.randn(4, 8, dtype=torch.float64)
    edges = torch.tensor([[5, 4, 0, 5], [0, 2, 2, 1]])
    expected = oracles.edge_conv(conv.lin.weight, conv.lin.bias, (source, target), edges)
    assert expected.shape == (4, 12)
    assert_close(conv((source, target), edges), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_propagating_the_message_reaches_what_forward_does(shape):
    conv, x = layer_and_nodes(shape)
    assert_close(conv.propagate(EDGES, x=x), conv(x, EDGES), rtol=1e-12, atol=1e-12)


def test_message_of_no_edges_is_empty():
    conv, x = layer_and_nodes()
    assert conv.message(x[:0], x[:0]).shape == (0, 12)


def test_every_kind_of_adjacency_gives_the_same():
    conv, x = layer_and_nodes()
    edges = EDGES.unique(dim=1)[:, torch.randperm(7)]
    size = (NUM_NODES, NUM_NODES)
    matrix = torch.sparse_coo_tensor(edges.flip(0), torch.ones(7), size)
    kinds = [
        EdgeIndex(edges, sparse_size=size),
        EdgeIndex(edges, sparse_size=size).sort_by("col")[0],
    ]
    kinds += [matrix, matrix.to_sparse_csr(), conv.prepare(x, edges)]
    for adjacency in kinds:
        assert_close(conv(x, adjacency), conv(x, edges), **EXACT)


def test_permuting_nodes_permutes_outputs():
    conv, x = layer_and_nodes()
    order = torch.tensor([4, 2, 0, 5, 3, 1])
    permuted = conv(x[order], order.argsort()[EDGES])
    assert_close(permuted, conv(x, EDGES)[order], rtol=1e-12, atol=1e-12)


def test_two_graphs_at_once_equal_two_runs():
    conv, x = layer_and_nodes()
    both = torch.cat([x, -x])
    together = conv(both, torch.cat([EDGES, EDGES + NUM_NODES], dim=1))
    apart = torch.cat([conv(x, EDGES), conv(-x, EDGES)])
    assert_close(together, apart, rtol=1e-14, atol=1e-14)


def test_group_sees_its_own_channels_only():
    conv, x = layer_and_nodes((8, 12, 2))
    changed = torch.cat([x[:, :4], torch.randn(NUM_NODES, 4).double()], dim=1)
    assert_close(conv(changed, EDGES)[:, :6], conv(x, EDGES)[:, :6], **EXACT)
    assert (conv(changed, EDGES)[:5, 6:] != conv(x, EDGES)[:5, 6:]).all()


@pytest.mark.fault(30)
@pytest.mark.parametrize("num_nodes", [0, 3])
def test_graph_without_edges_gives_0(num_nodes):
    conv, _ = layer_and_nodes()
    none = torch.zeros(2, 0, dtype=torch.long)
    y = conv(torch.randn(num_nodes, 8).double(), none)
    assert_close(y, torch.zeros(num_nodes, 12, dtype=torch.float64))


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_is_differentiable_twice(check):
    conv, x = layer_and_nodes((4, 4, 2))
    assert check(lambda x: conv(x, EDGES).square(), (x.requires_grad_(),))


def test_autocast_computes_in_bfloat16():
    conv, x = layer_and_nodes()
    conv, x = conv.float(), x.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x, EDGES)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert_close(y.float(), conv(x, EDGES), rtol=0.05, atol=0.05)


def test_compiles_to_one_graph():
    conv, x = layer_and_nodes()
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True, dynamic=False)
    results = []
    for function in (conv, compiled):
        y = function(x.requires_grad_(), EDGES)
        results.append((y, torch.autograd.grad(y.square().sum(), x)))
    assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_those_of_the_cost_line(shape):
    in_channels, out_channels, groups = shape
    weights = sum(p.numel() for p in GroupedEdgeConv(*shape[:2], groups=groups).parameters())
    assert weights == 2 * in_channels * out_channels // groups + out_channels


def test_state_dict_pickle_and_deep_copy_keep_the_values():
    conv, x = layer_and_nodes()
    fresh = GroupedEdgeConv(8, 12, groups=2).double()
    fresh.load_state_dict(conv.state_dict())
    for twin in (fresh, copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert_close(twin(x, EDGES), conv(x, EDGES), **EXACT)


def test_reset_parameters_draws_all_weights_again():
    conv, _ = layer_and_nodes()
    before = copy.deepcopy(conv.state_dict())
    conv.reset_parameters()
    assert not any(torch.equal(value, before[name]) for name, value in conv.state_dict().items())


def test_repr_shows_widths_and_groups():
    assert repr(GroupedEdgeConv(8, 12, groups=2)) == "GroupedEdgeConv(8, 12, groups=2)"


@pytest.mark.parametrize(("shape", "groups"), [((8, 6), 4), ((6, 8), 4), ((8, 8), 0)])
def test_groups_that_do_not_divide_both_widths_are_refused(shape, groups):
    with pytest.raises(ValueError, match=f"out_channels {shape[1]}, got {groups}"):
        GroupedEdgeConv(*shape, groups=groups)


def test_edges_beyond_the_nodes_are_refused():
    conv, x = layer_and_nodes()
    with pytest.raises(ValueError, match="source node 5, but there are 3 source nodes"):
        conv(x[:3], EDGES)
