import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from mgic_geo.graphs.adjacency import Adjacency, neighbor_max, to_adjacency
from tests.graphs import ADJACENCY, BIPARTITE, NUM_SOURCES, NUM_TARGETS, features, padded
from tests.sparse_matrices import SparseMatrix, sparse_matrices, spmm

EXACT = {"rtol": 0, "atol": 0}


def values() -> Tensor:
    """One number an edge, in the order of the adjacency."""
    return torch.linspace(-1, 2, BIPARTITE.size(1), dtype=torch.float64)


def product(adjacency: Adjacency, value: Tensor, x: Tensor) -> Tensor:
    (matrix,) = sparse_matrices(adjacency, value.unsqueeze(1))
    return spmm(matrix, x)


def dense(adjacency: Adjacency, value: Tensor) -> Tensor:
    matrix = value.new_zeros(adjacency.num_targets, adjacency.num_sources)
    place = adjacency.targets(), adjacency.index
    return matrix.index_put(place, value, accumulate=True)


def test_gradients_of_the_product_equal_those_of_the_dense_one():
    grads = []
    for multiply in (product, lambda graph, value, x: dense(graph, value) @ x):
        x, value = features().requires_grad_(), values().requires_grad_()
        grads.append(torch.autograd.grad(multiply(ADJACENCY, value, x).square().sum(), (x, value)))
    assert_close(*grads, rtol=1e-12, atol=1e-12)


def test_matrices_on_the_same_edges_keep_their_own_values():
    both = torch.stack([values(), values().flip(0)], dim=1)
    for value, matrix in zip(both.t(), sparse_matrices(ADJACENCY, both), strict=True):
        expected = dense(ADJACENCY, value) @ features()
        assert_close(spmm(matrix, features()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_product_is_differentiable_twice_in_features_and_values(check):
    inputs = values().requires_grad_(), features().requires_grad_()
    assert check(lambda value, x: product(ADJACENCY, value, x), inputs)


def maximum(adjacency: Adjacency, value: Tensor, x: Tensor) -> Tensor:
    return neighbor_max(adjacency, x) + 0 * value.sum()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("operator", [product, maximum])
def test_padding_behind_the_last_edge_is_ignored(operator, dtype):
    grads = []
    for graph in (ADJACENCY, padded(ADJACENCY)):
        x = features(dtype).requires_grad_()
        value = torch.full((graph.index.numel(),), 5.0, dtype=dtype).requires_grad_()
        y = operator(graph, value, x)
        grads.append((y, *torch.autograd.grad((y + 1).square().sum(), (x, value))))
    (y, of_x, of_value), (padded_y, padded_of_x, padded_of_value) = grads
    assert_close((padded_y, padded_of_x), (y, of_x), **EXACT)
    assert_close(padded_of_value[: of_value.numel()], of_value, **EXACT)
    assert_close(padded_of_value[of_value.numel() :], torch.zeros(3, dtype=dtype), **EXACT)


@pytest.mark.parametrize("size", [(0, 0), (3, 0), (0, 3), (3, 3)])
@pytest.mark.parametrize(
    "operator", [neighbor_max, lambda graph, x: product(graph, x.new_zeros(0), x)]
)
def test_graph_without_edges_gives_0_and_no_gradient(operator, size):
    graph = to_adjacency(torch.zeros(2, 0, dtype=torch.long), *size)
    x = torch.randn(size[0], 2, requires_grad=True)
    y = operator(graph, x)
    y.sum().backward()
    assert_close(y, torch.zeros(size[1], 2))
    assert_close(x.grad, torch.zeros(size[0], 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_product_of_short_floats_is_the_float64_one_rounded_once(dtype):
    x = features(dtype).requires_grad_()
    y = product(ADJACENCY, values().float(), x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    exact = dense(ADJACENCY, values())
    eps = torch.finfo(dtype).eps
    assert_close(y, (exact @ x.detach().double()).to(dtype), rtol=eps, atol=4e-6)
    ones = torch.ones(NUM_TARGETS, 3, dtype=torch.float64)
    assert_close(x.grad, (exact.T @ ones).to(dtype), rtol=eps, atol=4e-6)


def test_autocast_passes_bfloat16_through_both_operators():
    linear = torch.nn.Linear(3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = linear(features(torch.float32))
        y = product(ADJACENCY, values().float(), x) + neighbor_max(ADJACENCY, x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert linear.weight.grad.isfinite().all()


def test_flop_counter_sees_two_operations_an_entry_and_channel():
    with FlopCounterMode(display=False) as counter:
        y = product(ADJACENCY, values(), features().requires_grad_())
    assert counter.get_total_flops() == 2 * BIPARTITE.size(1) * 3
    with counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * BIPARTITE.size(1) * 3


def test_both_operators_compile_to_one_graph():
    def both(x: Tensor, value: Tensor, ptr: Tensor, index: Tensor) -> Tensor:
        graph = Adjacency(ptr, index, NUM_SOURCES)
        return (product(graph, value, x) * neighbor_max(graph, x)).square().sum()

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True, dynamic=False)
    results = []
    for function in (both, compiled):
        x, value = features().requires_grad_(), values().requires_grad_()
        loss = function(x, value, ADJACENCY.ptr, ADJACENCY.index)
        results.append((loss, *torch.autograd.grad(loss, (x, value))))
    assert_close(*results, rtol=1e-12, atol=1e-12)


def test_empty_row_between_others_stays_0():
    ptr = torch.tensor([0, 1, 1, 2])
    matrix = SparseMatrix(
        ptr, torch.tensor([0, 1]), torch.ones(2),
        torch.tensor([0, 1, 2]), torch.tensor([0, 2]), torch.ones(2),
    )  # fmt: skip
    assert_close(spmm(matrix, torch.tensor([[2.0], [3.0]])), torch.tensor([[2.0], [0.0], [3.0]]))
