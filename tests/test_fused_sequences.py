"""Drawn sequences, in which modules may stand at several places, equal themselves once fused."""

import copy
import random
from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import nn

import mgic_geo
import mgic_vision
from mgic_geo import GroupedLinear, MGICBlock, MGICLinear, Residual, transfer
from mgic_geo.levels import CYCLES
from mgic_vision import GroupedConv2d, basic_block, inverted_residual, mgic_unit
from mgic_vision.layers import DepthwiseConv2d
from tests.image_networks import norms, shift_norms

WIDE = 264  # too wide to be multiplied out


def grouped(level, *, residual=False):
    layer = GroupedLinear(level.outer, level.outer, groups=level.groups)
    return Residual(layer) if residual else layer


def maps_of_vectors(width):
    sizes = {"group_size": 8, "coarse_size": width // 2}
    yield nn.Linear(width, width)
    yield GroupedLinear(width, width, groups=4)
    for cycle in CYCLES:
        yield MGICLinear(width, cycle=cycle, **sizes)
        for residual in (False, True):
            make = partial(grouped, residual=residual)
            yield MGICBlock(width, make, transfer, make_norm=nn.BatchNorm1d, cycle=cycle, **sizes)


def maps_of_images(width):
    yield nn.Conv2d(width, width, 1)
    yield GroupedConv2d(width, width, 3, groups=2)
    yield DepthwiseConv2d(width, width)
    for cycle in CYCLES:
        for make in (basic_block, inverted_residual):
            yield mgic_unit(width, width, make, group_size=4, coarse_size=4, cycle=cycle)


def draw(maps, make_norm, width, seed):
    """A sequence of two maps, two norms and an activation, some of them twice, some nested."""
    torch.manual_seed(seed)
    dice = random.Random(seed)
    pool = [*dice.sample(list(maps(width)), 2), make_norm(width), make_norm(width), nn.ReLU()]
    pool.append(nn.Sequential(*dice.choices(pool, k=2)))
    return shift_norms(nn.Sequential(*dice.choices(pool, k=7))).double().eval()


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("fuse", [mgic_geo.fuse, mgic_vision.fuse], ids=["geo", "vision"])
@pytest.mark.parametrize("width", [16, WIDE])
def test_vectors(width, fuse, seed):
    model = draw(maps_of_vectors, nn.BatchNorm1d, width, seed)
    assert_fused(fuse, model, torch.randn(5, width, dtype=torch.double))


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("fuse", [mgic_geo.fuse, mgic_vision.fuse], ids=["geo", "vision"])
def test_images(fuse, seed):
    model = draw(maps_of_images, nn.BatchNorm2d, 16, seed)
    assert_fused(fuse, model, torch.randn(2, 16, 5, 4, dtype=torch.double))


def assert_fused(fuse, model, x):
    with torch.no_grad():
        expected = copy.deepcopy(model)(x)
        difference = fuse(model)(x) - expected
    assert difference.norm() <= 1e-10 * expected.norm()


def test_norms_are_folded_where_no_other_place_has_the_map():
    act = nn.ReLU()
    linear = [nn.Sequential(nn.Linear(4, 4), act, nn.BatchNorm1d(4)), nn.Linear(4, 4)]
    model = nn.Sequential(*linear, nn.BatchNorm1d(4), act, nn.Linear(4, 4), nn.BatchNorm1d(4))
    for fuse in (mgic_geo.fuse, mgic_vision.fuse):
        assert len(norms(fuse(model))) == 1


@pytest.mark.parametrize("fuse", [mgic_geo.fuse, mgic_vision.fuse], ids=["geo", "vision"])
@pytest.mark.parametrize(
    "linear", [nn.Linear(8, 8), MGICLinear(8, group_size=4)], ids=["lin", "mgic"]
)
@pytest.mark.parametrize("tokens", [3, 16])
def test_a_norm_over_another_axis_stays(fuse, linear, tokens):
    torch.manual_seed(0)
    layers = OrderedDict(linear=linear, norm=nn.BatchNorm1d(tokens))
    for model in (nn.Sequential(layers), Called(layers)):
        model = shift_norms(copy.deepcopy(model)).double().eval()
        assert_fused(fuse, model, torch.randn(2, tokens, 8, dtype=torch.double))


class Called(nn.Module):
    """The same, but that a forward says what follows what."""

    def __init__(self, layers):
        super().__init__()
        self.linear, self.norm = layers.values()

    def forward(self, x):
        return self.norm(self.linear(x))
