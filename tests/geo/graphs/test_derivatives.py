import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data

from mgic_geo import EdgeGradients, edge_gradients
from mgic_geo.graphs.adjacency import Adjacency, to_adjacency
from mgic_geo.graphs.derivatives import derivative_operators
from tests import oracles
from tests.graphs import padded
from tests.kernels import needs_compiler

# unsorted, with a self-loop
EDGES = torch.tensor([[3, 0, 1, 3, 2, 4, 5, 1], [2, 1, 0, 0, 2, 1, 3, 4]])
NUM_NODES = 6
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def cloud(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_NODES, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("softening", [0.0, 0.5, 2.0])
def test_equal_the_loop_over_edges(softening):
    expected = oracles.edge_gradients(cloud(), EDGES, softening=softening)
    assert_close(edge_gradients(cloud(), EDGES, softening=softening), expected, **CLOSE)


@pytest.mark.parametrize("softening", [0.0, 1.0])
@pytest.mark.parametrize("scale", [2.0**-20, 0.001, 25.4, 2.0**30])
def test_do_not_depend_on_the_unit_of_length(scale, softening):
    expected = edge_gradients(cloud(), EDGES, softening=softening)
    assert_close(edge_gradients(cloud() * scale, EDGES, softening=softening), expected, **CLOSE)


@pytest.mark.parametrize("softening", [0.25, 1.0, 4.0])
def test_softened_weights_times_the_degree_are_at_most_half_the_inverse_softening(softening):
    places = torch.tensor([0.0, 1e-30, 1e-3, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
    pos = torch.zeros(10, 3)
    pos[:, 0] = places
    edges = torch.stack([torch.arange(1, 10), torch.zeros(9).long()])
    assert edge_gradients(pos, edges).abs().max() * 9 > 1e20
    weights = edge_gradients(pos, edges, softening=softening).abs() * 9
    assert weights.max() <= 1 / (2 * softening) + 1e-6
    assert weights.max() > 0.4 / softening  # a bound that is nearly reached


@pytest.mark.fault(32)
def test_do_not_depend_on_where_the_cloud_is():
    moved = cloud() + torch.tensor([1.0, -2.0, 3.0])
    assert_close(edge_gradients(moved, EDGES), edge_gradients(cloud(), EDGES), rtol=1e-9, atol=1e-9)


def test_turn_with_the_cloud():
    turn, _ = torch.linalg.qr(cloud(1)[:3])
    turned = edge_gradients(cloud() @ turn.T, EDGES)
    assert_close(turned, edge_gradients(cloud(), EDGES) @ turn.T, **CLOSE)


def test_edge_of_length_0_weighs_nothing_and_is_not_counted():
    pos = cloud()
    pos[3] = pos[2]  # 3 -> 2 has length 0, as has the loop 2 -> 2
    real = torch.tensor([1, 2, 3, 5, 6, 7])
    expected = torch.zeros(8, 3, dtype=torch.float64)
    expected[real] = edge_gradients(pos, EDGES[:, real])
    assert_close(edge_gradients(pos, EDGES), expected, **CLOSE)
    assert_close(edge_gradients(pos, EDGES), oracles.edge_gradients(pos, EDGES), **CLOSE)


@pytest.mark.fault(31)
def test_cloud_of_equal_points_has_no_derivatives():
    gradients = edge_gradients(torch.ones(NUM_NODES, 3), EDGES)
    assert_close(gradients, torch.zeros(8, 3), **EXACT)


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (7, 1000)])
def test_every_cloud_of_a_batch_has_its_own_mean_edge_length(numbers):
    first, second = cloud(), 100 * cloud(1)
    pos = torch.cat([first, second])
    edges = torch.cat([EDGES, EDGES + NUM_NODES], dim=1)
    batch = torch.tensor(numbers).repeat_interleave(NUM_NODES)
    apart = torch.cat([edge_gradients(first, EDGES), edge_gradients(second, EDGES)])
    assert_close(edge_gradients(pos, edges, batch), apart, **CLOSE)
    assert_close(
        edge_gradients(pos, edges, batch), oracles.edge_gradients(pos, edges, batch), **CLOSE
    )

    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    mixed = edge_gradients(pos[order], order.argsort()[edges], batch[order])
    assert_close(mixed, apart, **CLOSE)


def in_every_layout():
    """Graphs, and their edges in the order in which each keeps them."""
    size = NUM_NODES, NUM_NODES
    index = EdgeIndex(EDGES, sparse_size=size)
    for edges in (index, index.sort_by("row")[0], index.sort_by("col")[0]):
        yield edges, edges.as_tensor()
    matrix = torch.sparse_coo_tensor(EDGES.flip(0), torch.ones(8), size).coalesce()
    for graph in (to_adjacency(EDGES, *size), matrix, matrix.to_sparse_csr()):
        adjacency = to_adjacency(graph, *size)
        yield graph, torch.stack([adjacency.index, adjacency.targets()])


@pytest.mark.parametrize(("graph", "edges"), list(in_every_layout()))
def test_follow_the_order_of_what_is_given(graph, edges):
    assert_close(edge_gradients(cloud(), graph), oracles.edge_gradients(cloud(), edges), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loops_derive_nothing_whatever_they_weigh(dtype):
    edges = torch.cat([torch.tensor([[0, 3], [0, 3]]), EDGES], dim=1)
    weight = edge_gradients(cloud(), edges).to(dtype)
    graph, x = to_adjacency(edges, NUM_NODES, NUM_NODES), cloud(1).to(dtype)
    results = []
    for of_loops in (0.0, 1e18):
        weight[:2] = of_loops
        results.append(derivative_operators(graph, graph.sort(weight)).derive(x, groups=1))
    assert_close(*results, **EXACT)


def padded_graphs() -> tuple[Adjacency, Adjacency]:
    # the last node has neighbors, beside which the padding must not count
    edges = torch.cat([EDGES, torch.tensor([[0, 2], [5, 5]])], dim=1)
    graph = to_adjacency(edges, NUM_NODES, NUM_NODES)
    return graph, padded(graph)


def test_padding_behind_the_last_edge_weighs_nothing_and_changes_no_other_edge():
    graph, longer = padded_graphs()
    expected = torch.cat([edge_gradients(cloud(), graph), torch.zeros(3, 3).double()])
    assert_close(edge_gradients(cloud(), longer), expected, **EXACT)


def test_padding_behind_the_last_edge_changes_no_operator_nor_its_gradient():
    results = []
    for graph in padded_graphs():
        x = cloud(1).requires_grad_()
        y = derivative_operators(graph, edge_gradients(cloud(), graph)).derive(x, groups=1)
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert_close(*results, **EXACT)


def test_operators_equal_the_loop_over_edges():
    graph = to_adjacency(EDGES, NUM_NODES, NUM_NODES)
    gradients = edge_gradients(cloud(), graph)
    edges = torch.stack([graph.index, graph.targets()])
    _, *found = derivative_operators(graph, gradients).derive(cloud(1), groups=1).chunk(7, dim=1)
    first = [oracles.derivative(cloud(1), edges, weights) for weights in gradients.t()]
    second = [oracles.derivative(first[axis], edges, gradients[:, axis]) for axis in range(3)]
    assert_close(found, [*first, *second], **CLOSE)


def test_gradient_reaches_the_coordinates_also_beside_duplicate_points():
    assert torch.autograd.gradcheck(lambda p: edge_gradients(p, EDGES), (cloud().requires_grad_(),))
    pos = cloud()
    pos[3] = pos[2]
    edge_gradients(pos.requires_grad_(), EDGES).square().sum().backward()
    assert pos.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(6, 2), (6,), (2, 3, 3)])
