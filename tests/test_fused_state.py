"""A fused network is a network as others are: moved, cast, copied, saved, loaded, fused again."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
import torch.nn.functional as functional
from image_kernels import needs_compiler
from image_networks import MODELS, assert_equal, build, make_input, norms, shift_norms
from torch import Tensor, nn
from torch.testing import assert_close

import mgic_geo
import mgic_vision
from mgic_geo.ops.csrc import build as native_build
from mgic_vision.ops.cycle import NativeCycle
from mgic_vision.ops.grouped_conv import NativeConv
from mgic_vision.ops.packed import PackedModule, Sources
from tests.clouds import shorten
from tests.geo.test_fuse import POINTS
from tests.slow import some

QUICK = ("function_mgic", "small", "mgic_resnet56", "dgcnn", "mgic_diffgcn")
GRAPHS = mgic_geo.list_models()
pytestmark = pytest.mark.fault(50)


def make_network(name: str, seed: int) -> nn.Module:
    """Its norms do something, and leave much of what tells inputs apart."""
    return copy.deepcopy(_make_network(name, seed))


@cache
def _make_network(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        graphs = name in GRAPHS
        if graphs:
            model = shorten(mgic_geo.create_model(name, 4, width=32, k=5))
        else:
            model = build(name, seed)
        for norm in norms(model):
            norm.momentum = 0.9  # with 1, some networks multiply errors of rounding by hundreds
        with torch.no_grad():
            model.train()(*(POINTS if graphs else (make_input(model, batch=4),)))
    return shift_norms(model).eval()


def run(model: nn.Module, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    with torch.no_grad():
        if name in GRAPHS:
            return model(POINTS[0].to(dtype), POINTS[1])
        y = model(make_input(model).to(dtype))
    return torch.cat([part.flatten() for part in y.values()]) if isinstance(y, dict) else y


def fuse(model: nn.Module, name: str) -> nn.Module:
    return mgic_geo.fuse(model) if name in GRAPHS else mgic_vision.fuse(model)


def read_back(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


MOVES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "channels last": lambda fused: fused.to(memory_format=torch.channels_last),
    "contiguous": lambda fused: fused.to(memory_format=torch.contiguous_format),
    "preserved": lambda fused: fused.to(memory_format=torch.preserve_format),
    "double and back": lambda fused: fused.double().float(),
    "copied": copy.deepcopy,
    "pickled": lambda fused: pickle.loads(pickle.dumps(fused)),
    "saved": read_back,
}


@pytest.mark.parametrize("name", some(("small", *MODELS, *GRAPHS), *QUICK))
def test_a_fused_network_survives_what_is_done_to_networks(name, monkeypatch):
    model, other = make_network(name, 0), make_network(name, 1)
    expected, fused = run(model, name), fuse(model, name)
    assert_equal(run(fused, name), expected)
    for move in MOVES.values():
        fused = move(fused)
        assert_equal(run(fused, name), expected)
        if move in (MOVES["contiguous"], MOVES["saved"]):  # which changes most, and the last one
            assert_equal(run(fuse(fused, name), name), expected)
    assert run(fused.bfloat16(), name, torch.bfloat16).isfinite().all()
    copied = copy.deepcopy(fused).float()
    assert_equal(run(fused.double(), name, torch.double).float(), run(copied, name))
    copied = copy.deepcopy(copied)  # nothing is packed
    rounded = run(fused.float(), name)
    fused.load_state_dict(fuse(other, name).state_dict())
    assert_equal(run(fused, name), run(other, name))
    rounded_again = run(fuse(model, name).bfloat16().float(), name)
    monkeypatch.setattr(native_build, "library", lambda *_: None)  # as it is without kernels
    assert_equal(rounded, run(copied, name))
    assert_equal(rounded_again, rounded)


@pytest.fixture
def network() -> nn.Module:
    """Fused, with cycles and changes of width in kernels, whose weights are packed."""
    fused = mgic_vision.fuse(make_network("small", 0))
    run(fused, "images")
    return fused


def packed(network: nn.Module) -> Iterator[PackedModule]:
    return (module for module in network.modules() if isinstance(module, PackedModule))


def assert_is_what_it_holds(network: nn.Module) -> None:
    """The kernels compute with the weights that are there."""
    assert_equal(run(network, "images"), run(mgic_vision.fuse(network, native="never"), "images"))


def write(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.mul_(1.01)


def put_others_in_place(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.data = 1.01 * parameter.data


def put_inference_tensors_in_place(network: nn.Module) -> None:
    with torch.inference_mode():
        state = {key: 1.01 * x for key, x in network.state_dict().items()}
    network.load_state_dict(state, assign=True)


def replace_modules(network: nn.Module) -> None:
    for module in packed(network):
        for name, conv in list(module.named_modules()):
            if isinstance(conv, nn.Conv2d):
                new = copy.deepcopy(conv)
                new.weight.data.mul_(1.01)
                module.set_submodule(name, new)


def change_what_is_computed(network: nn.Module) -> None:
    for module in packed(network):
        for name, act in list(module.named_modules()):
            if isinstance(act, nn.ReLU):
                module.set_submodule(name, nn.SiLU())


CHANGES = [
    *(torch.no_grad()(write), torch.inference_mode()(write)),
    *(put_others_in_place, put_inference_tensors_in_place),
    *(replace_modules, change_what_is_computed),
]


@needs_compiler
@pytest.mark.parametrize("change", CHANGES)
def test_kernels_take_weights_that_have_changed(network, change):
    before = run(network, "images")
    change(network)
    assert_is_what_it_holds(network)
    assert (run(network, "images") - before).abs().max() > 1e-3 * before.abs().max()


@needs_compiler
def test_weights_stay_packed_until_they_change(network, monkeypatch):
    assert {type(module) for module in packed(network)} == {NativeCycle, NativeConv}
    kept = [module._packed for module in packed(network)]
    assert None not in kept
    run(network, "images")
    assert all(a is b._packed for a, b in zip(kept, packed(network), strict=True))
    network.bfloat16()
    assert all(module._packed is None for module in packed(network))  # takes no memory


@needs_compiler
def test_parameters_that_are_lent_for_one_call_are_taken(network):
    other = mgic_vision.fuse(make_network("small", 1))
    expected = run(network, "images")
    x = make_input(network)
    assert (run(other, "images") - expected).abs().max() > 0.1 * expected.abs().max()
    with torch.no_grad():
        lent = torch.func.functional_call(network, other.state_dict(), (x,))
        assert_equal(lent, other(x))
    assert_equal(run(network, "images"), expected)


@needs_compiler
def test_several_threads_may_pack_at_once(network):
    expected = run(network, "images")
    x = make_input(network)
    with torch.no_grad():
        expected = network(x)
        for _ in range(4):
            network.float().to(memory_format=torch.channels_last)
            with ThreadPoolExecutor(4) as pool:
                for y in pool.map(torch.no_grad()(network), [x] * 4):
                    assert_equal(y, expected)


@needs_compiler
@pytest.mark.parametrize("settings", ["double", "meta", "inference"])
def test_settings_of_the_moment_do_not_get_into_what_is_packed(settings):
    model = make_network("small", 0)
    expected, fused, x = run(model, "images"), mgic_vision.fuse(model), make_input(model)
    if settings == "double":
        torch.set_default_dtype(torch.double)
        try:
            fused(x)
        finally:
            torch.set_default_dtype(torch.float)
    elif settings == "meta":
        with torch.device("meta"), torch.no_grad():
            fused(x)
    else:
        with torch.inference_mode():
            fused = mgic_vision.fuse(model)
            fused(x)
            assert not any(p.is_inference() for p in fused.parameters())
            assert all(module._packed is not None for module in packed(fused))
    assert_equal(run(fused, "images"), expected)


def test_memory_that_is_freed_is_not_taken_for_what_lay_there():
    linear = nn.Linear(512, 512).requires_grad_(False)
    sources = Sources(linear)
    for _ in range(10):
        linear.weight.data = functional.normalize(linear.weight.data)  # its memory may be reused
        assert sources.changed()
    assert not Sources(linear).changed()


@pytest.mark.parametrize("name", ["mgic_resnet56", "mgic_diffgcn"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half, torch.double])
def test_a_network_in_another_precision_is_fused_in_that(name, dtype):
    model = make_network(name, 0)
    exact, cast = run(model.double(), name, torch.double), model.to(dtype)
    plain, fused = run(cast, name, dtype), run(fuse(cast, name), name, dtype)
    assert fused.dtype == dtype
    error, allowed = (fused - exact).abs().max(), (plain - exact).abs().max()
    assert error <= 2 * allowed + 100 * torch.finfo(torch.double).eps * exact.abs().max()


@pytest.mark.parametrize("name", ["small", "mgic_diffgcn"])
def test_a_network_without_content_is_fused_and_filled_later(name):
    model = make_network(name, 0)
    with torch.device("meta"):
        fused = fuse(copy.deepcopy(model).to("meta"), name)
    if name not in GRAPHS:
        assert fused(make_input(model).to("meta")).shape == run(model, name).shape
    fused.to_empty(device="cpu").load_state_dict(fuse(model, name).state_dict())
    assert_equal(run(fused, name), run(model, name))


def test_fusing_again_without_kernels_takes_them_out(network):
    plain = mgic_vision.fuse(network, native="never")
    assert not list(packed(plain))
    assert_close(plain.state_dict(), network.state_dict(), rtol=0, atol=0)
    assert_equal(run(plain, "images"), run(network, "images"))
