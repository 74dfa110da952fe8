"""Blocks, transfers and units of mgic_vision against dense, slow references."""

import copy
import math
from dataclasses import replace
from functools import partial

import oracles
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from mgic_geo import num_weights
from mgic_geo.levels import Level, MGICBlock, Residual, level_plan
from mgic_vision import (
    GhostModule,
    GroupedConv2d,
    SqueezeExcite,
    TransferConv2d,
    basic_block,
    bottleneck,
    dense_level,
    depthwise_change,
    ghost_bottleneck,
    inverted_residual,
    mgic_unit,
    pointwise_change,
)
from mgic_vision.layers import DepthwiseConv2d, round_width
from mgic_vision.models.lraspp import WindowPool
from mgic_vision.models.plain_resnet import PlainBlock

BLOCKS = {
    "basic": (basic_block, 1),
    "bottleneck": (bottleneck, 1 / 4),
    "inverted": (partial(inverted_residual, kernel_size=5, squeeze="finest"), 3),
    "inverted, no expansion": (inverted_residual, 1),
    "ghost": (partial(ghost_bottleneck, squeeze="every"), 4),
}
GROUPED = Level(index=0, outer=16, inner=16, groups=4, finest=True, coarsest=False)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=BLOCKS)
def kind(request):
    return BLOCKS[request.param]


def make_cycle(make_layer, channels, inner, **options):
    options = {"group_size": 4, "coarse_size": 4} | options
    unit = mgic_unit(channels, channels, make_layer, inner=inner, **options)
    return unit.cycle


