import copy
import pickle

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch_geometric import EdgeIndex

from mgic_geo import DiffGCNConv, edge_gradients, multiply_adds
from mgic_geo.graphs.adjacency import to_adjacency
from tests import oracles

pytestmark = pytest.mark.usefixtures("kernels")

# (in_channels, out_channels, groups)
SHAPES = [(8, 12, 1), (8, 12, 2), (8, 12, 4), (6, 6, 6), (6, 3, 3), (64, 48, 8)]
SHAPES += [(64, 64, 8), (128, 32, 2), (33, 3, 3)]  # several wide blocks
# unsorted, a self-loop, duplicate points 2 and 3; node 5 has no neighbors
EDGES = torch.tensor([[3, 0, 1, 3, 2, 4, 5, 1], [2, 1, 0, 0, 2, 1, 3, 4]])
NUM_NODES = 6
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def layer_and_cloud(shape=(8, 12, 2)) -> tuple[DiffGCNConv, Tensor, Tensor]:
    torch.manual_seed(0)
    in_channels, out_channels, groups = shape
    conv = DiffGCNConv(in_channels, out_channels, groups=groups).double()
    pos = torch.randn(NUM_NODES, 3, dtype=torch.float64)
    pos[3] = pos[2]
    x = torch.randn(NUM_NODES, in_channels, dtype=torch.float64)
    return conv, x, edge_gradients(pos, EDGES)


def each_operator() -> DiffGCNConv:
    """One channel in, the seven operators out."""
    conv = DiffGCNConv(1, 7, bias=False).double()
    conv.lin.weight.data = torch.eye(7, dtype=torch.float64).unsqueeze(0)
    return conv


