"""Levels of image networks in Triton, by its interpreter: see tests/geo/ops/test_triton.py."""

import copy

import pytest
import torch
from image_kernels import LAYERS, make_cycle
from torch import Tensor, nn
from torch.testing import assert_close

from mgic_geo.levels import MGICBlock, Residual
from mgic_vision import dense_level, fuse, inverted_residual
from mgic_vision.folding import fold_norms_
from mgic_vision.layers import HARDSWISH
from mgic_vision.ops.level import FusedLevel, level
from tests.kernels import INTERPRETS, TRITON_TYPES, interpreted
from tests.neighbor_clouds import normal


def draw(groups: int, outer: int, inner: int, *, side: int, first: bool) -> list[Tensor | None]:
    """What the operation takes beside images and numbers."""
    weights = [
        *(normal(groups * inner, outer, 1, 1), normal(groups * inner, seed=1)),
        *(normal(groups * inner, 1, side, side, seed=2), normal(groups * inner, seed=3)),
        *(normal(groups * outer, inner, 1, 1, seed=4) / inner, normal(groups * outer, seed=5)),
    ]
    return weights if first else [None, None, *weights[2:]]


CASES = {  # batch, groups, outer, inner; side, dilation, first map, addend, activation
    "expansion": (1, 2, 4, 9, 3, 1, True, True, 2),
    "no expansion": (2, 2, 5, 5, 3, 2, False, False, 1),  # 70 pixels: a block and a part of one
    "blocks of inner channels": (1, 1, 18, 70, 1, 1, True, False, 0),
}


@interpreted
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *(("expansion", torch.float32), ("no expansion", torch.float32)),
        *(("blocks of inner channels", dtype) for dtype in TRITON_TYPES),
    ],
)
def test_a_level_is_that_of_the_reference_in_double(case, dtype, ran):
    batch, groups, outer, inner, side, dilation, first, adds, activation = CASES[case]
    x = normal(batch, groups * outer, 5, 7, seed=6)
    addend = normal(*x.shape, seed=7) if adds else None
    weights = draw(groups, outer, inner, side=side, first=first)
    tensors = [each if each is None else each.to(dtype) for each in (x, addend, *weights)]
    found = level(*tensors, groups, dilation, activation)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    exact = [each if each is None else each.double() for each in tensors]
    expected = level.reference(*exact, groups, dilation, activation)
    off = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}[dtype]
    largest = expected.abs().max()
    assert_close(found.double() / largest, expected / largest, rtol=0, atol=off)
    assert ran("level") == {"triton": 1}


@interpreted
@pytest.mark.parametrize("activation", [1, 2])
def test_nan_reaches_its_neighbors_in_its_group_only(activation):
    x = normal(1, 4, 4, 4)
    x[0, 3, 0, 0] = x[0, 3, 3, 3] = torch.nan
    weights = draw(2, 2, 2, side=3, first=False)
    y = level(x, None, *weights, 2, 1, activation)
    assert_close(y, level.reference(x, None, *weights, 2, 1, activation), equal_nan=True)
    assert_close(y.isnan().sum(), torch.tensor(2 * 8))  # two corners of both channels of a group


@interpreted
def test_what_it_does_not_take_is_left_to_the_reference():
    x, weights = normal(2, 8, 3, 3), draw(2, 4, 4, side=3, first=True)

    def reason(x: Tensor, *weights) -> str:
        return str(level.why_not(x, None, *weights, 2, 1, 1))

    assert reason(x[:0], *weights) == "triton: x is empty"
    assert "triton: a tensor is torch.float64" in reason(x.double(), *weights)
    assert "triton: types differ" in reason(x.half(), *weights)
    assert level(x[:0], None, *weights, 2, 1, 1).shape == (0, 8, 3, 3)
    recorded = level(x.clone().requires_grad_(), None, *weights, 2, 1, 1)
    assert recorded.requires_grad


@interpreted
def test_a_fused_cycle_runs_its_levels_in_it_where_no_kernel_of_cycles_does(ran):
    plain = make_cycle(8, 8, 4, 4, 1, inverted_residual)
    cycle, x = fuse(plain), normal(1, 8, 3, 4)
    assert all(isinstance(layer, FusedLevel) for layer in cycle.layers)
    assert_close(MGICBlock.forward(cycle, x), plain(x), rtol=1e-4, atol=1e-5)
    assert ran("level") == {"triton": len(cycle.layers)}
    again = fuse(cycle, native="never")
    assert all(type(layer) is Residual for layer in again.layers)


def make_level() -> tuple[Residual, FusedLevel]:
    torch.manual_seed(0)
    layer = fold_norms_(
        inverted_residual(dense_level(4, 6), kernel_size=1, activation=HARDSWISH).eval()
    )
    layer.requires_grad_(False)
    fused = copy.deepcopy(layer)
    return layer, FusedLevel.take(fused)


@interpreted
def test_new_weights_are_taken_and_hooks_are_called(ran):
    layer, fused = make_level()
    x = normal(1, 4, 3, 3)
    assert_close(fused(x), layer(x))
    for each in (layer, fused):
        each.branch.project.conv.weight = nn.Parameter(torch.ones(4, 6, 1, 1), requires_grad=False)
    assert_close(fused.added(x), layer.added(x))
    assert ran("level") == {"triton": 2}
    seen = []
    fused.branch.depthwise.register_forward_hook(lambda *_: seen.append(1))
    assert_close(fused(x), layer(x))
    assert seen == [1]


@pytest.mark.skipif(INTERPRETS, reason="they are asked for there")
def test_nothing_chooses_the_kernel_unasked(ran):
    cycle = fuse(make_cycle(*LAYERS["inverted"]))
    assert not any(isinstance(module, FusedLevel) for module in cycle.modules())
    layer, fused = make_level()
    assert_close(fused(normal(1, 4, 3, 3)), layer(normal(1, 4, 3, 3)), rtol=0, atol=0)
    assert ran("level") == {"reference": 1}


@pytest.mark.parametrize("squeeze", ["none", "every"])
def test_only_inverted_residuals_without_squeeze_excite_are_known(squeeze):
    layer = fold_norms_(inverted_residual(dense_level(8, 24), squeeze=squeeze).eval())
    assert FusedLevel.knows(layer) == (squeeze == "none")
    assert not FusedLevel.knows(inverted_residual(dense_level(8, 24)))  # norms are not folded
    assert not FusedLevel.knows(Residual(nn.Identity()))
