"""Kernels of graphs: packed weights, clouds, and sums that threads do not change."""

import pytest
import torch
from torch.testing import assert_close

from mgic_geo.ops.grouped_linear import grouped_linear_weight, packing
from mgic_geo.ops.knn import knn
from mgic_geo.ops.mix_derivatives import mix_derivatives, mix_derivatives_backward
from mgic_geo.ops.neighbor_max import add_at_rows
from tests.graphs import operators_of
from tests.kernels import assert_same_on_any_threads, needs_compiler

EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 3, 5), (1, 20, 7), (12, 2, 3), (64, 1, 1)])
@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_a_packed_weight_holds_every_number_once(shape, parts, lanes):
    groups, rows, columns = shape
    plan = packing(groups, rows, columns, parts, lanes=lanes)
    weight = torch.arange(1.0, 1 + groups * rows * columns * parts).view(groups, rows, -1)
    packed = plan.lay_out(weight)
    assert_close(packed.flatten()[plan.inverse].view_as(weight), weight, **EXACT)
    assert int((packed != 0).sum()) == weight.numel()


def mixed(operators, width, groups, seed=0):
    """Output and gradients of a differential convolution in single precision."""
    generator = torch.Generator().manual_seed(seed)
    num_nodes = operators.ptr.numel() - 1
    x, grad = torch.randn(2, num_nodes, width, generator=generator)
    weight = torch.randn(groups, width // groups, 7 * width // groups, generator=generator)
    y = mix_derivatives(x, weight, None, None, False, *operators)
    return y, *mix_derivatives_backward(grad, x, weight, *operators)


def test_clouds_end_where_no_edge_crosses():
    operators = operators_of([2, 5, 1, 900])
    ends = (operators.crossings == 0).nonzero().flatten()
    assert ends.tolist() == [0, 2, 7, 8, 908]


@needs_compiler
@pytest.mark.parametrize(
    ("width", "groups"), [(8, 1), (40, 5), (72, 9), (64, 16), (96, 6), (33, 3)]
)
def test_cloud_by_cloud_gives_the_same_as_all_nodes_at_once(width, groups):
    operators = operators_of([700, 3, 1500, 600, 2000])  # too many nodes together to be one cloud
    whole = operators._replace(crossings=torch.ones_like(operators.crossings))
    for one, other in zip(
        *(mixed(each, width, groups) for each in (operators, whole)), strict=True
    ):
        assert_close(
            one / one.abs().max(), other / one.abs().max(), rtol=0, atol=1e-5
        )  # of 4,803 terms


def test_relu_and_difference_in_one_pass_equal_those_after_it_and_have_their_gradients():
    operators, generator = operators_of([40, 300]), torch.Generator().manual_seed(0)
    shapes = (340, 8), (2, 4, 28), (8,), (340, 8)
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    x, weight, bias, subtrahend = leaves
    grad = torch.randn(340, 8, generator=generator)
    results = []
    for y in (
        mix_derivatives(x, weight, bias, subtrahend, True, *operators),
        mix_derivatives(x, weight, bias, None, False, *operators).relu() - subtrahend,
    ):
        results.append((y, *torch.autograd.grad(y, leaves, grad)))
    assert_close(*results)


@needs_compiler
def test_sums_do_not_depend_on_the_number_of_threads():
    operators = operators_of([700, 3, 1500, 600, 2000])
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 5000, 48, generator=generator)
    row = torch.randint(0, 5000, (5000, 48), generator=generator)
    clouds_of = (torch.arange(5000) >= 2000).long()
    assert_same_on_any_threads(
        lambda: (
            grouped_linear_weight(x, grad, 6),
            add_at_rows(grad, row, 5000),
            knn(x, clouds_of, 10, "auto"),
            mixed(operators, 64, 8),
        )
    )
