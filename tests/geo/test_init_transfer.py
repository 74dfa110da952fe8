import pytest
import torch
from torch.testing import assert_close

from mgic_geo import MGICBlock, init_transfer_, transfer

RULES = ["aggregate", "uniform", "constant"]
# (channels, group_size, coarse_size)
SETTINGS = [
    (512, 8, 64),
    (512, 16, 64),
    (512, 64, 64),
    (512, 512, 64),
    (256, 64, 8),
    (64, 4, 8),
    (64, 32, 8),
    (40, 8, 8),
    (120, 16, 16),
    (184, 8, 8),
    (72, 16, 8),
    (96, 64, 12),
    (33, 4, 4),
]


def block_with(init: str, channels: int, group_size: int, coarse_size: int) -> MGICBlock:
    torch.manual_seed(0)
    return MGICBlock(
        channels,
        make_layer=lambda level: torch.nn.Identity(),
        make_transfer=lambda i, o, groups: transfer(i, o, groups, init=init),
        group_size=group_size,
        coarse_size=coarse_size,
    )


@torch.no_grad()
def effective_rank(matrix: torch.Tensor) -> float:
    """exp of the entropy of the singular values, as shares of their sum."""
    shares = torch.linalg.svdvals(matrix.double())
    shares = shares[shares > 0] / shares.sum()
    return float((-shares * shares.log()).sum().exp())


@torch.no_grad()
def rank_per_row(block: MGICBlock) -> float:
    composed = torch.eye(block.levels[0].outer)
    for restrict in block.restrict:
        composed = restrict(composed)
    return effective_rank(composed) / block.levels[-1].outer


@pytest.mark.parametrize("init", RULES)
@pytest.mark.parametrize("shape", [(4, 2, 4), (4, 4, 2), (1, 11, 23), (1, 23, 11), (3, 1, 5)])
def test_fresh_rows_are_positive_and_sum_to_1(init, shape):
    weight = init_transfer_(torch.empty(shape, dtype=torch.float64), init=init)
    assert (weight > 0).all()
    assert_close(weight.sum(-1), torch.ones(shape[:2], dtype=torch.float64))


def test_aggregation_gives_nine_tenths_of_a_row_to_its_own_pair():
    weight = init_transfer_(torch.empty(2, 3, 6, dtype=torch.float64))
    for row in range(3):
        pair = weight[:, row, 2 * row : 2 * row + 2]
        assert (pair >= 0.45).all()
        assert (pair.sum(-1) < 1).all()


def test_aggregation_gives_nine_tenths_of_a_prolonged_row_to_its_parent():
    weight = init_transfer_(torch.empty(2, 6, 3, dtype=torch.float64))
    for row in range(6):
        assert (weight[:, row, row // 2] >= 0.9).all()


def test_constant_rows_are_all_equal():
    assert_close(init_transfer_(torch.empty(2, 3, 4), init="constant"), torch.full((2, 3, 4), 0.25))


def test_aggregated_rows_differ_from_each_other():
    weight = init_transfer_(torch.empty(1, 8, 16))[0]
    assert torch.pdist(weight).min() > 0.1


@pytest.mark.parametrize("setting", SETTINGS)
def test_composed_restriction_by_aggregation_keeps_nine_tenths_of_its_rank(setting):
    assert rank_per_row(block_with("aggregate", *setting)) >= 0.9


@pytest.mark.parametrize("setting", [(512, 64, 64), (512, 32, 64), (256, 64, 8), (64, 32, 8)])
def test_composed_uniform_restriction_loses_four_fifths_of_its_rank(setting):
    assert rank_per_row(block_with("uniform", *setting)) < 0.2


def test_uniform_restriction_from_512_to_64_channels_keeps_rank_of_about_3():
    block = block_with("uniform", 512, 64, 64)
    assert 64 * rank_per_row(block) < 4


@pytest.mark.parametrize("init", RULES)
def test_reset_parameters_draws_a_transfer_again_by_its_rule(init):
    layer = transfer(16, 8, 2, init=init)
    before = layer.weight.detach().clone()
    torch.nn.init.normal_(layer.weight)
    layer.reset_parameters()
    assert (layer.weight > 0).all()
    assert_close(layer.weight.sum(-1), torch.ones(2, 4))
    assert torch.equal(layer.weight, before) == (init == "constant")


def test_unknown_rule_is_refused():
    with pytest.raises(
        ValueError, match="init must be one of aggregate, uniform, constant, normal, got 'ones'"
    ):
        init_transfer_(torch.empty(1, 2, 4), init="ones")


def test_weight_without_an_axis_of_groups_is_refused():
    with pytest.raises(ValueError, match=r"must be \(groups, out, in\), got shape \(2, 4\)"):
        init_transfer_(torch.empty(2, 4))
