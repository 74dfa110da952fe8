import copy

import pytest
import torch
from torch.nn.parameter import UninitializedParameter
from torch.testing import assert_close

from mgic_geo.nn.width_change import WidthChange
from tests import oracles

EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize(
    ("widths", "group_size", "groups"),
    [((64, 128), 16, 4), ((128, 64), 16, 4), ((40, 120), 64, 1), ((3, 64), 8, 1), ((6, 9), 2, 3)],
)
def test_groups_follow_the_rule_on_the_narrower_side(widths, group_size, groups):
    layer = WidthChange(*widths, group_size=group_size)
    assert layer.groups == groups
    assert layer.weight.shape == (groups, widths[1] // groups, widths[0] // groups)


def test_equals_the_block_diagonal_matrix():
    layer = WidthChange(8, 12, group_size=2).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = x @ oracles.block_diagonal(layer.weight).T + layer.bias
    assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("in_channels", [8, -1])
def test_equal_widths_pass_x_itself_through_without_weights(in_channels):
    layer = WidthChange(in_channels, 8, group_size=4)
    x = torch.randn(3, 8)
    assert layer(x) is x
    assert not list(layer.parameters())


def test_lazy_layer_takes_its_width_from_the_first_input():
    layer = WidthChange(-1, 12, group_size=4)
    assert layer.is_lazy
    assert layer(torch.randn(3, 8)).shape == (3, 12)
    assert not layer.is_lazy
    assert (layer.in_channels, layer.groups) == (8, 2)


def test_lazy_layer_draws_as_a_layer_of_known_width_does():
    torch.manual_seed(0)
    lazy = WidthChange(-1, 12, group_size=4)
    lazy(torch.randn(3, 8))
    lazy.reset_parameters()
    bound = 1 / 4**0.5
    for parameter in lazy.parameters():
        assert 0 < parameter.abs().max() <= bound


def test_reset_of_a_lazy_layer_leaves_it_lazy():
    layer = WidthChange(-1, 12, group_size=4)
    layer.reset_parameters()
    assert layer.is_lazy
    assert all(isinstance(p, UninitializedParameter) for p in layer.parameters())


def test_lazy_layer_moves_to_the_dtype_it_was_given():
    layer = WidthChange(-1, 12, group_size=4).double()
    assert layer(torch.randn(3, 8, dtype=torch.float64)).dtype == torch.float64


def test_deep_copies_of_a_lazy_layer_take_widths_of_their_own():
    layer = WidthChange(-1, 12, group_size=4)
    twin = copy.deepcopy(layer)
    assert layer(torch.randn(3, 8)).shape == twin(torch.randn(3, 16)).shape == (3, 12)
    assert (layer.in_channels, twin.in_channels) == (8, 16)


@pytest.mark.parametrize("in_channels", [8, -1])
@pytest.mark.parametrize("trained_width", [8, 12])
def test_state_dict_round_trips_into_fixed_and_lazy_layers(in_channels, trained_width):
    trained = WidthChange(trained_width, 12, group_size=4)
    fresh = WidthChange(trained_width if in_channels > 0 else -1, 12, group_size=4)
    fresh.load_state_dict(trained.state_dict())
    x = torch.randn(3, trained_width)
    assert_close(fresh(x), trained(x), **EXACT)


def test_state_dict_of_a_lazy_layer_round_trips_and_stays_lazy():
    layer, other = (WidthChange(-1, 12, group_size=4) for _ in range(2))
    other.load_state_dict(layer.state_dict())
    assert other.is_lazy
    assert other(torch.randn(3, 8)).shape == (3, 12)


@pytest.mark.parametrize("in_channels", [8, 12])
def test_input_of_another_width_is_refused(in_channels):
    message = rf"expected {in_channels} channels, got 5; .* give in_channels as a pair"
    with pytest.raises(ValueError, match=message):
        WidthChange(in_channels, 12, group_size=4)(torch.randn(3, 5))


@pytest.mark.parametrize(
    ("widths", "group_size", "name", "value"),
    [
        ((0, 4), 2, "in_channels", 0),
        ((-2, 4), 2, "in_channels", -2),
        ((4, 0), 2, "out_channels", 0),
        ((4, 4), 0, "group_size", 0),
        ((-1, 4), 0, "group_size", 0),
    ],
)
def test_width_or_group_size_below_1_is_refused_by_name(widths, group_size, name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        WidthChange(*widths, group_size=group_size)
