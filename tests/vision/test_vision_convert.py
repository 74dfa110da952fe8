import copy
import functools

import pytest
import torch
import torchvision
from image_blocks import BLOCKS, SIZES, assert_nothing_shared, features
from image_networks import assert_equal, shift_norms
from test_structure import assert_one_level_is
from timm.layers import BatchNormAct2d, ConvMlp, Mlp, create_conv2d
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models.convnext import ConvNeXtBlock
from timm.models.resnetv2 import PreActBottleneck
from torch import nn
from torch.nn.utils import prune
from torch.testing import assert_close
from torchvision.models import shufflenetv2, vgg11
from torchvision.models.resnet import BasicBlock, ResNet

from mgic_geo import GroupedLinear, Level, num_weights
from mgic_vision import convert, fuse
from mgic_vision.conversion.narrow import narrow
from mgic_vision.conversion.tracer import is_scale
from scripts.experiments.known_networks import make
from tests.slow import some


@functools.cache
def converted(name):
    """A block, converted, and inputs for it; copy it before you change it."""
    x = features(BLOCKS[name])
    return *convert(BLOCKS[name].train(), **SIZES, input_size=x.shape[1:]), x


@pytest.mark.parametrize("name", BLOCKS)
def test_block_becomes_a_cycle_of_its_shapes_with_fewer_weights(name):
    block, (new, report, x) = BLOCKS[name].train(), copy.deepcopy(converted(name))
    assert len(report.changed) == 1
    assert new(x).shape == block(x).shape
    new(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in new.parameters())
    assert report.weights_after == num_weights(new)
    assert report.changed[0].levels[-1].groups == 1
    if "ConvBnAct" not in name and "Depthwise" not in name:  # little that could be saved
        assert num_weights(new) < num_weights(block)


@pytest.mark.parametrize("name", BLOCKS)
def test_one_level_is_the_block_itself(name):
    """With one group and all else silent, the projected cycle gives what the block gave."""
    assert_one_level_is(BLOCKS[name].eval(), features(BLOCKS[name]))


@pytest.mark.parametrize("name", BLOCKS)
def test_no_two_modules_of_a_converted_block_share_a_dictionary(name):
    assert_nothing_shared(converted(name)[0])


@pytest.mark.parametrize("name", BLOCKS)
def test_converted_block_is_fused(name):
    new, _, x = copy.deepcopy(converted(name))
    shift_norms(new).eval()
    with torch.no_grad():
        assert_equal(fuse(new)(x), new(x))


@pytest.mark.parametrize("name", BLOCKS)
def test_corrections_start_at_a_tenth(name):
    new = converted(name)[0]
    assert new.cycle.norms
    for norm in new.cycle.norms:
        if isinstance(norm, nn.BatchNorm2d):
            assert_close(norm.weight, torch.full_like(norm.weight, 0.1), rtol=0, atol=0)
        else:  # of what the branch adds
            assert_close(norm.weight, new.cycle.norms[0].weight[:1].expand_as(norm.weight))


@pytest.mark.parametrize("scale", [0.02, 1.0, 3.0])
@pytest.mark.parametrize("kind", [Mlp, ConvMlp])
def test_map_without_batch_norms_starts_with_the_variance_that_it_had(kind, scale):
    torch.manual_seed(0)
    block = kind(128, 512)
    for parameter in block.parameters():
        parameter.data.mul_(scale if parameter.dim() > 1 else 0)
    new, _ = convert(block, group_size=16, coarse_size=16)
    x = torch.randn(8, 128, 8, 8) if kind is ConvMlp else torch.randn(8, 64, 128)
    with torch.no_grad():
        assert 0.8 < (new(x).std() / block(x).std()).item() < 1.25


def test_levels_are_halved_down_to_the_width_of_a_group():
    model = BasicBlock(128, 128)
    found = [convert(model, group_size=32, **size)[1] for size in ({}, {"coarse_size": 32})]
    assert str(found[0]) == str(found[1])


def test_projection_keeps_what_is_within_a_group():
    linear = nn.Linear(6, 4)
    level = make_level(4, 6, groups=2)
    new = narrow(nn.Sequential(linear), level, level, project=True)[0]
    assert isinstance(new, GroupedLinear)
    assert_close(new.weight, torch.stack([linear.weight[:2, :3], linear.weight[2:, 3:]]))
    assert_close(new.bias, linear.bias)


