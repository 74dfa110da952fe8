import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mgic_geo import DiffGCNConv, edge_gradients
from tests import oracles

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
def test_equals_the_loop_over_edges_with_its_gradients(shape):
    conv, x, edge_attr = layer_and_cloud(shape)
    inputs = x.requires_grad_(), edge_attr.requires_grad_(), conv.lin.weight, conv.lin.bias
    ours = conv(x, EDGES, edge_attr)
    theirs = oracles.diff_conv(conv.lin.weight, conv.lin.bias, x, EDGES, edge_attr)
    results = [(y, *torch.autograd.grad(y.square().sum(), inputs)) for y in (ours, theirs)]
    assert_close(*results, **CLOSE)


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


@pytest.mark.fault(30)
@pytest.mark.parametrize("num_nodes", [0, 3])
def test_graph_without_edges_keeps_the_map_of_the_features(num_nodes):
    conv = DiffGCNConv(8, 12, groups=2).double()
    x, none = torch.randn(num_nodes, 8).double(), torch.zeros(2, 0, dtype=torch.long)
    edge_attr = edge_gradients(torch.rand(num_nodes, 3).double(), none)
    assert edge_attr.shape == (0, 3)
    theta = oracles.block_diagonal(conv.lin.weight[:, :, :4])
    assert_close(conv(x, none, edge_attr), x @ theta.T + conv.lin.bias, **CLOSE)


def test_operators_built_once_give_the_same_as_the_graph():
    conv, x, edge_attr = layer_and_cloud()
    operators = conv.prepare(x, EDGES, edge_attr)
    assert_close(conv(x, operators), conv(x, EDGES, edge_attr), **EXACT)


@pytest.mark.usefixtures("kernels")
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
