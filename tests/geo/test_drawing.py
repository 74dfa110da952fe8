import sys

import matplotlib.patches
import pytest
from torch import nn

from mgic_geo import GroupedLinear, MGICBlock, create_model, draw, transfer


def block(channels: int, group_size: int = 4, coarse_size: int = 4) -> MGICBlock:
    return MGICBlock(
        channels,
        lambda level: GroupedLinear(level.outer, level.outer, groups=level.groups),
        transfer,
        group_size=group_size,
        coarse_size=coarse_size,
    )


def patches(figure, kind) -> list:
    return [patch for axes in figure.axes for patch in axes.patches if isinstance(patch, kind)]


def test_a_circle_is_a_channel_and_a_box_a_group():
    figure = draw(block(16))
    circles = patches(figure, matplotlib.patches.Ellipse)
    assert len(circles) == 2 * (16 + 8 + 4)
    assert len({circle.get_facecolor() for circle in circles}) == 4
    assert len(patches(figure, matplotlib.patches.FancyBboxPatch)) == 4 + 2 + 1
    assert len(patches(figure, matplotlib.patches.FancyArrowPatch)) == 3 + 2 * 2
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "$B_0$: 16 channels, 4 groups" in texts
    assert "$B_2$: 4 channels, dense" in texts
    assert {"$R_0$", "$R_1$", "$P_0$", "$P_1$"} < set(texts)


def test_wide_blocks_have_as_many_boxes_but_fewer_circles():
    figure = draw(block(512, group_size=64, coarse_size=64))
    circles = patches(figure, matplotlib.patches.Ellipse)
    assert len(circles) == 2 * (32 + 16 + 8 + 4)
    assert len(patches(figure, matplotlib.patches.FancyBboxPatch)) == 8 + 4 + 2 + 1


def test_a_network_has_a_row_for_each_plan_with_their_number():
    network = nn.Sequential(block(16), block(8), block(16))
    titles = [axes.get_title() for axes in draw(network).axes]
    assert titles == ["2 blocks, 16 channels", "1 block, 8 channels"]


def test_a_block_alone_needs_no_title():
    assert draw(block(8)).axes[0].get_title() == ""


def test_what_has_no_levels_is_refused():
    with pytest.raises(ValueError, match="no MGICBlock in PointCloudClassifier: nothing to draw"):
        draw(create_model("dgcnn"))


def test_matplotlib_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="drawing needs matplotlib"):
        draw(block(8))
