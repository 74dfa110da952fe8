"""A prolongation with norm and sum in Triton, by its interpreter: see test_triton.py."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mgic_geo import GroupedLinear
from mgic_geo.nn.correction import GraphCorrection
from mgic_geo.ops.add_normalized_linear import (
    add_normalized_linear,
    add_normalized_linear_backward,
)
from mgic_geo.ops.host import as_on_device
from tests.kernels import TRITON_TYPES, interpreted
from tests.neighbor_clouds import normal

pytestmark = interpreted
CLOSE = {  # by the largest number of a result; in half precision it is rounded
    torch.float32: {"rtol": 0, "atol": 1e-5},
    torch.bfloat16: {"rtol": 0, "atol": 1e-2},
    torch.float16: {"rtol": 0, "atol": 2e-3},
}


def draw(rows: int, groups: int, outputs: int, inputs: int) -> list[Tensor]:
    """Addend, features, map, scale and shift."""
    return [
        *(normal(rows, groups * outputs), normal(rows, groups * inputs, seed=1)),
        *(normal(groups, outputs, inputs, seed=2), normal(groups * outputs, seed=3)),
        normal(groups * outputs, seed=4),
    ]


def doubled(tensors) -> list[Tensor | None]:
    return [x if x is None else x.detach().double() for x in tensors]


def assert_near(found, expected, dtype: torch.dtype) -> None:
    for one, other in zip(found, expected, strict=True):
        largest = other.abs().max()
        assert_close(one.double() / largest, other / largest, **CLOSE[dtype])


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        *(((70, 2, 5, 8), torch.float32), ((9, 1, 20, 70), torch.float32)),
        *(((9, 1, 5, 3), dtype) for dtype in TRITON_TYPES[1:]),
    ],
)
def test_values_and_gradients_are_those_of_the_reference_in_double(sizes, dtype, ran):
    addend, x, weight, scale, shift = (each.to(dtype) for each in draw(*sizes))
    norm = scale.float(), shift  # one of them is kept in float32
    y, statistics = add_normalized_linear(addend, x, weight, *norm, 1e-5)
    assert (y.dtype, statistics.dtype) == (dtype, torch.float32)
    exact = doubled((addend, x, weight, *norm))
    expected, moments = add_normalized_linear.reference(*exact, 1e-5)
    assert_near((y, *statistics[:4]), (expected, *moments[:4]), dtype)
    grad = normal(*y.shape, seed=5).to(dtype)
    found = add_normalized_linear_backward(grad, x, weight, *norm, statistics, 1e-5)
    expected = add_normalized_linear_backward.reference(grad.double(), *exact[1:], moments, 1e-5)
    assert_near(found, expected, dtype)
    assert ran("add_normalized_linear") == ran("add_normalized_linear_backward") == {"triton": 1}


def test_shares_of_the_rows_add_up_where_inputs_nearly_agree(monkeypatch):
    from mgic_geo.ops.gpu import add_normalized_linear as kernels

    monkeypatch.setattr(kernels, "SHARE", 64)  # three, the last of 22 rows
    addend, x, weight, *_ = draw(150, 1, 4, 4)
    x = 1000 + x / 10
    x[0] += 100  # an outlier comes first
    found = add_normalized_linear(addend, x, weight.abs(), None, None, 1e-5)
    expected = add_normalized_linear.reference(
        *doubled((addend, x, weight.abs())), None, None, 1e-5
    )
    assert_close(found[0].double(), expected[0], rtol=1e-3, atol=1e-3)
    assert_close(found[1][:2].double(), expected[1][:2], rtol=1e-4, atol=1e-4)


def test_a_correction_trains_in_it_as_on_a_gpu(ran):
    transfer = GroupedLinear(4, 6, bias=False)
    twins = [GraphCorrection(transfer, nn.BatchNorm1d(6)) for _ in range(2)]
    change, x = normal(40, 4), normal(40, 6, seed=1)
    inputs = change.requires_grad_(), x.requires_grad_(), transfer.weight
    with as_on_device():
        y = twins[0](change, x)
        found = torch.autograd.grad(y.square().sum(), [*inputs, *twins[0].norm.parameters()])
    expected = x + twins[1].norm(transfer(change))
    assert_close(y, expected)
    wanted = torch.autograd.grad(expected.square().sum(), [*inputs, *twins[1].norm.parameters()])
    assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert_close(twins[0].norm.state_dict(), twins[1].norm.state_dict())
    assert ran("add_normalized_linear") == {"triton": 1}


def test_nan_reaches_its_own_group_only():
    addend, x, weight, *norm = draw(70, 2, 3, 4)
    x[69, 5] = torch.nan
    y, statistics = add_normalized_linear(addend, x, weight, *norm, 1e-5)
    spoiled = torch.tensor([False] * 3 + [True] * 3)
    assert_close(y.isnan(), spoiled.expand(70, 6))
    assert_close(statistics[:3].isnan(), spoiled.expand(3, 6))


def test_what_it_does_not_take_is_left_to_others():
    def reason(*inputs) -> str:
        return str(add_normalized_linear.why_not(*inputs, 1e-5))

    inputs = draw(3, 2, 3, 4)
    for rows in (0, 1):
        few = [each[:rows] for each in inputs[:2]]
        assert "triton: x has fewer than 2 rows" in reason(*few, *inputs[2:])
    assert "triton: a tensor is torch.float64" in reason(*doubled(inputs))
    assert "triton: types differ" in reason(*inputs[:2], inputs[2].half(), None, None)
    with pytest.raises(ValueError, match=r"x must be \(N, 8\) and addend \(N, 6\), got"):
        add_normalized_linear(*draw(3, 2, 3, 5)[:2], *inputs[2:], 1e-5)
    with pytest.raises(ValueError, match="scale must have 6 columns, got 5"):
        add_normalized_linear(*inputs[:3], torch.ones(5), None, 1e-5)
