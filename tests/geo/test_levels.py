import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from mgic_geo import GroupedLinear, Level, MGICBlock, Residual, transfer
from tests import oracles
from tests.clouds import disturb_norms

# (channels, inner, group_size, coarse_size)
SETTINGS = [
    (64, None, 8, 8),
    (64, None, 16, 32),
    (48, 96, 8, 6),
    (40, None, 8, 8),
    (120, 40, 64, 64),
    (184, None, 8, 8),
    (72, None, 16, 8),
    (96, None, 12, 12),
]
EXACT = {"rtol": 0, "atol": 0}


def linear(level: Level, groups: int | None = None, **options) -> GroupedLinear:
    return GroupedLinear(level.outer, level.outer, groups=groups or level.groups, **options)


def residual(level: Level) -> Residual:
    return Residual(linear(level))


def make_block(setting, make_layer=linear, **options) -> MGICBlock:
    channels, inner, group_size, coarse_size = setting
    torch.manual_seed(0)
    sizes = {"inner": inner, "group_size": group_size, "coarse_size": coarse_size}
    return MGICBlock(channels, make_layer, transfer, **sizes, **options)


class ZeroBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def oracle(block: MGICBlock, x: Tensor) -> Tensor:
    """The dense-matrix cycle with the weights of ``block``, whose layers are linear maps."""

    def dense(layer: nn.Module):
        if isinstance(layer, Residual):
            branch = dense(layer.branch)
            return lambda z: z + branch(z)
        matrix = oracles.block_diagonal(layer.weight)
        return lambda z: z @ matrix.T + layer.bias

    norms = [
        (lambda z, norm=norm: oracles.batch_norm(z, norm))
        if isinstance(norm, nn.BatchNorm1d)
        else (lambda z: z)
        for norm in block.norms
    ]
    layers, transfers = map(dense, block.layers), (block.restrict, block.prolong)
    return oracles.mgic_cycle(x, list(layers), *map(oracles.matrices, transfers), norms)


