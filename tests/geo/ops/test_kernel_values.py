"""Faults that kernels once had, each as a case that shows it: see fuzz_values.py for drawn ones."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mgic_geo import GroupedLinear
from mgic_geo.graphs.derivatives import DerivativeOperators
from mgic_geo.nn.correction import GraphCorrection
from mgic_geo.nn.diff_conv import DiffGCNConv
from mgic_geo.nn.norm_act import norm_act
from tests.graphs import operators_of
from tests.kernels import assert_same_on_any_threads, needs_compiler

pytestmark = needs_compiler


@pytest.mark.fault(49)
@pytest.mark.parametrize(
    ("clouds", "size"), [(20, 200), (10, 256), (32, 100), (14, 256), (61, 37), (3, 700), (9, 511)]
)
@pytest.mark.parametrize(("width", "groups"), [(16, 2), (40, 5)])
def test_each_cloud_counts_once_in_the_gradients(clouds, size, width, groups):
    generator = torch.Generator().manual_seed(clouds)
    operators = operators_of([size] * clouds)
    x, grad = torch.randn(2, clouds * size, width, generator=generator)
    conv = DiffGCNConv(width, width, groups=groups)
    twin = DiffGCNConv(width, width, groups=groups).double()
    twin.load_state_dict(conv.state_dict())

    def gradients(conv: DiffGCNConv, x: Tensor, operators: DerivativeOperators, grad: Tensor):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(conv(x, operators), (x, *conv.parameters()), grad)

    found = gradients(conv, x, operators, grad)
    doubles = (part.double() if part.is_floating_point() else part for part in operators)
    exact = gradients(twin, x.double(), DerivativeOperators(*doubles), grad.double())
    for one, other in zip(found, exact, strict=True):
        scale = other.abs().max()
        assert_close(one.double() / scale, other / scale, rtol=0, atol=5e-6)


@pytest.mark.parametrize("gap", [0.1, 0.01, 0.003, 0.001])
def test_a_prolongation_of_what_nearly_agrees_is_normalized_as_torch_does(gap):
    generator = torch.Generator().manual_seed(0)
    shared, own = torch.randn(2000, 8, 1, generator=generator), torch.randn(2000, 8, 2)
    x = (shared + gap * own).flatten(1)
    prolong = GroupedLinear(16, 32, groups=8, bias=False)
    with torch.no_grad():
        prolong.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0], [2.0, -2.0], [1.0, -1.0]]))
    norm = GraphCorrection(prolong, nn.BatchNorm1d(32))
    found = norm(x.requires_grad_(), torch.zeros(2000, 32))
    found.square().sum().backward()
    z = (
        x.detach().double().unflatten(1, (8, 2))
        @ prolong.weight.detach().double().transpose(1, 2)[0]
    )
    z = z.flatten(1)
    exact = 0.1 * (z - z.mean(0)) / (z.var(0, unbiased=False) + norm.norm.eps).sqrt()
    assert_close(found.detach().double(), exact, rtol=0, atol=2e-6 * float(exact.abs().max()))
    assert_close(norm.norm.running_var.double(), 0.9 + 0.1 * z.var(0), rtol=1e-6, atol=0)
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("level", [255.0, 1e4, 1e6])
@pytest.mark.parametrize("row", [0, 100, 255])
def test_an_outlier_costs_the_variance_nothing_wherever_it_is(level, row):
    x = level + torch.randn(256, 24, generator=torch.Generator().manual_seed(0))
    x[row] = 0
    norm = nn.BatchNorm1d(24, momentum=1.0)
    y = norm_act(norm, None, x)
    exact = x.double().var(0)
    assert_close(norm.running_var.double(), exact, rtol=4e-6, atol=0)  # sums of 128 in float32
    z = (x.double() - x.double().mean(0)) / x.double().var(0, unbiased=False).sqrt()
    assert_close(y.detach().double(), z, rtol=1e-5, atol=1e-5)


@pytest.mark.fault(52)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("act", [None, nn.ReLU(), nn.Hardswish()])
@pytest.mark.parametrize("shape", [(300, 20), (3000, 5)])
def test_what_is_not_finite_shows_in_output_and_statistics(value, act, shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    x[shape[0] // 2, 3] = value
    norm, twin = nn.BatchNorm1d(shape[1]), nn.BatchNorm1d(shape[1])
    y = norm_act(norm, act, x)
    expected = twin(x) if act is None else act(twin(x))
    assert_close(y, expected, equal_nan=True)
    assert_close(norm.running_var, twin.running_var, equal_nan=True)
    assert norm.running_var[3].isnan()
    assert y[:, 3].isnan().all()


@pytest.mark.parametrize("shape", [(256, 512), (128, 1024), (512, 256), (4000, 40)])
def test_gradients_of_norms_do_not_depend_on_the_threads(shape):
    x, grad = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))

    def step() -> tuple[Tensor, ...]:
        norm, leaf = nn.BatchNorm1d(shape[1]), x.clone().requires_grad_()
        y = norm_act(norm, nn.ReLU(), leaf)
        return y, *torch.autograd.grad(y, (leaf, *norm.parameters()), grad)

    assert_same_on_any_threads(step)


@pytest.mark.parametrize(
    ("rows", "channels"), [(0, 5), (1, 1), (63, 70), (2651, 36), (5000, 97), (70000, 40)]
)
def test_the_gradient_of_a_bias_does_not_depend_on_the_number_of_threads(rows, channels):
    generator = torch.Generator().manual_seed(rows)
    layer, x = GroupedLinear(8, channels), torch.zeros(rows, 8)
    grad = torch.randn(rows, channels + 3, generator=generator)[:, 1:-2]

    def gradient():
        return torch.autograd.grad(layer(x), layer.bias, grad)[0]

    expected = grad.double().sum(0)
    assert_close(gradient().double(), expected, rtol=1e-6, atol=1e-6 * rows**0.5)
    assert_same_on_any_threads(gradient)


@pytest.mark.fault(52)
@pytest.mark.parametrize("shape", [(2, 4), (9, 1), (9, 4), (300, 40)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_gradient_of_hard_swish_is_nan_at_nan_and_nowhere_else(shape, value):
    """That of torch's is the one behind it in places where its vectors end."""
    x, grad = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    x[1, 0] = value
    norm = nn.BatchNorm1d(shape[1])
    y = norm_act(norm, nn.Hardswish(), x.requires_grad_())
    for found in torch.autograd.grad(y, (x, *norm.parameters()), grad):
        assert found[..., 0].isnan().all()
        assert found[..., 1:].isfinite().all()
