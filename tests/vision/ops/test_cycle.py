"""The compiled cycles of images equal the plain ones, whatever the sizes and kinds of layers."""

import copy
import io
import logging
import math
from functools import partial

import pytest
import torch
from image_kernels import (
    HALF,
    LAYERS,
    make_change,
    make_cycle,
    make_native,
    needs_compiler,
)
from image_networks import assert_equal, build, shift_norms
from torch import nn
from torch.testing import assert_close

from mgic_geo import MGICBlock, multiply_adds
from mgic_geo.levels import Residual
from mgic_geo.ops.csrc import build as native_build
from mgic_vision import (
    TransferConv2d,
    bottleneck,
    create_model,
    fuse,
)
from mgic_vision.folding import fold_norms_
from mgic_vision.layers import GroupedConv2d
from mgic_vision.ops.branch import read_branch
from mgic_vision.ops.cycle import NativeCycle, run_cycle
from mgic_vision.ops.grouped_conv import MAX_SEEN, NativeConv, run_grouped_conv
from mgic_vision.ops.kernel import IMAGES, loaded
from mgic_vision.ops.packed import PackedModule
from tests.kernels import on_threads

pytestmark = needs_compiler


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", LAYERS)
def test_compiled_cycle_equals_the_definition(kind, threads):
    cycle, native = make_cycle(*LAYERS[kind]).double(), make_native(kind)
    with on_threads(threads):
        # one image together, one each, and both; rows in several strips and less than a kernel
        for shape in [(1, 7, 7), (3, 13, 11), (5, 1, 2), (1, 150, 40)]:
            x = torch.randn(shape[0], LAYERS[kind][0], *shape[1:])
            y = run_cycle(x, *native.pack())
            assert_equal(y, cycle(x.double()).float())
            assert_close(native(x), y, rtol=0, atol=0)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("widths", "kernel", "stride"),
    [
        ((8, 8 * HALF), 3, 1),
        ((20, 20 * HALF), 3, 2),
        ((24, 40), 5, 2),
        ((80, 112), 3, 1),
        ((6, 9), 3, 2),
    ],
)
def test_compiled_change_of_width_equals_the_convolution(widths, kernel, stride, threads):
    if widths[1] // math.gcd(*widths) >= 2 * HALF:
        pytest.skip("groups as wide as a vector stay with torch")
    change, native = make_change(*widths, kernel_size=kernel, stride=stride)
    with on_threads(threads), torch.no_grad():
        for shape in [(1, 7, 7), (3, 12, 10), (2, 1, 2), (1, 61, 130)]:
            x = torch.randn(shape[0], widths[0], *shape[1:])
            assert_equal(native(x), change(x))


@pytest.mark.parametrize(
    ("conv", "act"),
    [
        (nn.Conv2d(64, 64, 3, padding=1, groups=2), nn.ReLU()),
        (nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU()),
        (nn.Conv2d(8, 32, 3, padding=1, groups=8), nn.SiLU()),
        (nn.Conv2d(8, 32, 3, groups=8), nn.ReLU()),
        (nn.Conv2d(8, 32, 3, padding=65, dilation=65, groups=8), nn.ReLU()),
        (nn.Conv2d(8, 32, 11, padding=5, groups=8), nn.ReLU()),
    ],
)
def test_convolutions_that_are_wide_or_not_known_stay_with_torch(conv, act):
    assert NativeConv.take(nn.Sequential(conv, act)) is None


def test_convolutions_whose_pieces_would_read_much_stay_with_torch():
    conv, seen = nn.Conv2d(512, 256, 3, padding=1, groups=256), 2 * loaded().lanes
    assert (NativeConv.take(nn.Sequential(conv, nn.ReLU())) is None) == (seen > MAX_SEEN)


def test_a_convolution_without_activation_is_known():
    conv = nn.Conv2d(8, 8 * HALF, 3, padding=1, groups=8)
    native, x = NativeConv.take(nn.Sequential(conv).eval()), torch.randn(1, 8, 5, 5)
    with torch.no_grad():
        assert_close(native(x), conv(x), rtol=1e-4, atol=1e-4)
    assert native._packed is not None