def test_operators_equal_the_table_worked_by_hand():
    pos = torch.tensor([[0, 0, 0], [2, 0, 0], [0, 1, 0]], dtype=torch.float64)
    edges = torch.tensor([[1, 2, 0, 0], [0, 0, 1, 2]])
    # lengths 2, 1, 2, 1: h = 3/2; the weight of an edge is h / degree * d / |d|^2
    attr = torch.tensor([[3 / 8, 0, 0], [0, 3 / 4, 0], [-3 / 4, 0, 0], [0, -3 / 2, 0]])
    assert_close(edge_gradients(pos, edges), attr.double(), **CLOSE)

    f = torch.tensor([[1], [3], [4]], dtype=torch.float64)
    expected = [
        # f    f_x   f_y   f_z  f_xx   f_yy   f_zz
        [1.0, 0.75, 2.25, 0.0, 9 / 32, 27 / 16, 0.0],
        [3.0, 1.50, 0.00, 0.0, 9 / 16, 0.0, 0.0],
        [4.0, 0.00, 4.50, 0.0, 0.0, 27 / 8, 0.0],
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    assert_close(each_operator()(f, edges, edge_gradients(pos, edges)), expected, **CLOSE)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_loop_over_edges(shape):
    conv, x, edge_attr = layer_and_cloud(shape)
    expected = oracles.diff_conv(conv.lin.weight, conv.lin.bias, x, EDGES, edge_attr)
    assert_close(conv(x, EDGES, edge_attr), expected, **CLOSE)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_those_of_the_loop_over_edges(shape):
    conv, x, edge_attr = layer_and_cloud(shape)
    inputs = x.requires_grad_(), edge_attr.requires_grad_(), conv.lin.weight, conv.lin.bias
    ours = conv(x, EDGES, edge_attr)
    theirs = oracles.diff_conv(conv.lin.weight, conv.lin.bias, x, EDGES, edge_attr)
    assert_close(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(theirs.square().sum(), inputs),
        **CLOSE,
    )


def line(num_points: int) -> tuple[Tensor, Tensor]:
    """Points one apart along x, each linked with those beside it."""
    place = torch.arange(num_points)
    pos = torch.zeros(num_points, 3, dtype=torch.float64)
    pos[:, 0] = place
    steps = torch.stack([place[1:], place[:-1]])
    return pos, torch.cat([steps, steps.flip(0)], dim=1)


def test_first_derivative_of_a_linear_function_on_a_line_is_its_slope():
    pos, edges = line(6)
    y = each_operator()(5 * pos[:, :1] + 2, edges, edge_gradients(pos, edges))
    assert_close(y[:, 1:], torch.tensor([5.0, 0, 0, 0, 0, 0]).double().repeat(6, 1), **CLOSE)


def test_second_derivative_of_a_quadratic_function_on_a_line_is_its_curvature():
    pos, edges = line(8)
    y = each_operator()(3 * pos[:, :1].square(), edges, edge_gradients(pos, edges))
    inside = slice(2, -2)  # at the ends differences are one-sided
    assert_close(y[inside, 4], torch.full((4,), 6.0).double(), **CLOSE)


def test_derivatives_of_a_linear_function_on_a_lattice_are_a_third_of_its_slopes():
    place = torch.cartesian_prod(*[torch.arange(3.0)] * 3).double()
    distance = torch.cdist(place, place)
    edges = ((distance > 0.9) & (distance < 1.1)).nonzero().t()
    f = place @ torch.tensor([[2.0], [-3.0], [7.0]], dtype=torch.float64)
    y = each_operator()(f, edges, edge_gradients(place, edges))
    # the center's six neighbors: two along each axis, and the mean is over all six
    assert_close(y[13, 1:4], torch.tensor([2.0, -3.0, 7.0]).double() / 3, **CLOSE)


def test_constant_features_have_no_derivatives():
    _, _, edge_attr = layer_and_cloud()
    y = each_operator()(torch.full((NUM_NODES, 1), 3.0).double(), EDGES, edge_attr)
    assert_close(y[:, 1:], torch.zeros(NUM_NODES, 6, dtype=torch.float64), **CLOSE)


def test_node_without_neighbors_keeps_its_own_map_and_the_bias():
    conv, x, edge_attr = layer_and_cloud((8, 12, 1))
    theta = conv.lin.weight[0, :, :8]
    assert_close(conv(x, EDGES, edge_attr)[5], theta @ x[5] + conv.lin.bias, **CLOSE)


@pytest.mark.fault(30)
@pytest.mark.parametrize("num_nodes", [0, 3])
def test_graph_without_edges_keeps_the_map_of_the_features(num_nodes):
    conv = DiffGCNConv(8, 12, groups=2).double()
    x, none = torch.randn(num_nodes, 8).double(), torch.zeros(2, 0, dtype=torch.long)
    edge_attr = edge_gradients(torch.rand(num_nodes, 3).double(), none)
    assert edge_attr.shape == (0, 3)
    theta = oracles.block_diagonal(conv.lin.weight[:, :, :4])
    assert_close(conv(x, none, edge_attr), x @ theta.T + conv.lin.bias, **CLOSE)


def test_every_kind_of_adjacency_gives_the_same_with_gradients_in_its_own_order():
    conv, x, _ = layer_and_cloud()
    size = (NUM_NODES, NUM_NODES)
    by_target = EdgeIndex(EDGES, sparse_size=size).sort_by("col")[0]
    matrix = torch.sparse_coo_tensor(EDGES.flip(0), torch.ones(EDGES.size(1)), size)
    kinds = [EDGES.flip(1), EdgeIndex(EDGES, sparse_size=size), by_target]
    kinds += [matrix, matrix.to_sparse_csr(), to_adjacency(EDGES, *size)]
    expected = conv(x, EDGES, cloud_gradients(EDGES))
    for graph in kinds:
        assert_close(conv(x, graph, cloud_gradients(graph)), expected, **CLOSE)


def cloud_gradients(graph) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return edge_gradients(torch.rand(NUM_NODES, 3, generator=generator).double(), graph)


def test_operators_built_once_give_the_same_as_the_graph():
    conv, x, edge_attr = layer_and_cloud()
    operators = conv.prepare(x, EDGES, edge_attr)
    assert_close(conv(x, operators), conv(x, EDGES, edge_attr), **EXACT)


def test_group_sees_its_own_channels_only():
    conv, x, edge_attr = layer_and_cloud((8, 12, 2))
    changed = torch.cat([x[:, :4], x[:, 4:] + 1], dim=1)
    y, other = conv(x, EDGES, edge_attr), conv(changed, EDGES, edge_attr)
    assert_close(other[:, :6], y[:, :6], **EXACT)
    assert (other[:, 6:] != y[:, 6:]).all()


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_is_differentiable_twice(check):
    conv, x, edge_attr = layer_and_cloud((4, 2, 2))
    inputs = x.requires_grad_(), edge_attr.requires_grad_()
    assert check(lambda x, attr: conv(x, EDGES, attr), inputs)


@pytest.mark.parametrize("shape", [(8, 12, 2), (64, 64, 8), (64, 64, 1), (40, 20, 4), (3, 64, 1)])
@pytest.mark.parametrize("num_nodes", [6, 700])
def test_single_precision_and_its_gradients_equal_double(shape, num_nodes):
    conv = DiffGCNConv(*shape[:2], groups=shape[2])
    x, pos = torch.randn(num_nodes, shape[0]), torch.rand(num_nodes, 3)
    edge_index = torch.randint(0, num_nodes, (2, 8 * num_nodes))
    edge_attr = edge_gradients(pos, edge_index, softening=1.0)
    grad = torch.randn(num_nodes, shape[1])
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs = x.to(dtype).requires_grad_(), *conv.to(dtype).parameters()
        y = conv(inputs[0], edge_index, edge_attr.to(dtype))
        results.append((y, *torch.autograd.grad(y, inputs, grad.to(dtype))))
    for single, double in zip(*results, strict=True):
        scale = double.abs().max()
        assert_close(single.double() / scale, double / scale, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", [(3, 64, 1), (64, 32, 8), (33, 3, 3)])
def test_weight_has_the_same_gradient_where_the_input_needs_none(shape):
    conv = DiffGCNConv(*shape[:2], groups=shape[2])
    x, edge_attr = torch.randn(NUM_NODES, shape[0]), layer_and_cloud()[2].float()
    grad = torch.randn(NUM_NODES, shape[1])
    alone, both = (
        torch.autograd.grad(conv(x, EDGES, edge_attr), conv.parameters(), grad)
        for x in (x, x.clone().requires_grad_())
    )
    assert_close(alone, both, rtol=1e-4, atol=1e-5)


def test_single_precision_is_differentiable_twice():
    conv, x, edge_attr = layer_and_cloud()

    def curvature(dtype: torch.dtype) -> torch.Tensor:
        at = x.to(dtype).requires_grad_()
        y = conv.to(dtype)(at.tanh(), EDGES, edge_attr.to(dtype))
        slope = torch.autograd.grad(y.square().sum(), at, create_graph=True)[0]
        return torch.autograd.grad(slope.square().sum(), at)[0]

    assert_close(curvature(torch.float32).double(), curvature(torch.float64), rtol=1e-3, atol=1e-4)


def test_autocast_computes_in_bfloat16():
    conv, x, edge_attr = layer_and_cloud()
    conv, x, edge_attr = conv.float(), x.float(), edge_attr.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x, EDGES, edge_attr)
    assert y.dtype == torch.bfloat16
    assert_close(y.float(), conv(x, EDGES, edge_attr), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_those_of_the_cost_line(shape):
    in_channels, out_channels, groups = shape
    weights = sum(p.numel() for p in DiffGCNConv(*shape[:2], groups=groups).parameters())
    assert weights == 7 * in_channels * out_channels // groups + out_channels


@pytest.mark.parametrize("shape", SHAPES)
def test_multiply_adds_are_those_of_the_cost_line(shape):
    in_channels, out_channels, groups = shape
    conv, x, edge_attr = layer_and_cloud(shape)
    maps = NUM_NODES * 7 * in_channels * out_channels // groups
    derivatives = 6 * (EDGES.size(1) + NUM_NODES) * in_channels
    assert multiply_adds(conv, x, EDGES, edge_attr) == maps + derivatives


def test_state_dict_pickle_and_deep_copy_keep_the_values():
    conv, x, edge_attr = layer_and_cloud()
    fresh = DiffGCNConv(8, 12, groups=2).double()
    fresh.load_state_dict(conv.state_dict())
    for twin in (fresh, copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert_close(twin(x, EDGES, edge_attr), conv(x, EDGES, edge_attr), **EXACT)


def test_reset_parameters_draws_all_weights_again():
    conv, _, _ = layer_and_cloud()
    before = copy.deepcopy(conv.state_dict())
    conv.reset_parameters()
    assert not any(torch.equal(value, before[name]) for name, value in conv.state_dict().items())


def test_repr_shows_widths_and_groups():
    assert repr(DiffGCNConv(8, 12, groups=2)) == "DiffGCNConv(8, 12, groups=2)"


def test_groups_that_do_not_divide_both_widths_are_refused():
    with pytest.raises(ValueError, match="in_channels 8 and out_channels 6, got 4"):
        DiffGCNConv(8, 6, groups=4)


def test_missing_edge_gradients_are_asked_for():
    conv, x, _ = layer_and_cloud()
    with pytest.raises(ValueError, match=r"needs edge_attr=edge_gradients\(pos, edge_index\)"):
        conv(x, EDGES)


@pytest.mark.parametrize("shape", [(8, 2), (7, 3), (8,)])
def test_edge_gradients_of_another_shape_are_refused(shape):
    conv, x, _ = layer_and_cloud()
    with pytest.raises(ValueError, match=r"must be \(8, 3\), one row an edge, got shape"):
        conv(x, EDGES, torch.zeros(shape).double())


def test_bipartite_pair_is_refused():
    conv, x, edge_attr = layer_and_cloud()
    with pytest.raises(ValueError, match="one set of nodes, got a bipartite pair"):
        conv((x, x), EDGES, edge_attr)
