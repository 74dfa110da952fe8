import pytest
import torch
from torch.testing import assert_close

from mgic_geo.graphs.adjacency import neighbor_max, to_adjacency
from tests import oracles
from tests.graphs import ADJACENCY, BIPARTITE, NUM_TARGETS, features

pytestmark = pytest.mark.usefixtures("kernels")

INF, MOST, LEAST = float("inf"), torch.finfo(torch.float32).max, 2.0**-149
EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_maximum_equals_the_loop_and_is_0_without_neighbors(dtype):
    x = (features(dtype) - 10).requires_grad_()  # below 0, so that a 0 is no maximum
    y = neighbor_max(ADJACENCY, x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert_close(y, oracles.neighbor_max(x, BIPARTITE, NUM_TARGETS), **EXACT)
    assert_close(y[NUM_TARGETS - 1], torch.zeros(3, dtype=dtype), **EXACT)


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_maximum_is_differentiable_twice(check):
    assert check(lambda x: neighbor_max(ADJACENCY, x).square(), (features().requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maximum_over_many_neighbors_is_exact(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, generator=generator, dtype=dtype).requires_grad_()
    edges = torch.randint(0, 300, (2, 2000), generator=generator)
    y = neighbor_max(to_adjacency(edges, 300, 300), x)
    place = edges[1].unsqueeze(1).expand(-1, 5)
    expected = x.new_zeros(300, 5).scatter_reduce(0, place, x[edges[0]], "amax", include_self=False)
    assert_close(y, expected, **EXACT)
    grads = [torch.autograd.grad(z.square().sum(), x) for z in (y, expected)]
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    assert_close(*grads, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("held", "highest"),
    [
        ([-3.0, -1.0, -2.0], -1.0),
        ([-1.0, 0.0, -2.0], 0.0),
        ([-1.0, 1.0, 1.0], 1.0),
        ([1.0, 1.0 + 2.0**-7, 1.0], 1.0 + 2.0**-7),
        ([-INF, -MOST, -INF], -MOST),
        ([MOST, INF, 1.0], INF),
        ([-INF, -INF, -INF], -INF),
        ([LEAST, 0.0, -LEAST], LEAST),
        ([-LEAST, -1.0, -MOST], -LEAST),
    ],
)
def test_maximum_of_extreme_values_is_exact_and_its_gradient_goes_to_a_holder(dtype, held, highest):
    x = torch.tensor([[99.0], *([value] for value in held)], dtype=dtype).requires_grad_()
    graph = to_adjacency(torch.tensor([[3, 1, 2], [1, 1, 1]]), 4, 3)
    y = neighbor_max(graph, x)
    y.sum().backward()
    assert_close(y.flatten(), torch.tensor([0.0, highest, 0.0], dtype=dtype), **EXACT)
    (holder,) = x.grad.flatten().nonzero().flatten().tolist()
    assert x[holder] == x[1:].max()
    assert holder > 0
    assert x.grad[holder] == 1


def test_gradient_of_a_maximum_of_0_goes_to_its_holder_where_denormals_are_flushed():
    x = torch.tensor([[9.0], [-1.0], [0.0]], requires_grad=True)
    torch.set_flush_denormal(True)
    try:
        neighbor_max(to_adjacency(torch.tensor([[1, 2], [0, 0]]), 3, 3), x).sum().backward()
    finally:
        torch.set_flush_denormal(False)
    assert_close(x.grad, torch.tensor([[0.0], [0.0], [1.0]]))
