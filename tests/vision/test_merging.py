"""Groups merged for a runtime's blocks of channels, and where that is faster."""

import logging
import pickle

import pytest
import torch
from image_kernels import LAYERS, make_cycle, needs_compiler
from image_networks import shift_norms
from torch import nn
from torch.testing import assert_close

from mgic_vision import create_model, fuse, merge_groups, merging
from mgic_vision.layers import DepthwiseConv2d, GroupedConv2d
from mgic_vision.ops.cycle import NativeCycle


def wrap(inner: int, outer: int, groups: int, **options) -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.Conv2d(inner * groups, outer * groups, 3, groups=groups, **options)
    return nn.Sequential(conv.to(memory_format=torch.channels_last))


@pytest.mark.parametrize(
    ("inner", "outer", "groups", "left"),
    [
        (1, 4, 16, 2),  # a change of width: eight channels at a time
        (2, 3, 8, 1),  # a group would have 8 and 12: dense is the first that fits
        (5, 7, 16, 2),
        (20, 40, 4, 2),
        (1, 1, 16, 16),  # depthwise
        (16, 8, 4, 4),  # fits
        (3, 5, 4, 4),  # 12 and 20 channels never fit
        (4, 4, 6, 3),
        (3, 5, 1, 1),
    ],
)
def test_merged_convolutions_are_equal(inner, outer, groups, left):
    model = wrap(inner, outer, groups, stride=2, padding=1, bias=inner > 2)
    merged, x = merge_groups(model), torch.rand(2, inner * groups, 9, 7)
    assert merged[0].groups == left
    assert model[0].groups == groups
    assert merged[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert_close(merged(x), model(x))
    assert (merged[0].weight != 0).sum() == model[0].weight.numel()


def test_the_block_is_the_runtimes():
    model = wrap(1, 2, 32)
    assert [merge_groups(model, block=block)[0].groups for block in (1, 8, 16)] == [32, 4, 2]
    with pytest.raises(ValueError, match="block must be at least 1 channel, got 0"):
        merge_groups(model, block=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [("mgic_resnet50", {"group_size": 16, "layers": (1, 1, 1, 1)}), ("mgic_mobilenetv3_small", {})],
)
def test_a_merged_network_fits_the_blocks_and_equals_the_network(name, options):
    torch.manual_seed(0)
    model = create_model(name, 5, **options).eval().double()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
    merged, x = merge_groups(fuse(model, native="never")), torch.rand(2, 3, 64, 48).double()
    expected = model(x)
    scale = expected.abs().max()
    assert_close(merged(x) / scale, expected / scale, rtol=0, atol=1e-12)

    def unfit(module: nn.Module) -> int:
        grouped = [c for c in module.modules() if isinstance(c, nn.Conv2d) and c.groups > 1]
        widths = [(c.in_channels // c.groups, c.out_channels // c.groups) for c in grouped]
        return sum(w != (1, 1) and any(n % 8 for n in w) for w in widths)

    assert unfit(model) > 0
    assert unfit(merged) == 0


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(GroupedConv2d(6, 24, kernel_size=3, stride=2, groups=6), nn.BatchNorm2d(24), nn.ReLU()),
        *(DepthwiseConv2d(24, 24), nn.ReLU(), GroupedConv2d(24, 300, groups=4)),
    )
    return shift_norms(model).eval()


SAMPLE = torch.rand(1, 6, 8, 8, generator=torch.Generator().manual_seed(0))


def test_groups_are_merged_where_that_is_measured_to_be_faster(monkeypatch, caplog):
    monkeypatch.setattr(merging, "_time", lambda conv, x: 1e-3 * conv.groups)
    model = make_network()
    with caplog.at_level(logging.INFO, "mgic_vision.merging"):
        fused = fuse(model, native="never", sample=SAMPLE)
    assert [conv.groups for conv in fused if isinstance(conv, nn.Conv2d)] == [1, 24, 4]
    assert_close(fused(SAMPLE), model(SAMPLE))
    assert repr(fused[0]).endswith("padding=(1, 1), merged from 6 groups: 1 ms, not 6 ms)")
    assert f"0: {fused[0]}" in caplog.text
    again = fuse(pickle.loads(pickle.dumps(fused)), native="never")
    assert_close(again(SAMPLE), fused(SAMPLE), rtol=0, atol=0)
    assert str(again) == str(fused)


def test_what_is_hardly_faster_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(merging, "_time", lambda conv, x: 0.95 if conv.groups == 1 else 1)
    fused, plain = (
        fuse(make_network(), native="never", sample=sample) for sample in (SAMPLE, None)
    )
    assert str(fused) == str(plain)
    assert_close(fused.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_every_kind_of_convolution_is_timed_once_and_depthwise_ones_never(monkeypatch):
    timed = []
    monkeypatch.setattr(merging, "_time", lambda conv, x: timed.append(conv.groups) or 1)
    model = nn.Sequential(*(GroupedConv2d(8, 8, groups=4), DepthwiseConv2d(8, 8)) * 2)
    fuse(model, native="never", sample=torch.rand(1, 8, 4, 4))
    assert timed == [4, 2, 1]


@needs_compiler
def test_what_runs_in_kernels_is_not_timed(monkeypatch):
    monkeypatch.setattr(merging, "_time", None)
    cycle = fuse(make_cycle(*LAYERS["bottleneck"]), sample=torch.rand(1, 64, 4, 4))
    assert isinstance(cycle, NativeCycle)


def test_a_convolution_is_timed():
    conv = wrap(2, 2, 4, padding=1)[0]
    assert 0 < merging._time(conv, torch.rand(1, 8, 4, 4)) < 1


def test_a_sample_is_images():
    with pytest.raises(TypeError, match="sample must be a tensor, got tuple"):
        fuse(make_network(), sample=(1, 6, 8, 8))