def test_coordinates_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"pos must be \(N, 3\) floating point, got shape"):
        edge_gradients(torch.rand(shape), EDGES)


@pytest.mark.parametrize("softening", [-0.5, float("nan")])
def test_softening_below_0_is_refused(softening):
    with pytest.raises(ValueError, match=f"softening must be at least 0, got {softening}"):
        edge_gradients(cloud(), EDGES, softening=softening)


def test_transform_fills_edge_attr_of_a_copy():
    data = Data(pos=cloud(), edge_index=EDGES)
    filled = EdgeGradients()(data)
    assert_close(filled.edge_attr, edge_gradients(cloud(), EDGES), **EXACT)
    assert data.edge_attr is None


def test_transform_of_a_batch_equals_the_batch_of_transforms():
    items = [Data(pos=cloud(), edge_index=EDGES), Data(pos=9 * cloud(1), edge_index=EDGES)]
    together = EdgeGradients()(Batch.from_data_list(items)).edge_attr
    apart = Batch.from_data_list([EdgeGradients()(item) for item in items]).edge_attr
    assert_close(together, apart, **CLOSE)


@pytest.mark.parametrize("missing", ["pos", "edge_index"])
def test_transform_names_what_it_needs(missing):
    data = Data(pos=cloud(), edge_index=EDGES)
    data[missing] = None
    with pytest.raises(ValueError, match=r"needs data\.pos and data\.edge_index"):
        EdgeGradients()(data)


