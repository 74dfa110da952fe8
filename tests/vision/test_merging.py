"""Groups merged for a runtime's blocks of channels."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mgic_vision import create_model, fuse, merge_groups


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
    [("mgic_resnet50", {"group_size": 16, "layers": (1, 1, 1, 1)}), ("mgic_mobilenetv3", {})],
)
def test_a_merged_network_fits_the_blocks_and_equals_the_network(name, options):
    torch.manual_seed(0)
    model = create_model(name, 5, **options).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
    merged, x = merge_groups(fuse(model, native="never")), torch.rand(2, 3, 64, 48)
    expected = model(x)
    scale = expected.abs().max()
    assert_close(merged(x) / scale, expected / scale, rtol=0, atol=1e-5)

    def unfit(module: nn.Module) -> int:
        grouped = [c for c in module.modules() if isinstance(c, nn.Conv2d) and c.groups > 1]
        widths = [(c.in_channels // c.groups, c.out_channels // c.groups) for c in grouped]
        return sum(w != (1, 1) and any(n % 8 for n in w) for w in widths)

    assert unfit(model) > 0
    assert unfit(merged) == 0
