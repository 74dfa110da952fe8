"""Kernels in Triton, by its interpreter on a processor, against the references.

Triton decides when it is imported whether it interprets, so that these, and those of other files
named ``test_triton*.py``, run in a process of their own:
``TRITON_INTERPRET=1 MGIC_KERNELS=triton pytest tests/geo/ops/test_triton.py``.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from mgic_geo import knn_indices
from mgic_geo.ops.gpu.choice import why_not_triton
from mgic_geo.ops.grouped_linear import grouped_linear, grouped_linear_weight
from mgic_geo.ops.neighbor_max import add_at_rows
from mgic_geo.ops.table_max import table_max
from mgic_geo.ops.table_sums import table_sums, table_sums_backward
from tests.kernels import INTERPRETER, INTERPRETS, TRITON_TYPES, interpreted
from tests.neighbor_clouds import integers, normal, oracle

FILES = sorted(map(str, Path(__file__).parents[2].rglob("test_triton*.py")))


@pytest.mark.skipif(INTERPRETS, reason="is that process")
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_interpreter_agrees_with_the_references():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES]
    done = subprocess.run(
        command, env={**os.environ, **INTERPRETER}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(INTERPRETS, reason="they are asked for there")
def test_nothing_chooses_a_kernel_that_was_never_timed():
    assert why_not_triton(torch.ones(1)) == ""
    assert why_not_triton(torch.ones(1, device="meta")) == "MGIC_KERNELS=triton asks for it"


@interpreted
def test_other_types_are_left_to_the_reference():
    assert "float64" in str(table_max.why_not(normal(3, 2).double(), integers(3, 3, 2)))


@interpreted
@pytest.mark.parametrize("dtype", TRITON_TYPES)
@pytest.mark.parametrize(
    ("sources", "targets", "k", "channels"), [(37, 21, 3, 70), (5, 1, 1, 1), (4, 0, 2, 3)]
)
def test_maxima_and_their_rows(sources, targets, k, channels, dtype, ran):
    x = normal(sources, channels).to(dtype)
    table = integers(sources + 1, targets, k)  # the last one: no neighbor
    assert_close(table_max(x, table), table_max.reference(x, table))
    assert ran("table_max") == {"triton": 1}


@interpreted
def test_ties_go_to_the_first_place_and_nan_is_the_largest():
    x = torch.tensor([[1.0, torch.nan], [1.0, 5.0], [0.0, torch.nan]])
    table = torch.tensor([[2, 1, 0], [1, 0, 2], [3, 3, 3]])
    best, row = table_max(x, table)
    assert_close(best, torch.tensor([[1.0, torch.nan]] * 2 + [[0.0, 0.0]]), equal_nan=True)
    assert_close(row, torch.tensor([[1, 2], [1, 0], [3, 3]]))


@interpreted
@pytest.mark.parametrize("dtype", TRITON_TYPES)
def test_gradients_of_maxima(dtype, ran):
    x, table = normal(19, 33).to(dtype).requires_grad_(), integers(20, 40, 3)
    weights = normal(40, 33, seed=1).to(dtype)
    found = torch.autograd.grad((table_max(x, table)[0] * weights).sum(), x)
    expected = torch.autograd.grad((table_max.reference(x, table)[0] * weights).sum(), x)
    assert ran("add_at_rows") == {"triton": 1}
    assert_close(found, expected)


@interpreted
def test_sums_at_rows():
    grad, row = normal(40, 5), integers(8, 40, 5)
    assert_close(add_at_rows(grad, row, 7), add_at_rows.reference(grad, row, 7))


@interpreted
@pytest.mark.parametrize("dtype", TRITON_TYPES)
@pytest.mark.parametrize("k", [1, 5])
def test_neighbors(k, dtype, ran):
    x = normal(41, 5).to(dtype)
    assert_close(knn_indices(x, k), oracle(x, k))
    assert ran("knn") == {"triton": 1}


@interpreted
@pytest.mark.parametrize(
    "x",
    [
        integers(3, 35, 3).float(),
        normal(18, 3).repeat(2, 1),
        torch.full((20, 2), 0.1),
        normal(30, 3) * 1e-41,
        normal(30, 3) * 1e37,
    ],
    ids=["grid", "duplicates", "one point", "subnormal", "large"],
)
def test_neighbors_where_points_tie_or_squares_leave_float32(x):
    assert_close(knn_indices(x, 6), oracle(x, 6))


@interpreted
def test_neighbors_in_clouds_of_any_size_and_order():
    batch = torch.tensor([3, 0, 9]).repeat_interleave(torch.tensor([30, 1, 7]))
    batch = batch[normal(38).argsort()]
    x = normal(38, 3, seed=1)
    assert_close(knn_indices(x, 10, batch), oracle(x, 10, batch))


@interpreted
def test_no_points_have_no_neighbors():
    assert knn_indices(normal(0, 3), 4).shape == (0, 4)


@interpreted
def test_points_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="x must be finite"):
        knn_indices(torch.tensor([[0.0], [torch.inf]]), 1)


@interpreted
@pytest.mark.parametrize("dtype", TRITON_TYPES)
@pytest.mark.parametrize(
    ("rows", "groups", "outputs", "inputs"), [(70, 3, 5, 8), (9, 1, 20, 70), (0, 2, 4, 4)]
)
def test_grouped_maps(rows, groups, outputs, inputs, dtype, ran):
    x, weight = normal(rows, groups * inputs).to(dtype), normal(groups, outputs, inputs).to(dtype)
    bias, addend = normal(groups * outputs).to(dtype), normal(rows, groups * outputs).to(dtype)
    precise = [each.float() for each in (x, weight, bias, addend)]
    expected = grouped_linear.reference(*precise).to(dtype)
    assert_close(grouped_linear(x, weight, bias, addend), expected)
    expected = grouped_linear.reference(precise[0], precise[1], None).to(dtype)
    assert_close(grouped_linear(x, weight, None), expected)
    assert ran("grouped_linear") == {"triton": 2}


@interpreted
@pytest.mark.parametrize(
    ("rows", "dtype"), [(0, torch.float32), (1100, torch.float32), *((70, t) for t in TRITON_TYPES)]
)
def test_gradients_of_weights_of_grouped_maps(rows, dtype, ran):
    x, grad = normal(rows, 3 * 8).to(dtype), normal(rows, 3 * 5, seed=1).to(dtype)
    expected = grouped_linear_weight.reference(x.float(), grad.float(), 3).to(dtype)
    assert_close(grouped_linear_weight(x, grad, 3), expected, rtol=2e-2, atol=1e-3)
    assert ran("grouped_linear_weight") == {"triton": 1}


@interpreted
def test_gradients_of_grouped_maps(ran):
    inputs = [normal(20, 8), normal(2, 3, 4), normal(6), normal(20, 6)]
    for each in inputs:
        each.requires_grad_()
    found = torch.autograd.grad(grouped_linear(*inputs).square().sum(), inputs)
    assert_close(
        found, torch.autograd.grad(grouped_linear.reference(*inputs).square().sum(), inputs)
    )
    assert "reference" not in ran("grouped_linear")


@interpreted
def test_nan_reaches_its_own_group_only():
    x = normal(3, 4)
    x[1, 3] = torch.nan
    y = grouped_linear(x, torch.ones(2, 1, 2), None)
    assert_close(y.isnan(), torch.tensor([[False, False], [False, True], [False, False]]))


@interpreted
@pytest.mark.parametrize(
    ("targets", "axes", "dtype"),
    [
        *((0, 3, torch.float32), (21, 3, torch.float32), (11, 1, torch.float32)),
        *((11, 1, torch.bfloat16), (5, 3, torch.float16)),
    ],
)
def test_weighted_sums_and_their_gradients(targets, axes, dtype, ran):
    x, weight = normal(30, axes, 70).to(dtype), normal(targets, 4, 3, seed=1).to(dtype)
    nodes, grad = integers(30, targets, 4), normal(targets, 3, 70, seed=2).to(dtype)
    expected = table_sums.reference(x.float(), nodes, weight.float()).to(dtype)
    assert_close(table_sums(x, nodes, weight), expected)
    expected = table_sums_backward.reference(grad.float(), nodes, weight.float(), 30, axes)
    assert_close(table_sums_backward(grad, nodes, weight, 30, axes), expected.to(dtype))
    assert ran("table_sums") == ran("table_sums_backward") == {"triton": 1}


@interpreted
@pytest.mark.parametrize("axes", [1, 3])
def test_weighted_sums_are_differentiated_as_the_reference_is(axes):
    x = normal(9, axes, 5).requires_grad_()
    table = integers(9, 7, 3), normal(7, 3, 3, seed=1)
    found = torch.autograd.grad(table_sums(x, *table).square().sum(), x)
    expected = torch.autograd.grad(table_sums.reference(x, *table).square().sum(), x)
    assert_close(found, expected)
