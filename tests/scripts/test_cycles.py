"""The ways to run a cycle that the paper leaves open, against the cycle of the packages."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mgic_geo import MGICBlock, num_weights
from mgic_geo.levels import reset_parameters
from mgic_vision import basic_block, create_model
from mgic_vision.blocks import dense_level
from mgic_vision.transfers import TransferConv2d
from scripts.experiments.paper import cycles

OPTIONS = {"depth": 8, "width": 8, "group_size": 4, "coarse_size": 4}
CHANGES = {
    "interleaved": cycles.interleaved,
    "norm after R": cycles.norm_after_restriction,
    "uniform": partial(cycles.initial_transfers, init="uniform"),
    "constant": partial(cycles.initial_transfers, init="constant"),
    "zero scale": cycles.zero_scale,
    "shared": cycles.shared_transfers,
    "whole features": cycles.WholeFeatures,
    "both ways": cycles.BothWays,
    "dense": cycles.dense,
    "dense as deep": cycles.dense_as_deep,
}


def make_block(channels: int = 32, group_size: int = 4) -> MGICBlock:
    torch.manual_seed(0)
    return MGICBlock(
        channels,
        basic_block,
        TransferConv2d,
        group_size=group_size,
        coarse_size=group_size,
        make_norm=nn.BatchNorm2d,
    ).double()


def run_network(change: cycles.Change) -> torch.Tensor:
    torch.manual_seed(0)
    network = create_model("mgic_resnet56", **OPTIONS)
    cycles.change_cycles(network, change, basic_block)
    network.double()
    torch.manual_seed(1)
    return network(torch.rand(4, 3, 8, 8, dtype=torch.float64))


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(3, 32, 4, 4, dtype=torch.float64)


def test_an_unchanged_network_is_that_of_the_package():
    torch.manual_seed(0)
    network = create_model("mgic_resnet56", **OPTIONS).double()
    torch.manual_seed(1)
    expected = network(torch.rand(4, 3, 8, 8, dtype=torch.float64))
    assert_close(run_network(cycles.unchanged), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_changes_what_the_network_gives(name):
    changed, default = run_network(CHANGES[name]), run_network(cycles.unchanged)
    assert changed.isfinite().all()
    assert (changed - default).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["interleaved", "zero scale", "whole features"])
def test_a_change_without_weights_of_its_own_starts_from_the_same_ones(name):
    block = make_block()
    before = [weight.clone() for weight in block.layers.parameters()]
    before += [weight.clone() for weight in (*block.restrict.parameters(),)]
    block = CHANGES[name](block, basic_block)
    block = getattr(block, "block", block)
    after = [*block.layers.parameters(), *block.restrict.parameters()]
    assert_close(after, before, rtol=0, atol=0)


def test_an_interleaved_transfer_reads_every_gth_channel(x):
    block = cycles.interleaved(make_block(), basic_block)
    for transfer in (block.restrict[0], block.prolong[0]):
        groups = transfer[1].groups
        assert groups > 1
        matrix = transfer(torch.eye(transfer[1].in_channels).double()[:, :, None, None])
        row, column = matrix[..., 0, 0].T.nonzero(as_tuple=True)
        assert (row % groups == column % groups).all()
        assert len(row) == transfer[1].weight.numel()


def test_interleaving_one_group_changes_nothing(x):
    one, other = make_block(group_size=32), make_block(group_size=32)
    assert all(transfer.groups == 1 for transfer in one.restrict)
    assert_close(cycles.interleaved(one, basic_block)(x), other(x), rtol=0, atol=0)


def test_with_scale_zero_a_cycle_starts_as_its_finest_layer(x):
    block = cycles.zero_scale(make_block(), basic_block)
    assert_close(block(x), block.layers[0](x))


def test_a_shared_prolongation_is_the_transpose_of_its_restriction(x):
    block = cycles.shared_transfers(make_block(), basic_block)
    y = torch.randn(3, 16, 4, 4, dtype=torch.float64)
    assert_close((block.prolong[0](y) * x).sum(), (y * block.restrict[0](x)).sum())
    assert num_weights(block) < num_weights(make_block())


def test_without_restricted_features_what_changed_is_the_whole(x):
    """Where R is 0 the coarse levels start from 0, so that P carries up the same either way."""
    one, other = make_block(), make_block()
    for weight in (*one.restrict.parameters(), *other.restrict.parameters()):
        nn.init.zeros_(weight)
    assert_close(cycles.WholeFeatures(one, basic_block)(x), other(x))


def test_whole_features_lose_the_identity_that_the_correction_keeps(x):
    block = make_block()
    for name, weight in block.named_parameters():
        if name.startswith("layers") and "conv" in name:
            nn.init.zeros_(weight)
    assert_close(block(x), x, rtol=0, atol=0)
    assert (cycles.WholeFeatures(block, basic_block)(x) - x).abs().max() > 0.1


def test_relaxation_both_ways_with_idle_layers_on_the_way_down_is_the_cycle(x):
    block = make_block()
    expected = block(x)
    both = cycles.BothWays(make_block(), basic_block)
    assert len(both.down) == len(block.layers) - 1
    for name, weight in both.down.named_parameters():
        if "conv" in name:
            nn.init.zeros_(weight)
    assert_close(both(x), expected)


def test_layers_on_the_way_down_have_weights_of_their_own():
    both = cycles.BothWays(make_block(), basic_block)
    for down, up in zip(both.down, both.block.layers, strict=False):
        for (name, one), other in zip(down.named_parameters(), up.parameters(), strict=True):
            assert one is not other
            assert "conv" not in name or not one.equal(other)


def test_without_strict_fall_widths_of_a_large_prime_keep_their_groups():
    strict = make_block(88, group_size=8)
    loose = cycles.any_groups(make_block(88, group_size=8), basic_block, group_size=8).double()
    assert [level.groups for level in strict.levels] == [11, 4, 2, 1, 1]
    assert [level.groups for level in loose.levels] == [11, 11, 11, 11, 1]
    assert [transfer.groups for transfer in loose.restrict] == [11, 11, 11, 1]
    assert loose(torch.rand(2, 88, 2, 2, dtype=torch.float64)).shape == (2, 88, 2, 2)


@pytest.mark.parametrize("channels", [16, 32, 64])
def test_powers_of_two_have_the_same_groups_under_both_rules(channels):
    loose = cycles.any_groups(make_block(channels), basic_block, group_size=4)
    assert loose.levels == make_block(channels).levels


def test_dense_controls_have_one_layer_and_as_many_as_there_are_levels():
    block = make_block()
    one = num_weights(basic_block(dense_level(32)))
    assert num_weights(cycles.dense(block, basic_block)) == one
    assert num_weights(cycles.dense_as_deep(block, basic_block)) == one * len(block.levels)


def test_initial_transfers_keep_their_rule_when_they_are_drawn_again():
    block = cycles.initial_transfers(make_block(), basic_block, init="constant")
    reset_parameters(block)
    assert block.restrict[0].weight.unique().numel() == 1
