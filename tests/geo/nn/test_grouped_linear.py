import math

import pytest
import torch
from torch.testing import assert_close

from mgic_geo import GroupedLinear, transfer
from tests import oracles

kernels = pytest.mark.usefixtures("kernels")

# (in_channels, out_channels, groups)
SHAPES = [(8, 8, 1), (8, 16, 4), (16, 8, 8), (6, 9, 3), (5, 5, 5)]
SHAPES += [(512, 256, 4), (512, 64, 16), (320, 10, 5), (384, 12, 6)]  # several wide blocks


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_block_diagonal_matrix(shape, bias):
    in_channels, out_channels, groups = shape
    layer = GroupedLinear(in_channels, out_channels, groups=groups, bias=bias).double()
    x = torch.randn(2, in_channels, 3, 4, dtype=torch.float64).movedim(1, -1)
    expected = x @ oracles.block_diagonal(layer.weight).T + (layer.bias if bias else 0)
    assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@kernels
@pytest.mark.parametrize("lead", [(), (0,), (2, 3), (2, 0, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_leading_axes_are_kept(lead, groups):
    assert GroupedLinear(4, 6, groups=groups)(torch.randn(*lead, 4)).shape == (*lead, 6)


def test_fresh_weights_fill_the_range_that_the_inputs_of_one_output_give():
    torch.manual_seed(0)
    layer = GroupedLinear(256, 256, groups=4)
    bound = 1 / math.sqrt(64)
    for parameter in layer.parameters():
        assert parameter.abs().max() <= bound
        assert parameter.abs().max() > 0.95 * bound
        assert parameter.mean().abs() < 0.1 * bound


def test_a_map_has_weight_and_bias_and_a_transfer_no_bias():
    assert list(GroupedLinear(8, 4, groups=2).state_dict()) == ["weight", "bias"]
    assert list(transfer(8, 4, 2).state_dict()) == ["weight"]


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (-1, 4)])
def test_width_below_1_is_refused(shape):
    with pytest.raises(ValueError, match=f"at least 1, got {min(shape[:2])}$"):
        GroupedLinear(*shape)


@pytest.mark.parametrize("groups", [1, 2])
def test_input_of_another_width_is_refused(groups):
    with pytest.raises(ValueError, match=r"must have 8 channels last, got shape \(3, 4\)"):
        GroupedLinear(8, 8, groups=groups)(torch.randn(3, 4))


@kernels
def test_a_nan_stays_in_its_group_where_that_fills_a_vector():
    x = torch.randn(3, 64)
    x[0, 0] = torch.nan
    y = GroupedLinear(64, 64, groups=4)(x)
    assert y[0, :16].isnan().all()
    assert not y[:, 16:].isnan().any()
