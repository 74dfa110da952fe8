"""The report of what every cycle costs beside the dense block."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models import resnet18

from mgic_geo import (
    MGICMLP,
    MGICBlock,
    MGICLinear,
    feed_forward,
    level_plan,
    multiply_adds,
    num_weights,
)
from mgic_vision import (
    basic_block,
    convert,
    create_model,
    dense_level,
    inverted_residual,
    mgic_unit,
    summary,
)


@pytest.fixture
def small() -> nn.Module:
    return create_model("mgic_resnet56", depth=8)


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("mgic_resnet56", {"change": "pointwise"}, (3, 40, 24)),
        ("mgic_mobilenetv3_small", {"squeeze": "every", "output_stride": 8}, (3, 65, 97)),
        ("lraspp_mgic_small", {"width": 0.6}, (3, 64, 96)),
        ("function_mgic", {"c_max": 64}, (5,)),
        ("mobilenet_v3_small", {}, (3, 64, 64)),
    ],
)
def test_the_total_is_what_torchs_counter_says(name, options, size):
    model = create_model(name, **options)
    report = summary(model, size)
    counted = multiply_adds(model, torch.rand(1, *size))
    assert report.total.multiply_adds == counted
    assert report.total.weights == num_weights(model)
    assert report.input_size == size


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (MGICLinear(48, group_size=8, coarse_size=12), (48,)),
        (MGICLinear(48, group_size=8, make_norm=nn.LayerNorm, make_act=nn.GELU), (7, 48)),
        (MGICMLP(40, 40, 1, 3), (40,)),
        (MGICMLP(5, 40, 2, 3, group_size=10), (5,)),
        (feed_forward(level_plan(24, 96, group_size=8, coarse_size=8)[0]), (2, 9, 24)),
    ],
    ids=["linear", "rows", "mlp of one width", "mlp", "feed forward"],
)
def test_maps_of_vectors_count_as_in_torchs_counter(model, size):
    report = summary(model, size)
    assert report.total.multiply_adds == multiply_adds(model, torch.rand(1, *size)) > 0
    assert report.total.weights == num_weights(model)
    if isinstance(model, MGICLinear):
        (block,) = report.blocks
        assert block.dense.weights == num_weights(nn.Linear(48, 48))
        assert block.dense.multiply_adds == multiply_adds(nn.Linear(48, 48), torch.rand(1, *size))
        assert block.total.multiply_adds == report.total.multiply_adds
        expected = sum(level.outer**2 // level.groups for level in block.levels[:-1])
        assert block.transfers.multiply_adds == torch.Size(size[:-1]).numel() * expected


def test_there_is_one_row_for_every_cycle(small):
    report = summary(small)
    cycles = {
        name: module for name, module in small.named_modules() if isinstance(module, MGICBlock)
    }
    assert [block.name for block in report.blocks] == list(cycles)
    for block in report.blocks:
        assert block.levels == cycles[block.name].levels
        assert block.total.weights == num_weights(cycles[block.name])


def test_a_row_counts_what_the_definition_gives():
    # 64 channels at s_g = 8, s_c = 16, on 4x6 pixels: 64, 32 and 16 channels in 8, 4 and 1 groups
    cycle = mgic_unit(64, 64, basic_block, group_size=8, coarse_size=16).cycle
    (block,) = summary(cycle, (64, 4, 6)).blocks
    transfers = 64**2 // 8 + 32**2 // 4
    convs = 18 * (64**2 // 8 + 32**2 // 4 + 16**2)
    norms = 4 * (64 + 32 + 16) + 2 * (64 + 32)
    assert block.transfers.weights == transfers
    assert block.transfers.multiply_adds == 24 * transfers
    assert block.total.weights == convs + transfers + norms
    assert block.total.multiply_adds == 24 * (convs + transfers)
    assert (block.dense.weights, block.dense.multiply_adds) == (
        18 * 64**2 + 4 * 64,
        24 * 18 * 64**2,
    )


@pytest.mark.parametrize("squeeze", ["none", "finest"])
def test_the_dense_block_is_the_one_without_groups(squeeze):
    def make_layer(level):
        return inverted_residual(level, kernel_size=5, squeeze=squeeze)

    options = {"inner": 96, "group_size": 8, "coarse_size": 8}
    cycle = mgic_unit(32, 32, make_layer, **options).cycle
    dense = make_layer(dense_level(32, 96))
    (block,) = summary(cycle, (32, 6, 6)).blocks
    assert block.dense.weights == num_weights(dense)
    assert block.dense.multiply_adds == multiply_adds(dense, torch.rand(1, 32, 6, 6))


def test_counting_without_transfers_leaves_out_r_and_p(small):
    report = summary(small)
    transfers = [
        module
        for cycle in small.modules()
        if isinstance(cycle, MGICBlock)
        for module in (*cycle.restrict, *cycle.prolong)
    ]
    assert report.transfers.weights == sum(map(num_weights, transfers))
    assert report.without_transfers.weights == num_weights(small) - report.transfers.weights
    for cycle in small.modules():
        if isinstance(cycle, MGICBlock):
            cycle.restrict = nn.ModuleList(_Width(m.out_channels) for m in cycle.restrict)
            for correction in cycle.corrections:
                correction.transfer = _Width(correction.transfer.out_channels)
    counted = multiply_adds(small, torch.rand(1, 3, 32, 32))
    assert report.without_transfers.multiply_adds == counted


class _Width(nn.Module):
    """Gives a tensor of another width for nothing."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        return x.new_zeros(x.size(0), self.channels, *x.shape[2:])