def trained(module):
    """The module in double precision with norms that are no identity."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.running_var):
                nn.init.uniform_(tensor, 0.5, 2)
            for tensor in (part.bias, part.running_mean):
                nn.init.normal_(tensor)
    return module.double().eval()


def dense_conv(conv, x):
    """A convolution with the zeros between its groups written out."""
    kernel = conv.weight.flatten(2).unbind(2)
    blocks = [tap.view(conv.groups, -1, tap.size(1)) for tap in kernel]
    weight = torch.stack([oracles.block_diagonal(tap) for tap in blocks], 2)
    weight = weight.view(conv.out_channels, conv.in_channels, *conv.kernel_size)
    return F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation)


def norm(x, module):
    mean, var = module.running_mean, module.running_var
    scale = module.weight / (var + module.eps).sqrt()
    return (x - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + module.bias.view(-1, 1, 1)


@pytest.mark.parametrize("make", [basic_block, bottleneck])
def test_residual_blocks_are_equation_2_2(make):
    block = trained(make(GROUPED))
    x = torch.randn(2, 16, 5, 6, dtype=torch.double)
    y, parts = x, block.branch
    for number in range(1, 1 + sum(isinstance(part, nn.Conv2d) for part in parts)):
        y = norm(y, parts.get_submodule(f"norm{number}")).clamp_min(0)
        y = dense_conv(parts.get_submodule(f"conv{number}"), y)
    assert_close(block(x), x + y)


@pytest.mark.parametrize("inner", [16, 48])
def test_inverted_residual_expands_filters_weighs_and_projects(inner):
    level = replace(GROUPED, inner=inner)
    make = partial(inverted_residual, kernel_size=5, squeeze="finest", activation=nn.Hardswish)
    block = trained(make(level))
    parts = block.branch
    x = y = torch.randn(2, 16, 5, 6, dtype=torch.double)
    if inner != 16:
        y = F.hardswish(norm(dense_conv(parts.expand.conv, y), parts.expand.norm))
    y = F.hardswish(norm(dense_conv(parts.depthwise.conv, y), parts.depthwise.norm))
    pooled = y.mean((2, 3))
    gate = F.linear(pooled, parts.squeeze.reduce.weight.flatten(1), parts.squeeze.reduce.bias)
    gate = F.linear(gate.relu(), parts.squeeze.expand.weight.flatten(1), parts.squeeze.expand.bias)
    y = y * ((gate + 3).clamp(0, 6) / 6)[..., None, None]
    y = norm(dense_conv(parts.project.conv, y), parts.project.norm)
    assert_close(block(x), x + y)
    assert hasattr(parts, "expand") == (inner != 16)


def test_ghost_module_derives_half_of_its_channels_from_the_other_half():
    module = trained(GhostModule(16, 23, kernel_size=3, stride=2, groups=4, activation=nn.ReLU))
    x = torch.randn(2, 16, 6, 6, dtype=torch.double)
    half = norm(dense_conv(module.primary.conv, x), module.primary.norm).relu()
    cheap = norm(dense_conv(module.cheap.conv, half), module.cheap.norm).relu()
    assert module.cheap.conv.groups == 12
    assert_close(module(x), torch.cat([half, cheap], 1)[:, :23])


def test_a_cycle_of_residual_blocks_follows_the_definition(kind):
    make, expansion = kind
    block = trained(make_cycle(make, 16, int(16 * expansion), coarse_size=1, group_size=2))
    features = [torch.randn(2, 16, 5, 6, dtype=torch.double)]
    for restrict in block.restrict:
        features.append(dense_conv(restrict, features[-1]))
    y = block.layers[-1](features[-1])
    for j in reversed(range(len(block.restrict))):
        change = norm(dense_conv(block.prolong[j], y - features[j + 1]), block.norms[j])
        y = block.layers[j](features[j] + change)
    assert len(block.levels) > 2
    assert_close(block(features[0]), y)


@pytest.mark.parametrize("training", [True, False])
def test_a_fresh_cycle_of_identity_layers_is_the_identity_bit_for_bit(kind, training):
    make, expansion = kind
    block = make_cycle(make, 16, int(16 * expansion)).train(training)
    for layer in block.layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    x = torch.randn(2, 16, 5, 6)
    assert_close(block(x), x, rtol=0, atol=0)


def test_a_cycle_without_levels_is_the_dense_block(kind):
    make, expansion = kind
    inner = int(16 * expansion)
    block = make_cycle(make, 16, inner, coarse_size=16, min_levels=0)
    dense = make(dense_level(16, inner))
    dense.load_state_dict(block.layers[0].state_dict())
    x = torch.randn(2, 16, 5, 6)
    assert_close(block(x), dense(x), rtol=0, atol=0)
    assert num_weights(block) == num_weights(dense)


@pytest.mark.parametrize(
    ("make", "inner", "dense_weights", "norms"),
    [
        (basic_block, lambda c: c, lambda c, m: 18 * c**2, lambda c, m: 4 * c),
        (
            bottleneck,
            lambda c: c // 4,
            lambda c, m: 2 * c * m + 9 * m**2,
            lambda c, m: 2 * c + 4 * m,
        ),
        (inverted_residual, lambda c: 3 * c, lambda c, m: 2 * c * m, lambda c, m: 2 * c + 4 * m),
    ],
)
def test_the_weights_of_a_cycle_are_those_of_its_cost_line(make, inner, dense_weights, norms):
    block = make_cycle(make, 64, inner(64), group_size=8, coarse_size=16)
    expected = 0
    for level in level_plan(64, inner(64), group_size=8, coarse_size=16):
        c, m = level.outer, level.inner
        expected += dense_weights(c, m) // level.groups + norms(c, m)
        if make is inverted_residual:
            expected += 9 * m  # the depthwise kernels
        if not level.coarsest:
            expected += c**2 // level.groups + 2 * c
    assert num_weights(block) == expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (GroupedConv2d(8, 16, kernel_size=3, groups=4), 3**2 * 8 * 16 // 4),
        (DepthwiseConv2d(16, 24), 3**2 * 16 * 24 // 8),
        (SqueezeExcite(72), 2 * 72 * 24 + 24 + 72),
        (GhostModule(16, 32), 16 * 16 + 9 * 16 + 4 * 16),
        (TransferConv2d(16, 8, 4), 16 * 8 // 4),
        (depthwise_change(16, 24), 9 * 16 * 24 // 8 + 2 * 24),
        (pointwise_change(16, 24), 16 * 24 + 2 * 24),
        (PlainBlock(16, 24), 9 * 24 * (16 + 24) + 4 * 24),
    ],
)
def test_the_weights_of_a_layer_are_those_of_its_cost_line(module, expected):
    assert num_weights(module) == expected


def test_gradients_of_a_unit_are_right():
    unit = mgic_unit(4, 8, bottleneck, inner=4, stride=2, group_size=2, coarse_size=4)
    unit = copy.deepcopy(trained(unit))
    for module in unit.modules():  # finite differences need a smooth function
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
    x = torch.randn(1, 4, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(unit, (x,))


# coupling: what a level without groups at the bottom is for


def coupled(make_layer, channels, inner, group_size, coarse_size):
    """Whether every channel out depends on every channel in, at one pixel."""
    options = {"group_size": group_size, "coarse_size": coarse_size, "inner": inner}
    block = MGICBlock(channels, make_layer, TransferConv2d, make_norm=nn.BatchNorm2d, **options)
    x = torch.randn(1, channels, 1, 1, dtype=torch.double)
    return bool((torch.func.jacrev(trained(block))(x) != 0).all())


WIDTHS = (24, 40, 72, 80, 112, 120, 184, 200)
TABLE_6 = [(24, 72), (40, 120), (80, 184), (80, 200), (112, 672), (160, 960)]


@pytest.mark.parametrize(
    ("make", "channels", "inner", "group_size", "coarse_size"),
    [
        *((basic_block, c, c, s, s) for c in WIDTHS for s in (2, 64)),
        *((inverted_residual, c, 3 * c, 8, 8) for c in WIDTHS),
        *((inverted_residual, *widths, 8, 64) for widths in TABLE_6),
    ],
)
def test_every_channel_sees_every_other(make, channels, inner, group_size, coarse_size):
    make_layer = partial(make, activation=nn.Softplus)
    assert coupled(make_layer, channels, inner, group_size, coarse_size)


@pytest.mark.parametrize("channels", WIDTHS)
def test_channels_come_apart_where_the_bottom_level_is_grouped(channels):
    def make_layer(level):
        level = replace(level, groups=2) if level.coarsest else level
        return basic_block(level, activation=nn.Softplus)

    # halved once, to an even width that two groups divide; the level above is grouped as well
    assert not coupled(make_layer, channels, channels, channels // 4, channels // 2)


def test_the_group_rule_of_the_paper_gives_40_of_64_for_120_and_40():
    block = make_cycle(inverted_residual, 40, 120, group_size=64, coarse_size=64)
    assert block.levels[0].group_width == 40


# transfers and initialization


@pytest.mark.parametrize("init", ["aggregate", "uniform", "constant"])
def test_transfers_start_positive_with_row_sums_one(init):
    transfer = TransferConv2d(24, 12, 4, init=init)
    for _ in range(2):
        assert bool((transfer.weight > 0).all())
        assert_close(transfer.weight.flatten(1).sum(1), torch.ones(12))
        transfer.reset_parameters()


def test_aggregation_gives_a_coarse_channel_its_own_pair():
    weight = TransferConv2d(16, 8, 2).weight.view(2, 4, 8)
    own = torch.eye(4).repeat_interleave(2, 1).expand(2, 4, 8)
    assert bool((weight[own == 1] > 0.45).all())
    assert bool((weight[own == 0] < 0.1).all())


def test_resetting_a_unit_keeps_the_rule_of_its_transfers():
    unit = mgic_unit(8, 16, basic_block, group_size=4, coarse_size=4)
    before = unit.cycle.restrict[0].weight.clone()
    unit.cycle.reset_parameters()
    after = unit.cycle.restrict[0].weight
    assert_close(after.flatten(1).sum(1), torch.ones(8))
    assert bool((before != after).any())


def test_norms_stand_after_prolongations_only():
    block = make_cycle(basic_block, 16, 16)
    assert [module.num_features for module in block.norms] == [16, 8]
    assert all(isinstance(module, TransferConv2d) for module in (*block.restrict, *block.prolong))
    assert all(module.bias is None for module in (*block.restrict, *block.prolong))


def test_the_variance_of_a_grouped_convolution_counts_its_own_group():
    conv = GroupedConv2d(256, 512, kernel_size=3, groups=4)
    assert_close(conv.weight.std(), torch.tensor(math.sqrt(2 / (9 * 128))), rtol=0.02, atol=0)


# squeeze-excite, widths, resolutions


@pytest.mark.parametrize(("squeeze", "expected"), [("none", 0), ("finest", 1), ("every", 3)])
@pytest.mark.parametrize("make", [inverted_residual, ghost_bottleneck])
def test_squeeze_excite_stands_on_the_levels_asked_for(make, squeeze, expected):
    block = make_cycle(partial(make, squeeze=squeeze), 16, 48)
    assert sum(isinstance(module, SqueezeExcite) for module in block.modules()) == expected


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1)])
@pytest.mark.parametrize("change", [depthwise_change, pointwise_change])
def test_a_unit_changes_width_and_resolution(change, size, stride):
    options = {"group_size": 4, "coarse_size": 4, "stride": stride, "make_change": change}
    unit = mgic_unit(6, 16, basic_block, **options)
    expected = [math.ceil(side / stride) for side in size]
    assert unit(torch.randn(2, 6, *size)).shape == (2, 16, *expected)


@pytest.mark.parametrize(("in_channels", "stride", "expected"), [(16, 1, 0), (16, 2, 1), (8, 1, 1)])
def test_a_unit_has_a_change_only_where_something_changes(in_channels, stride, expected):
    unit = mgic_unit(in_channels, 16, basic_block, stride=stride, group_size=4, coarse_size=4)
    assert sum(name == "change" for name, _ in unit.named_children()) == expected


def test_the_depthwise_change_has_as_many_groups_as_both_widths_allow():
    change = trained(depthwise_change(16, 24, stride=2))
    x = torch.randn(2, 16, 6, 6, dtype=torch.double)
    assert change.conv.groups == 8
    assert_close(change(x), norm(dense_conv(change.conv, x), change.norm).relu())


def test_dilation_spreads_the_taps_and_keeps_the_size():
    conv = GroupedConv2d(1, 1, kernel_size=3, dilation=2)
    y = conv(torch.ones(1, 1, 1, 1).expand(1, 1, 9, 9))
    assert y.shape == (1, 1, 9, 9)
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    assert conv(point).nonzero()[:, 2].unique().tolist() == [2, 4, 6]


def test_window_pool_averages_windows_and_shrinks_to_small_maps():
    x = torch.randn(1, 2, 64, 128)
    pooled = WindowPool(49)(x)
    assert pooled.shape == (1, 2, 1, 4)
    assert_close(pooled[0, 1, 0, 2], x[0, 1, :49, 40:89].mean())
    assert_close(WindowPool(49)(x[..., :20, :30]), x[..., :20, :30].mean((2, 3), keepdim=True))


@pytest.mark.parametrize(("width", "expected"), [(3, 8), (12, 16), (18, 24), (67.2, 64), (96, 96)])
def test_widths_are_rounded_to_eight_but_never_below_nine_tenths(width, expected):
    assert round_width(width) == expected


# what users and checkpoints rely on


def test_names_in_a_checkpoint():
    unit = mgic_unit(8, 16, bottleneck, inner=4, group_size=2, coarse_size=2)
    names = set(unit.state_dict())
    assert {
        "change.conv.weight",
        "change.norm.running_mean",
        "cycle.layers.0.branch.norm1.weight",
        "cycle.layers.1.branch.conv3.weight",
        "cycle.restrict.0.weight",
        "cycle.corrections.0.transfer.weight",
        "cycle.corrections.0.norm.weight",
    } <= names


def test_a_cycle_shows_its_levels():
    assert "0     16     16      4      4  finest" in repr(make_cycle(basic_block, 16, 16))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: GroupedConv2d(8, 8, kernel_size=2), r"kernel_size must be odd .*, got \(2, 2\)"),
        (lambda: GroupedConv2d(8, 8, groups=3), "divisible by groups"),
        (lambda: TransferConv2d(8, 6, 4), "divisible by groups"),
        (lambda: TransferConv2d(8, 4, 4, init="zeros"), "init must be"),
        (lambda: inverted_residual(GROUPED, squeeze="all"), "squeeze must be one of .* got 'all'"),
        (
            lambda: mgic_unit(8, 8, basic_block, group_size=0),
            "group_size must be at least 1, got 0",
        ),
    ],
)
def test_wrong_arguments_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_every_block_is_residual(kind):
    make, expansion = kind
    assert isinstance(make(dense_level(16, int(16 * expansion))), Residual)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_a_block_without_norms_leaves_its_input_alone(kind, train):
    make, expansion = kind
    block = make(dense_level(16, int(16 * expansion))).train(train)
    for parent in list(block.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    x = torch.randn(2, 16, 5, 5)
    before = x.clone()
    y = block(x)
    assert_close(x, before)
    assert_close(y, before + block.branch(before.clone()))


@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_map_keeps_its_bias(groups, size):
    conv = GroupedConv2d(8, 8, groups=groups)
    conv.bias = nn.Parameter(torch.randn(8))
    x = torch.randn(5, 8, *size)
    assert_close(conv(x), nn.Conv2d.forward(conv, x))


@pytest.mark.parametrize(
    "arguments",
    [
        ((8, 12, 3, 2, 1), {"bias": False}),
        ((8, 8, (3, 5)), {"groups": 8, "padding": (1, 2), "bias": True}),
        ((8, 8, 5), {"padding": "same", "groups": 8, "bias": True}),
        ((8, 8, 2), {"padding": 0, "dtype": torch.float32, "bias": True}),
        ((8, 8, 3), {"padding": 1, "groups": 8, "bias": False, "padding_mode": "reflect"}),
    ],
    ids=str,
)
def test_a_map_is_made_with_the_arguments_of_pytorchs(arguments):
    """Those who make another layer like a given one, as peft does, know no other."""
    args, options = arguments
    ours, theirs = GroupedConv2d(*args, **options), nn.Conv2d(*args, **options)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 7, 6)
    assert_close(ours(x), theirs(x))
    assert ours.bias is None or not ours.bias.any()