def test_projection_of_a_convolution_that_has_groups_keeps_what_is_within_both():
    conv = nn.Conv2d(8, 8, 1, groups=2, bias=False)
    level = make_level(8, 8, groups=4)
    new = narrow(nn.Sequential(conv), level, level, project=True)[0]
    assert new.groups == 4
    dense, kept = (torch.block_diag(*c.weight[..., 0, 0].chunk(c.groups)) for c in (conv, new))
    mask = torch.block_diag(*torch.ones(4, 2, 2)).bool()
    assert_close(kept, dense.where(mask, 0))


class Plain(nn.Module):
    """A residual block without norms."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 1)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(x)))


@pytest.mark.parametrize("project", [False, True])
def test_features_vary_as_those_of_the_original_where_norms_are_not_at_one(project):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), *(BasicBlock(64, 64) for _ in range(8)))
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.1, 0.5)
    new, report = convert(model, group_size=16, coarse_size=16, project=project)
    assert len(report.changed) == 8
    x = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        assert 0.8 < new(x).std() / model(x).std() < 1.25


def made_of(kind):
    """Three blocks whose norms are not at one, and know what reaches them."""
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU())
    model = nn.Sequential(stem, *(kind() for _ in range(3)))
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.3, 1.2)
        nn.init.normal_(norm.bias, std=0.3)
        norm.momentum = None  # the mean over all
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(8, 3, 12, 12))
    return model.eval()


@pytest.mark.parametrize(
    "kind",
    [
        lambda: BasicBlock(128, 128),
        lambda: torchvision.models.resnet.Bottleneck(128, 32),
        lambda: torchvision.models.mobilenetv2.InvertedResidual(128, 128, 1, 4),
        lambda: PreActBottleneck(
            128, 128, bottle_ratio=0.25, conv_layer=create_conv2d, norm_layer=BatchNormAct2d
        ),
    ],
    ids=["basic", "bottleneck", "inverted", "preactivation"],
)
def test_features_in_evaluation_vary_as_those_of_the_original_within_a_quarter(kind):
    model, x = made_of(kind), torch.randn(8, 3, 12, 12)
    new, report = convert(model, group_size=16, coarse_size=16)
    assert len(report.changed) == 3
    with torch.no_grad():
        for i in range(len(model)):
            ratio = (new[: i + 1](x).std() / model[: i + 1](x).std()).item()
            assert 0.8 < ratio < 1.25


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_maps_that_start_anew_have_outputs_of_the_variance_that_they_had(scale):
    torch.manual_seed(0)
    block = Plain()
    block.two.weight.data.mul_(scale)
    new, _ = convert(block, group_size=16, coarse_size=16)
    x = torch.randn(8, 64, 16, 16)
    with torch.no_grad():
        before, after = block(x) - x, new.cycle.layers[0].branch(x)
    assert 0.8 < after.std() / (before - before.mean((0, 2, 3), keepdim=True)).std() < 1.25


def make_level(outer, inner, groups):
    return Level(0, outer, inner, groups, finest=True, coarsest=False)


def small_resnet(*blocks, **options):
    """A ResNet-18, but as many blocks on each of the four widths, or one."""
    blocks = blocks or (1, 1, 1, 1)
    return ResNet(BasicBlock, blocks, num_classes=10, **options)


def test_original_is_left_as_it_is_and_nothing_is_shared():
    model = small_resnet(1, 2, 1, 1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    new, _ = convert(model, group_size=32, coarse_size=64, min_width=128)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(1)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_precision_mode_and_frozen_norms_are_kept():
    model = nn.Sequential(BasicBlock(64, 64), BasicBlock(64, 64)).double().eval()
    new, _ = convert(model, **SIZES)
    assert {tensor.dtype for tensor in new.parameters()} == {torch.float64}
    assert not any(module.training for module in new.modules())
    model.train()
    model[1].bn1.eval()
    new, _ = convert(model, **SIZES)
    frozen = new[1].cycle.layers[0].branch[1]
    assert isinstance(frozen, nn.BatchNorm2d)
    assert not frozen.training
    assert new[1].cycle.layers[0].branch[4].training
    on_meta, _ = convert(model.to("meta"), **SIZES)
    assert {tensor.device.type for tensor in on_meta.parameters()} == {"meta"}


def test_squeeze_excite_is_on_the_finest_level_only_and_depthwise_stays_depthwise():
    block = InvertedResidual(128, 128, exp_ratio=4, se_layer=SqueezeExcite)
    cycle = convert(block, group_size=32, coarse_size=64)[0].cycle
    names = [[type(m).__name__ for m in layer.branch.modules()] for layer in cycle.layers]
    assert "SqueezeExcite" in names[0]
    assert not any("SqueezeExcite" in level for level in names[1:])
    depthwise = [layer.branch[2] for layer in cycle.layers]
    assert all(conv.groups == conv.in_channels == conv.out_channels for conv in depthwise)


def test_layer_scale_and_stochastic_depth_act_once_on_the_sum():
    old = ConvNeXtBlock(64, drop_path=0.2, ls_init_value=0.1)
    block, _ = convert(old, group_size=16, coarse_size=32)
    (scale,) = (m for m in block.after if is_scale(m))
    assert_close(scale.scale.flatten(), old.gamma)
    assert type(block.after[-1]) is type(old.drop_path)
    assert not any("scale" in name for name, _ in block.cycle.named_parameters())


def test_report_says_what_was_left_and_why():
    model = small_resnet(1, 1, 2, 2)
    _, report = convert(
        model,
        group_size=32,
        coarse_size=64,
        include=["layer[34].*"],
        min_width=512,
        input_size=(3, 64, 64),
    )
    reasons = {row.name: row.reason for row in report.left}
    assert reasons["layer1.0"] == "not in `include`"
    assert reasons["layer3.0"].startswith("changes width or resolution; known is act(x + f(x))")
    assert reasons["layer3.1"] == "256 channels, below min_width 512"
    assert [row.name for row in report.changed] == ["layer4.1"]
    changed = report.changed[0]
    assert report.weights_before - report.weights_after == changed.before - changed.after
    assert report.multiply_adds_before > report.multiply_adds_after
    text = str(report)
    assert "left     layer3.1 (BasicBlock, 1,180,672 weights): 256 channels" in text
    assert "changed  layer4.1 (BasicBlock)" in text


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (small_resnet, {"include": ["layer5.*"]}, r"fits 'layer5\.\*'; there are layer1\.0, "),
        (small_resnet, {"exclude": ["conv1"]}, "no known block fits 'conv1'"),
        (small_resnet, {"group_size": 0}, "group_size must be at least 1, got 0"),
        (small_resnet, {"min_width": 0}, "min_width must be at least 1, got 0"),
        (nn.Sequential, {}, r"Sequential has no block that is known here: known are act\(x"),
        (vgg11, {}, r"nearest is VGG \(the model itself\), in which x is not added"),
        (
            lambda: shufflenetv2.InvertedResidual(48, 48, 1),
            {},
            r"nearest is InvertedResidual .* `view` is in the place of the",
        ),
    ],
)
def test_what_cannot_be_done_is_said(make, options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        convert(make(), **({"group_size": 32, "coarse_size": 64} | options))


def test_norm_that_mixes_groups_of_channels_is_left():
    model = small_resnet(1, 2, 1, 1, norm_layer=lambda width: nn.GroupNorm(8, width))
    _, report = convert(model, group_size=32, coarse_size=64)
    assert not report.changed
    assert {row.reason.partition("; known is")[0] for row in report.left} == {
        "does not understand GroupNorm",
        "changes width or resolution",
    }


# what the weights must at most be, as a share of the original's
BARS = {
    ("torchvision", "resnet50"): 0.62,
    ("timm", "mobilenetv3_large_100"): 0.97,
    ("torchvision", "convnext_tiny"): 0.30,
    ("timm", "vit_small_patch16_224"): 0.55,
}


# by default those that are converted sooner
@pytest.mark.parametrize("bar", some(BARS, *(b for b in BARS if b[0] == "torchvision")), ids=str)
def test_bar(bar):
    with torch.device("meta"):
        model = make(*bar)
    model.default_cfg = None  # with timm's, multiply-adds would be counted
    new, report = convert(model, group_size=32, coarse_size=64)
    assert report.weights_after <= BARS[bar] * report.weights_before
    assert new(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("gradual", [False, True])
def test_a_network_with_pruned_and_normalized_weights_is_converted_but_for_those(gradual):
    model = nn.Sequential(*(BasicBlock(64, 64) for _ in range(3))).eval()
    prune.random_unstructured(model[0].conv1, "weight", 0.5)
    nn.utils.parametrizations.weight_norm(model[1].conv2)
    model(torch.rand(1, 64, 8, 8))  # computes the pruned weight with a gradient
    new, report = convert(model, group_size=16, gradual=gradual, input_size=(64, 8, 8))
    reasons = {row.name: row.reason for row in report.left}
    assert "weight_mask, weight_orig" in reasons["0"]
    assert "does not understand Parametrization" in reasons["1"]
    assert [row.name for row in report.changed] == ["2"]
    new(torch.rand(1, 64, 8, 8)).sum().backward()
    assert new[0].conv1.weight_orig.grad is not None