def test_narrow_blocks_at_64_cost_more_than_dense_ones():
    report = summary(create_model("mgic_mobilenetv3", width=0.6))
    pays = [block.pays for block in report.blocks]
    assert not any(pays[:5])
    assert all(pays[-4:])
    assert f"{pays.count(False)} of 16 cycles have more weights" in str(report)


def test_the_report_prints_as_a_table(small):
    lines = str(summary(small)).splitlines()
    assert lines[0].split()[:3] == ["block", "widths", "groups"]
    assert len({len(line) for line in lines[:4]}) == 1
    cells = lines[3].split("  ")
    cells = [cell.strip() for cell in cells if cell]
    assert cells[:4] == ["stages.s4.0.cycle", "64 32 16", "8 4 1", "8 8 16"]
    assert cells[4:6] == ["19,840", "0.27"]
    assert lines[-2].startswith("network, input 3x32x32: ")
    assert lines[-1].startswith("without R and P: ")


def test_outer_and_inner_widths_are_told_apart():
    row = summary(create_model("mgic_mobilenetv3")).blocks[-1].row()
    assert row[1:4] == ("160:960 80:480 40:240", "4 2 1", "40:240 40:240 40:240")


def test_a_network_without_cycles_has_an_empty_table():
    report = summary(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False)), (3, 5, 5))
    assert report.blocks == ()
    assert report.total.multiply_adds == 9 * 3 * 3 * 8 * 9 // 3
    assert str(report).startswith("no cycles\n")


def test_the_network_is_left_as_it_was(small):
    small.train()
    before = copy.deepcopy(small.state_dict())
    summary(small)
    assert small.training
    assert_close(small.state_dict(), before, rtol=0, atol=0)
    assert not any(module._forward_hooks for module in small.modules())


@pytest.mark.parametrize("dtype", [torch.double, torch.bfloat16])
def test_a_network_in_any_precision_counts_as_in_single(small, dtype):
    assert summary(copy.deepcopy(small).to(dtype)) == summary(small)
    linear = MGICLinear(48, group_size=8)
    assert summary(copy.deepcopy(linear).to(dtype), (48,)) == summary(linear, (48,))


def test_the_dense_block_of_a_converted_network_is_the_block_that_was_there():
    model = resnet18()
    new, report = convert(model, group_size=32, coarse_size=64, min_width=512)
    (block,) = summary(new, (3, 64, 64)).blocks
    assert block.dense.weights == num_weights(model.layer4[1]) == report.changed[0].before
    dense = multiply_adds(model.layer4[1], torch.rand(1, 512, 2, 2))
    assert block.dense.multiply_adds == dense


def test_hooks_of_the_user_are_not_called(small):
    small.register_forward_hook(lambda *_: pytest.fail("called"))
    assert summary(small).blocks


def test_the_size_of_an_unknown_network_must_be_given():
    with pytest.raises(ValueError, match="input_size must be given"):
        summary(nn.Conv2d(3, 8, 3))