def test_any_layout_is_taken():
    native = make_native("bottleneck")
    x = torch.randn(2, 64, 6, 5)
    y = native(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_close(native(x.contiguous(memory_format=torch.channels_last)), y, rtol=0, atol=0)
    wide = torch.randn(2, 64, 6, 10)
    assert_close(native(wide[..., ::2]), native(wide[..., ::2].contiguous()), rtol=0, atol=0)
    negative = torch._neg_view(x.contiguous(memory_format=torch.channels_last))
    assert_close(native(negative), native(-x), rtol=0, atol=0)


def test_the_operator_is_sound():
    native = make_native("bottleneck")
    x = torch.randn(2, 64, 6, 5).contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(run_cycle.registered, (x, *native.pack()))
    _, conv = make_change(64, 64 * HALF, stride=2)
    torch.library.opcheck(run_grouped_conv.registered, (x, *conv.pack()))


@pytest.mark.parametrize(
    "name", ["mgic_mobilenetv3_small", "mgic_resnet50", "mgic_resnet56", "function_mgic"]
)
def test_every_cycle_of_a_network_is_compiled(name):
    model = build(name)
    cycles = [module for module in model.modules() if isinstance(module, MGICBlock)]
    fused = fuse(model)
    native = [module for module in fused.modules() if isinstance(module, NativeCycle)]
    assert len(native) == len(cycles) > 0
    plain = fuse(model, native="never")
    assert not any(isinstance(m, PackedModule) for m in plain.modules())
    assert plain.state_dict().keys() == fused.state_dict().keys()


def test_a_fused_network_is_one_graph():
    model = fuse(create_model("mgic_resnet56", depth=8))
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        y = torch.compile(model, fullgraph=True, backend="eager")(x)
        assert_close(y, model(x))


def two_kernels(level):
    convs = [GroupedConv2d(16, 16, kernel_size=k, groups=level.groups) for k in (5, 3)]
    return Residual(nn.Sequential(nn.ReLU(), convs[0], nn.ReLU(), convs[1]))


@pytest.mark.parametrize(
    "layer",
    [two_kernels, partial(bottleneck, activation=nn.SiLU)],
    ids=["kernels", "silu"],
)
def test_other_layers_stay_plain(layer):
    cycle = fold_norms_(make_cycle(16, 16, 8, 8, 1, layer))
    assert read_branch(cycle.layers[0], cycle.levels[0]) is None
    assert NativeCycle.take(cycle) is None
    assert type(cycle) is MGICBlock


def test_additive_cycles_stay_plain():
    torch.manual_seed(0)
    cycle = MGICBlock(
        *(64, bottleneck, TransferConv2d),
        inner=32,
        group_size=8,
        coarse_size=8,
        make_norm=nn.BatchNorm2d,
        cycle="additive",
    )
    cycle, x = shift_norms(cycle).eval(), torch.randn(2, 64, 6, 5)
    fused = fuse(cycle)
    assert not isinstance(fused, NativeCycle)
    with torch.no_grad():
        assert_equal(fused(x), cycle(x))


def test_what_has_no_kernel_goes_the_plain_way(ran):
    native = make_native("bottleneck")
    plain, x = make_cycle(*LAYERS["bottleneck"]), torch.randn(2, 64, 6, 5)
    expected = plain(x)
    assert_equal(native.double()(x.double()).float(), expected)
    native.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert native(x).isfinite().all()
    slope = torch.func.grad(lambda scale: native(x * scale).sum())(torch.tensor(1.0))
    assert slope.isfinite()
    assert_equal(torch.func.vmap(native)(x[None])[0], expected)
    assert copy.deepcopy(native).train()(x).isfinite().all()  # a norm takes other statistics
    x.requires_grad_()
    native(x).sum().backward()
    assert x.grad is not None
    assert "compiled" not in ran("cycle")
    native(x.detach())
    assert ran("cycle")["compiled"] == 1  # what this test would miss, if it could not fail


def test_weights_that_are_trained_again_get_gradients():
    cycle, (_, change) = make_native("inverted"), make_change(8, 8 * HALF)
    for module, channels in ((cycle, 40), (change, 8)):
        module(torch.randn(1, channels, 5, 5))  # packed
        module.requires_grad_()
        module(torch.randn(1, channels, 5, 5)).sum().backward()
        assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_network_computes():
    model = fuse(create_model("mgic_resnet56", depth=8))
    x, other = torch.rand(2, 1, 3, 32, 32)
    with torch.no_grad():
        traced = torch.jit.trace(model, x, check_trace=False)
        assert_equal(traced(other), model(other))


def test_nothing_that_is_packed_is_saved():
    model, file, bare = fuse(create_model("mgic_mobilenetv3_small")), io.BytesIO(), io.BytesIO()
    with torch.no_grad():
        model(torch.rand(1, 3, 32, 32))
    torch.save(model, file)
    torch.save(fuse(model, native="never"), bare)
    assert file.tell() == pytest.approx(bare.tell(), rel=0.05)


def test_without_a_compiler_a_warning_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    monkeypatch.delenv("MGIC_KERNELS", raising=False)
    with caplog.at_level(logging.WARNING):
        assert native_build.library.__wrapped__(IMAGES) is None
    assert "mgic_vision runs without its compiled kernels, slower" in caplog.text


def test_multiply_adds_of_kernels_are_those_of_the_convolutions():
    model, x = build("small"), torch.rand(2, 3, 32, 48)
    fused = fuse(model)
    assert {NativeCycle, NativeConv} <= {type(module) for module in fused.modules()}
    assert multiply_adds(fused, x) == multiply_adds(fuse(model, native="never"), x)
