"""The deployed form of every network of mgic_vision's registry equals the trained one."""

import copy
import io

import pytest
import torch
from image_networks import KINDS, MODELS, assert_equal, build, make_input, norms, shift_norms
from timm.layers import convert_splitbn_model
from torch import fx, nn
from torch.nn.utils import prune
from torch.testing import assert_close
from torchvision.models import resnet18

from mgic_geo import MGICBlock
from mgic_vision import LRASPP, basic_block, bottleneck, fuse, merge_groups, mgic_unit
from mgic_vision.folding import fold_norms_
from tests.slow import some

# images, with cycles of each kind, and vectors
EXPORTED = ("function_mgic", "small")


@pytest.fixture(scope="module", params=some(MODELS, *KINDS))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name) -> nn.Module:
    """Shared by the tests of one network, which leave it as it is."""
    return trained(name)


@pytest.fixture(scope="module")
def before(model) -> dict:
    """The state of that network before anything is done to it."""
    return copy.deepcopy(model.state_dict())


@pytest.fixture(scope="module")
def fused(model, before) -> nn.Module:
    """Shared likewise."""
    return fuse(model)


def trained(name: str) -> nn.Module:
    """After a few steps, so that no norm is trivial."""
    model = build(name).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        model(2 * make_input(model, 32, 32, batch=4) + 1).square().mean().backward()
        optimizer.step()
    return shift_norms(model)


def test_fused_network_equals_the_trained_one(model, fused):
    reference = copy.deepcopy(model).eval()
    x = make_input(model, 64, 96)
    with torch.no_grad():
        assert_equal(fused(x), reference(x))


def test_fusing_leaves_the_network_alone(model, before, fused):
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not fused.training
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_norms_are_left_behind_sums_only(model, fused):
    """The first one of a pre-activation block on every finer level, and that before the pooling."""
    blocks = [m for m in model.modules() if isinstance(m, MGICBlock)]
    pre_activation = [m for m in blocks if hasattr(m.layers[0].branch, "norm1")]
    expected = sum(len(m.levels) - 1 for m in pre_activation) + bool(pre_activation)
    assert len(norms(fused)) == expected


def test_features_of_a_fused_network_keep_their_names(model, fused):
    read = "forward_features" if isinstance(model, LRASPP) else "features"
    x = make_input(model)
    with torch.no_grad():
        features = getattr(fused, read)(x)
        expected = getattr(copy.deepcopy(model).eval(), read)(x)
    assert features.keys() == expected.keys()
    for key in expected:
        assert_equal(features[key], expected[key])


def test_networks_of_torch_fx_are_fused_by_their_graph():
    model = fx.symbolic_trace(shift_norms(resnet18()).eval())
    fused, x = fuse(model), torch.randn(1, 3, 32, 32)
    assert not norms(fused)
    with torch.no_grad():
        assert_equal(fused(x), model(x))


@pytest.mark.parametrize("ours", some((*EXPORTED, "mgic_mobilenetv3_small"), *EXPORTED))
def test_fused_network_exports(ours):
    model = fuse(trained(ours))
    x = make_input(model)
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        assert_equal(program.module()(x), model(x))


@pytest.mark.parametrize(
    "ours", some(("small", "mgic_resnet56", "mgic_mobilenetv3_small"), "small")
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_fused_network_runs_in_onnx_runtime(ours):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = fuse(trained(ours))
    x = make_input(model)
    file = io.BytesIO()
    torch.onnx.export(model, (x,), dynamo=True, verbose=False).save(file)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert_equal(torch.from_numpy(y), model(x))


@pytest.mark.parametrize("block", [basic_block, bottleneck])
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_cycles_of_any_depth_fold(block, levels):
    unit = mgic_unit(8, 16, block, group_size=4, coarse_size=16, min_levels=levels)
    unit = shift_norms(unit).double().eval()
    x = torch.randn(2, 8, 5, 6, dtype=torch.double)
    with torch.no_grad():
        assert_close(fold_norms_(copy.deepcopy(unit))(x), unit(x))


def test_a_norm_whose_input_is_read_elsewhere_stays():
    class Tapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.again, self.once = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            x = self.conv(x)
            y = self.once(self.again(self.norm(x) + x))
            return y + self.again(x)  # a map that is used twice cannot carry a norm

    module = shift_norms(Tapped()).eval()
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        y = module(x)
        assert_close(fold_norms_(module)(x), y)
    assert len(norms(module)) == 2


def test_a_norm_without_statistics_stays():
    layer = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    assert len(norms(fold_norms_(layer))) == 1


def test_norms_that_are_batch_norms_in_training_alone_stay_right():
    """PyTorch's converter drops the activation of a norm of timm's, which is still its child."""
    for convert in (nn.SyncBatchNorm.convert_sync_batchnorm, convert_splitbn_model):
        model = convert(trained("ghostnet_050")).eval()
        x = make_input(model)
        with torch.no_grad():
            assert_equal(fuse(model)(x), model(x))


def test_norms_in_a_module_that_cannot_be_traced_stay(caplog):
    class Untraceable(nn.Sequential):
        def forward(self, *inputs, **options):
            return super().forward(*inputs, **options)

    caplog.set_level("INFO", "mgic_vision")
    model = nn.Sequential(Untraceable(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))).eval()
    assert len(norms(fuse(model))) == 1
    assert "the norms of" in caplog.text
    assert "Untraceable" in caplog.text


def test_an_unknown_choice_is_named():
    with pytest.raises(ValueError, match="native must be one of auto, never, got 'always'"):
        fuse(nn.Identity(), native="always")


def pruned(layer):
    mask = torch.rand_like(layer.weight) < 0.7  # torch draws none of weights in channels-last order
    prune.custom_from_mask(layer, "weight", mask)


#: Ways to compute a weight from other parameters: by a hook, as older ones do, or by a property.
COMPUTED = {"pruned": pruned, "normalized": nn.utils.parametrizations.weight_norm}


@pytest.mark.parametrize(  # every pair of the three
    ("computing", "native", "computed"),
    [
        ("pruned", "auto", "mgic_resnet56"),
        ("pruned", "never", "small"),
        ("normalized", "auto", "small"),
        ("normalized", "never", "mgic_resnet56"),
    ],
)
def test_what_computes_weights_stays_as_it_is(computing, native, computed):
    """A norm in such a weight would be lost when it is computed again."""
    model = trained(computed).eval()
    for layer in [m for m in model.modules() if isinstance(m, nn.Conv2d)]:
        COMPUTED[computing](layer)
    x = make_input(model)
    with torch.no_grad():
        fused, y = fuse(model, native=native), model(x)
        assert_equal(fused(x), y)
        assert_equal(merge_groups(fused, block=64)(x), y)


@pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED)
def test_weights_of_a_fused_network_are_pruned_and_normalized(compute):
    model = trained("mgic_resnet56")
    fused, plain = fuse(model), fuse(model, native="never")
    x = make_input(model)
    with torch.no_grad():
        fused(x)
        for network in (fused, plain):
            torch.manual_seed(0)
            for layer in [m for m in network.modules() if isinstance(m, nn.Conv2d)]:
                compute(layer)
        assert_equal(fused(x), plain(x))
