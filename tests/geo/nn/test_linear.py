import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mgic_geo import MGICMLP, MGICLinear, level_plan, multiply_adds, num_weights
from mgic_geo.levels import CYCLES, MGICBlock, Residual
from tests import oracles

kernels = pytest.mark.usefixtures("kernels")


def dense(linear):
    """A grouped map as a function of rows, by its dense matrix."""
    matrix = oracles.block_diagonal(linear.weight)
    return lambda x: x @ matrix.T + (0 if linear.bias is None else linear.bias)


@pytest.mark.parametrize("channels", [16, 24, 40, 6])
@pytest.mark.parametrize("options", [{}, {"make_act": nn.Tanh}, {"bias": False}])
def test_layer_is_the_cycle_of_its_definition(channels, options):
    layer = MGICLinear(channels, group_size=4, **options).double()
    maps = []
    for number, part in enumerate(layer.block.layers):
        linear = part if number == 0 or "make_act" not in options else part.linear
        act = torch.tanh if linear is not part else (lambda x: x)
        maps.append(partial(lambda f, act, x: act(f(x)), dense(linear), act))
    transfers = map(oracles.matrices, (layer.block.restrict, layer.block.prolong))
    x = torch.randn(7, channels, dtype=torch.float64)
    assert_close(layer(x), oracles.mgic_cycle(x, maps, *transfers), rtol=1e-12, atol=1e-12)


def test_layer_without_activation_is_linear_and_with_one_it_is_not():
    x, y = torch.randn(2, 5, 32, dtype=torch.float64)
    plain = MGICLinear(32, group_size=8, bias=False).double()
    assert_close(plain(2 * x - y), 2 * plain(x) - plain(y))
    bent = MGICLinear(32, group_size=8, bias=False, make_act=nn.ReLU).double()
    assert (bent(2 * x - y) - (2 * bent(x) - bent(y))).abs().max() > 1e-3


@kernels
def test_identity_maps_give_the_identity_bit_for_bit():
    layer = MGICLinear(48, group_size=8)
    with torch.no_grad():
        for linear in layer.block.layers:
            linear.weight.copy_(torch.eye(linear.weight.size(1)).expand_as(linear.weight))
            linear.bias.zero_()
    x = torch.randn(9, 48)
    assert_close(layer(x), x, rtol=0, atol=0)


@kernels
def test_no_levels_equal_the_dense_layer():
    layer = MGICLinear(16, group_size=16, min_levels=0)
    linear = nn.Linear(16, 16)
    (only,) = layer.block.layers
    linear.load_state_dict({"weight": only.weight[0], "bias": only.bias})
    x = torch.randn(3, 16)
    assert_close(layer(x), linear(x))


@pytest.mark.parametrize("channels", [64, 96, 120])
def test_cost_is_that_of_the_cost_line(channels):
    layer = MGICLinear(channels, group_size=8, coarse_size=16)
    levels = level_plan(channels, group_size=8, coarse_size=16)
    maps = sum(level.outer**2 // level.groups for level in levels)
    transfers = sum(
        r.in_channels * r.out_channels // r.groups
        for side in (layer.block.restrict, layer.block.prolong)
        for r in side
    )
    assert num_weights(layer) == maps + transfers + sum(level.outer for level in levels)
    assert multiply_adds(layer, torch.ones(5, channels)) == 5 * (maps + transfers)


@kernels
def test_leading_axes_and_dtype_are_kept():
    layer = MGICLinear(16, group_size=4, make_act=nn.ReLU)
    x = torch.randn(2, 3, 16)
    assert_close(layer(x), layer(x.view(-1, 16)).view(2, 3, 16))
    assert layer.double()(x.double()).dtype == torch.float64
    assert layer(torch.randn(16, dtype=torch.float64)).shape == (16,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MGICLinear(0), "channels must be at least 1, got 0"),
        (lambda: MGICLinear(8, group_size=0), "group_size must be at least 1, got 0"),
        (lambda: MGICLinear(8)(torch.ones(2, 9)), r"must have 8 channels last, got shape \(2, 9\)"),
        (lambda: MGICMLP(4, 8, 0, 1), "num_layers must be at least 1, got 0"),
        (lambda: MGICMLP(4, 8, 1, 1)(torch.ones(2, 5)), "expected 4 channels, got 5"),
    ],
)
def test_what_cannot_work_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_mlp_has_its_layers_and_every_weight_gets_a_gradient():
    model = MGICMLP(5, 64, 3, 2, group_size=8)
    assert sum(isinstance(module, MGICLinear) for module in model.modules()) == 3
    model(torch.randn(32, 5)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@kernels
@pytest.mark.parametrize("cycle", CYCLES)
def test_a_perceptron_maps_the_last_axis_and_its_norms_see_rows(cycle):
    model = MGICMLP(5, 16, 2, 3, group_size=4, cycle=cycle)
    for shape in ((2, 7, 5), (2, 16, 5), (3, 1, 2, 5), (4, 5), (5,)):
        x = torch.randn(shape)
        model.train(x.dim() > 1)
        one, rows = copy.deepcopy(model), copy.deepcopy(model)
        assert_close(one(x), rows(x.view(-1, 5)).view(*shape[:-1], 3))
        assert_close(one.state_dict(), rows.state_dict())


@kernels
def test_mlp_takes_its_width_from_the_first_input_and_the_state_can_be_kept():
    model, other = MGICMLP(-1, 32, 1, 3), MGICMLP(-1, 32, 1, 3)
    x = torch.randn(10, 7)
    y = model.eval()(x)
    other.load_state_dict(model.state_dict())
    assert_close(other.eval()(x), y, rtol=0, atol=0)


def test_mlp_without_norm_takes_any_leading_axes():
    model = MGICMLP(4, 16, 2, 3, group_size=4, make_norm=None)
    assert model(torch.randn(2, 6, 4)).shape == (2, 6, 3)


@pytest.mark.parametrize("finest_is_residual", [True, False])
def test_change_is_what_the_cycle_adds(finest_is_residual):
    def make_layer(level):
        branch = nn.Linear(level.outer, level.outer)
        return Residual(branch) if finest_is_residual or not level.finest else branch

    def make_transfer(i, o, groups):
        return nn.Linear(i, o, bias=False)

    block = MGICBlock(16, make_layer, make_transfer, group_size=4, coarse_size=4).double()
    x = torch.randn(5, 16, dtype=torch.float64)
    assert_close(block.change(x), block(x) - x, rtol=1e-12, atol=1e-12)


@kernels
def test_change_of_a_branch_scaled_down_is_not_rounded_away():
    def make_layer(level):
        branch = nn.Linear(level.outer, level.outer)
        branch.weight.data.mul_(1e-9)
        branch.bias.data.mul_(1e-9)
        return Residual(branch)

    block = MGICBlock(8, make_layer, lambda i, o, g: nn.Linear(i, o), group_size=8, coarse_size=8)
    x = torch.randn(5, 8)
    exact = copy.deepcopy(block).double().change(x.double())
    assert_close(block.change(x).double(), exact, rtol=1e-5, atol=1e-12)