def coupling(block: nn.Module, channels: int) -> Tensor:
    """(out, in): whether an output channel depends on an input channel."""
    x = torch.randn(1, channels, dtype=torch.float64)
    return torch.autograd.functional.jacobian(block.double(), x)[0, :, 0] != 0


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("make_layer", [linear, residual])
@pytest.mark.parametrize("make_norm", [None, nn.BatchNorm1d])
def test_block_equals_the_cycle_of_dense_matrices(setting, make_layer, make_norm):
    block = make_block(setting, make_layer, make_norm=make_norm).double().eval()
    if make_norm is not None:
        disturb_norms(block)
    x = torch.randn(5, setting[0], dtype=torch.float64)
    assert_close(block(x), oracle(block, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("setting", SETTINGS)
def test_correction_form_equals_the_plain_cycle(setting):
    class Plain(nn.Module):
        def __init__(self, inside: Residual) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(x)

    block = make_block(setting, residual, make_norm=nn.BatchNorm1d).double()
    disturb_norms(block)
    plain = copy.deepcopy(block)
    plain.layers = nn.ModuleList(Plain(layer) for layer in plain.layers)
    x = torch.randn(5, setting[0], dtype=torch.float64)
    assert_close(block(x), plain(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("layer", [nn.Identity, lambda: Residual(ZeroBranch())])
@pytest.mark.parametrize("make_norm", [None, nn.BatchNorm1d])
def test_fresh_block_of_identity_layers_is_the_identity_bit_for_bit(setting, layer, make_norm):
    block = make_block(setting, lambda level: layer(), make_norm=make_norm)
    x = torch.randn(7, setting[0])
    assert block.training
    assert_close(block(x), x, **EXACT)


def test_one_level_is_the_dense_layer_itself():
    block = make_block((16, None, 4, 16), min_levels=0)
    x = torch.randn(3, 16)
    assert_close(block(x), block.layers[0](x), **EXACT)
    assert block.layers[0].groups == 1


@pytest.mark.parametrize("make_layer", [linear, residual])
def test_coupling_is_lost_where_the_coarsest_level_is_grouped(make_layer):
    def grouped_bottom(level: Level) -> nn.Module:
        layer = make_layer(level)
        if level.coarsest:
            replacement = linear(level, groups=2)
            layer = Residual(replacement) if isinstance(layer, Residual) else replacement
        return layer

    seen = coupling(make_block((64, None, 8, 16), grouped_bottom), 64)
    half = torch.ones(32, 32, dtype=torch.bool)
    assert torch.equal(seen, torch.block_diag(half, half))


@pytest.mark.parametrize(("channels", "group_size", "coarse_size"), [(64, 8, 16), (96, 8, 12)])
def test_weights_are_those_of_the_cost_line(channels, group_size, coarse_size):
    block = make_block(
        (channels, None, group_size, coarse_size),
        lambda level: linear(level, bias=False),
        make_norm=nn.BatchNorm1d,
    )
    *upper, bottom = block.levels
    expected = sum(2 * level.outer**2 // level.groups + 2 * level.outer for level in upper)
    assert sum(p.numel() for p in block.parameters()) == expected + bottom.outer**2


@pytest.mark.parametrize("channels", [40, 120, 184, 72, 96, 33])
def test_odd_widths_pay_for_transfers_with_fewer_groups(channels):
    block = make_block((channels, None, 8, 8), lambda level: nn.Identity())
    expected = sum(
        2 * fine.outer * coarse.outer // math.gcd(fine.groups, fine.outer, coarse.outer)
        for fine, coarse in itertools.pairwise(block.levels)
    )
    assert sum(p.numel() for p in block.parameters()) == expected


@pytest.mark.fault(37)
@settings(deadline=None, max_examples=40, database=None, derandomize=True)
@given(
    st.integers(1, 96),
    st.one_of(st.none(), st.integers(1, 96)),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 3),
    st.sampled_from([linear, residual]),
    st.sampled_from([None, nn.BatchNorm1d]),
)
def test_block_of_any_width_couples_all_channels(
    channels, inner, size, coarse, levels, make_layer, make_norm
):
    sizes, options = (channels, inner, size, coarse), {"make_norm": make_norm}
    block = make_block(sizes, make_layer, min_levels=levels, **options).eval()
    assert coupling(block, channels).all()


class ReadSource(nn.Module):
    """y = F x + G source, which takes (source, target) as bipartite convolutions do."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self.own, self.other = linear(level), linear(level)

    def forward(self, x: tuple[Tensor, Tensor], shift: float = 0.0) -> Tensor:
        source, target = x
        return self.own(target) + self.other(source).mean(0) + shift


@pytest.mark.parametrize("wrap", [lambda layer: layer, Residual])
def test_source_is_restricted_and_read_on_every_level(wrap):
    block = make_block((32, None, 8, 8), lambda level: wrap(ReadSource(level))).double()
    x, source = torch.randn(5, 32).double(), torch.randn(9, 32).double()

    down, up = oracles.matrices(block.restrict), oracles.matrices(block.prolong)
    sources = [source]
    for restrict in down:
        sources.append(sources[-1] @ restrict.T)
    layers = [
        lambda z, layer=layer, side=side: layer((side, z), shift=0.5)
        for layer, side in zip(block.layers, sources, strict=True)
    ]
    expected = oracles.mgic_cycle(x, layers, down, up)
    assert_close(block(x, source=source, shift=0.5), expected, rtol=1e-12, atol=1e-12)


def test_further_inputs_reach_the_layer_of_every_level():
    calls = []

    class Record(nn.Module):
        def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
            calls.append((x.size(-1), args, kwargs))
            return x

    make_block((32, None, 8, 8), lambda level: Record())(torch.randn(2, 32), "graph", edges=3)
    assert calls == [(width, ("graph",), {"edges": 3}) for width in (8, 16, 32)]


def test_repr_shows_the_plan_as_a_table():
    text = repr(make_block((64, None, 16, 16)))
    assert "level  outer  inner groups  width" in text
    for level in make_block((64, None, 16, 16)).levels:
        assert str(level) in text
