import math

import pytest
import torch
from torch.testing import assert_close

from mgic_geo import GroupedLinear, multiply_adds, transfer
from mgic_geo.nn.grouped_linear import grouped_linear
from tests import oracles

pytestmark = pytest.mark.usefixtures("kernels")

# (in_channels, out_channels, groups)
SHAPES = [(8, 8, 1), (8, 16, 4), (16, 8, 8), (6, 9, 3), (5, 5, 5)]
SHAPES += [(512, 256, 4), (512, 64, 16), (320, 10, 5), (384, 12, 6)]  # several wide blocks


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_block_diagonal_matrix(shape, bias):
    in_channels, out_channels, groups = shape
    layer = GroupedLinear(in_channels, out_channels, groups=groups, bias=bias).double()
    x = torch.randn(7, in_channels, dtype=torch.float64)
    expected = x @ oracles.block_diagonal(layer.weight).T + (layer.bias if bias else 0)
    assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_a_grouped_1x1_convolution_of_an_image(shape):
    in_channels, out_channels, groups = shape
    layer = GroupedLinear(in_channels, out_channels, groups=groups).double()
    image = torch.randn(2, in_channels, 3, 4, dtype=torch.float64)
    kernel = layer.weight.reshape(out_channels, in_channels // groups, 1, 1)
    expected = torch.nn.functional.conv2d(image, kernel, layer.bias, groups=groups)
    assert_close(layer(image.movedim(1, -1)).movedim(-1, 1), expected, rtol=1e-12, atol=1e-12)


def test_group_sees_its_own_channels_only():
    layer = GroupedLinear(6, 4, groups=2)
    x = torch.randn(3, 6)
    changed = x.clone()
    changed[:, 3:] += 1
    assert_close(layer(changed)[:, :2], layer(x)[:, :2], rtol=0, atol=0)
    assert ((layer(changed) - layer(x))[:, 2:] != 0).all()


@pytest.mark.parametrize("lead", [(), (0,), (2, 3), (2, 0, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_leading_axes_are_kept(lead, groups):
    assert GroupedLinear(4, 6, groups=groups)(torch.randn(*lead, 4)).shape == (*lead, 6)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_are_those_of_finite_differences(groups):
    layer = GroupedLinear(4, 6, groups=groups).double()
    inputs = [torch.randn(3, 4, dtype=torch.float64), layer.weight.detach(), layer.bias.detach()]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(grouped_linear, inputs)
    assert torch.autograd.gradgradcheck(grouped_linear, inputs)


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_those_of_the_cost_line(shape):
    in_channels, out_channels, groups = shape
    layer = GroupedLinear(in_channels, out_channels, groups=groups)
    assert layer.weight.numel() == in_channels * out_channels // groups
    assert layer.bias.numel() == out_channels
    assert len(list(layer.parameters())) == 2


def test_fresh_weights_fill_the_range_that_the_inputs_of_one_output_give():
    torch.manual_seed(0)
    layer = GroupedLinear(256, 256, groups=4)
    bound = 1 / math.sqrt(64)
    for parameter in layer.parameters():
        assert parameter.abs().max() <= bound
        assert parameter.abs().max() > 0.95 * bound
        assert parameter.mean().abs() < 0.1 * bound


def test_reset_parameters_draws_weight_and_bias_again():
    layer = GroupedLinear(8, 8, groups=2)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.reset_parameters()
    assert not torch.equal(layer.weight, before["weight"])
    assert not torch.equal(layer.bias, before["bias"])


def test_autocast_computes_in_bfloat16():
    layer = GroupedLinear(8, 16, groups=4)
    x = torch.randn(5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert_close(y.float(), layer(x), rtol=0.02, atol=0.02)


def test_state_dict_has_weight_and_bias_and_round_trips():
    layer, other = GroupedLinear(8, 16, groups=4), GroupedLinear(8, 16, groups=4)
    assert list(layer.state_dict()) == ["weight", "bias"]
    other.load_state_dict(layer.state_dict())
    x = torch.randn(3, 8)
    assert_close(other(x), layer(x), rtol=0, atol=0)


def test_transfer_has_no_bias():
    assert [name for name, _ in transfer(8, 4, 2).named_parameters()] == ["weight"]


def test_repr_can_be_read_as_torch_linear_is():
    assert repr(GroupedLinear(8, 16, groups=4)) == "GroupedLinear(8, 16, groups=4, bias=True)"


@pytest.mark.parametrize(("shape", "groups"), [((8, 6), 4), ((6, 8), 4), ((8, 8), 0), ((8, 8), -2)])
def test_groups_that_do_not_divide_both_widths_are_refused(shape, groups):
    message = f"must divide in_channels {shape[0]} and out_channels {shape[1]}, got {groups}"
    with pytest.raises(ValueError, match=message):
        GroupedLinear(*shape, groups=groups)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (-1, 4)])
def test_width_below_1_is_refused(shape):
    with pytest.raises(ValueError, match=f"at least 1, got {shape[0]} and {shape[1]}"):
        GroupedLinear(*shape)


@pytest.mark.parametrize("groups", [1, 2])
def test_input_of_another_width_is_refused(groups):
    with pytest.raises(ValueError, match=r"must have 8 channels last, got shape \(3, 4\)"):
        GroupedLinear(8, 8, groups=groups)(torch.randn(3, 4))


def test_unknown_transfer_rule_is_refused():
    with pytest.raises(ValueError, match="init must be one of aggregate"):
        GroupedLinear(8, 4, transfer_init="ones")


@pytest.mark.parametrize("shape", [(64, 32, 1), (64, 32, 8), (64, 64, 64), (512, 512, 64)])
def test_multiply_adds_are_those_of_the_cost_line_however_groups_are_run(shape):
    in_channels, out_channels, groups = shape
    layer = GroupedLinear(in_channels, out_channels, groups=groups)
    counted = multiply_adds(layer, torch.randn(3, in_channels))
    assert counted == 3 * in_channels * out_channels // groups


@pytest.mark.parametrize("shape", [*SHAPES, (40, 20, 4), (24, 12, 3), (3, 64, 1), (8, 8, 8)])
@pytest.mark.parametrize("rows", [1, 7, 300, 5000])
def test_single_precision_and_its_gradients_equal_double(shape, rows):
    in_channels, out_channels, groups = shape
    layer = GroupedLinear(in_channels, out_channels, groups=groups)
    x, grad = torch.randn(rows, in_channels), torch.randn(rows, out_channels)
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs = x.to(dtype).requires_grad_(), *layer.to(dtype).parameters()
        y = layer(inputs[0])
        results.append((y, *torch.autograd.grad(y, inputs, grad.to(dtype))))
    for single, double in zip(*results, strict=True):
        scale = double.abs().max()
        assert_close(single.double() / scale, double / scale, rtol=0, atol=1e-5)


def test_single_precision_is_differentiable_twice():
    layer, x = GroupedLinear(8, 4, groups=2), torch.randn(5, 8)

    def curvature(dtype: torch.dtype) -> torch.Tensor:
        at = x.to(dtype).requires_grad_()
        slope = torch.autograd.grad(
            layer.to(dtype)(at.tanh()).square().sum(), at, create_graph=True
        )
        return torch.autograd.grad(slope[0].square().sum(), at)[0]

    assert_close(curvature(torch.float32).double(), curvature(torch.float64), rtol=1e-4, atol=1e-5)


def test_a_nan_stays_in_its_group_where_that_fills_a_vector():
    x = torch.randn(3, 64)
    x[0, 0] = torch.nan
    y = GroupedLinear(64, 64, groups=4)(x)
    assert y[0, :16].isnan().all()
    assert not y[:, 16:].isnan().any()