def some_edges(num_nodes: int, num_edges: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_nodes, (2, num_edges), generator=generator)


CLOUDS = {
    "one": lambda generator: None,
    "in order": lambda generator: torch.randint(-3, 3, (50,), generator=generator).sort().values,
    "mixed": lambda generator: torch.randint(0, 1 << 40, (50,), generator=generator) % 4 * 1000,
}


@needs_compiler
@pytest.mark.parametrize("clouds", list(CLOUDS))
@pytest.mark.parametrize("softening", [0.0, 1.0])
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
def test_compiled_weights_and_matrices_equal_double(clouds, softening, size):
    generator = torch.Generator().manual_seed(0)
    pos = torch.randn(50, 3, generator=generator) * size
    pos[7] = pos[3]  # an edge of length 0
    batch = CLOUDS[clouds](generator)
    edges = torch.cat([some_edges(45, 300, 1), torch.tensor([[3, 7, 9], [7, 3, 9]])], dim=1)
    graph = to_adjacency(edges, 50, 50)  # five nodes have no edge
    weights = edge_gradients(pos, graph, batch, softening=softening)
    assert_close(
        weights.double(),
        edge_gradients(pos.double(), graph, batch, softening=softening),
        rtol=1e-5,
        atol=1e-5,
    )
    sorted_back = edge_gradients(pos, edges, batch, softening=softening)
    assert_close(graph.sort(sorted_back), weights, **EXACT)
    found = derivative_operators(graph, weights)
    for tensor, expected in zip(found, derivative_operators(graph, weights.double()), strict=True):
        assert_close(tensor, expected.to(tensor.dtype), rtol=1e-5, atol=1e-5 * weights.abs().max())


@needs_compiler
def test_compiled_weights_are_not_numbers_where_a_coordinate_is_none():
    pos = cloud().float()
    pos[0, 1] = torch.nan
    assert_close(
        edge_gradients(pos, EDGES).isnan(), edge_gradients(pos.double(), EDGES).isnan(), **EXACT
    )


@needs_compiler
@pytest.mark.parametrize("node", [-1, NUM_NODES])
def test_nodes_that_do_not_exist_are_named(node):
    pos, edges = cloud().float(), EDGES.clone()
    edges[0, 2] = node
    with pytest.raises(ValueError, match=f"edge_index names source node {node}, but there are 6"):
        edge_gradients(pos, edges)
    graph = Adjacency(torch.tensor([0, 1, 1]), torch.tensor([node]), 2)
    with pytest.raises(ValueError, match=rf"index\[0\] must be from 0 to 1, got {node}"):
        derivative_operators(graph, torch.ones(1, 3))


@pytest.mark.parametrize("length", [NUM_NODES - 1, NUM_NODES + 1])
def test_batches_and_weights_of_another_length_are_refused(length):
    with pytest.raises(ValueError, match=rf"batch must be \(6,\) int64, got shape \({length},\)"):
        edge_gradients(cloud().float(), EDGES, torch.zeros(length).long())
    graph = to_adjacency(EDGES, NUM_NODES, NUM_NODES)
    with pytest.raises(ValueError, match=rf"edge_attr must be \(8, 3\).*got shape \({length}, 3\)"):
        derivative_operators(graph, torch.ones(length, 3))


def test_weights_can_be_differentiated():
    pos = cloud().requires_grad_()
    (expected,) = torch.autograd.grad(edge_gradients(pos, EDGES).sum(), pos)
    single = pos.detach().float().requires_grad_()
    (grad,) = torch.autograd.grad(edge_gradients(single, EDGES).sum(), single)
    assert_close(grad, expected.float(), rtol=1e-4, atol=1e-5)
    weights = torch.ones(EDGES.size(1), 3, requires_grad=True)
    graph = to_adjacency(EDGES, NUM_NODES, NUM_NODES)
    assert derivative_operators(graph, graph.sort(weights)).value.requires_grad
