"""What timm's tools ask of a classifier, asked of every one in the registry."""

import copy
import pickle
import warnings

import pytest
import torch
from image_networks import MODELS, SHALLOW, build, make_input
from torch import nn
from torch.testing import assert_close

import mgic_vision
from mgic_vision import Backbone, create_model
from mgic_vision.models.registration import NAMES
from mgic_vision.models.stages import drop_path
from scripts.training.weights import Weights, export_weights
from tests.slow import some

QUICK = ("mgic_mobilenetv3_small", "mgic_resnet56", "mobilenet_v3_small")
CLASSIFIERS = [name for name in MODELS if not name.startswith("lraspp")]
IMAGES = [name for name in CLASSIFIERS if not name.startswith("function")]
VECTORS = sorted(set(CLASSIFIERS) - set(IMAGES))


@pytest.fixture(scope="module", params=some(IMAGES, *QUICK))
def model(request) -> Backbone:
    """Shared by the tests of one network, which leave it as it is."""
    network = build(request.param).eval()
    network.registered = request.param
    return network


@pytest.fixture(scope="module")
def timm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = pytest.importorskip("timm")
    mgic_vision.register_with_timm()
    return timm


# what it takes


def test_the_configuration_names_the_layers_that_are_there(model):
    config, state = model.pretrained_cfg, model.state_dict()
    assert model.default_cfg is config
    assert config["input_size"] == model.input_size
    assert f"{config['first_conv']}.weight" in state
    assert state[f"{config['first_conv']}.weight"].shape[1] == model.in_chans
    assert len(state[f"{config['classifier']}.weight"]) == config["num_classes"]
    reduction = model.feature_info.reduction(-1)
    assert config["pool_size"] == tuple(-(-side // reduction) for side in model.input_size[1:])


@pytest.mark.parametrize("name", ["mgic_resnet56", "mgic_mobilenetv3_small"])
def test_timm_prepares_images_of_the_size_of_the_paper(timm, name):
    config = timm.data.resolve_model_data_config(timm.create_model(name))
    assert config["input_size"] == create_model(name).input_size
    assert config["crop_pct"] == {32: 1.0, 224: 0.875}[config["input_size"][1]]
    given = timm.create_model(name, pretrained_cfg_overlay={"crop_pct": 0.9})
    assert timm.data.resolve_model_data_config(given)["crop_pct"] == 0.9


def test_a_checkpoint_brings_the_images_it_was_trained_on(tmp_path):
    model = build("mgic_resnet56", num_classes=10)
    images = {"size": 28, "resize": 32, "mean": (0.1,) * 3, "std": (0.3,) * 3}
    options = SHALLOW["mgic_resnet56"]
    info = {"name": "mgic_resnet56", "classes": list("0123456789"), "options": options}
    export_weights(Weights(tmp_path, model.state_dict(), {**info, "input": images}), tmp_path)
    path = tmp_path / "model.safetensors"
    config = create_model("mgic_resnet56", checkpoint=path).pretrained_cfg
    assert (config["input_size"], config["pool_size"]) == ((3, 28, 28), (7, 7))
    assert (config["crop_pct"], config["mean"], config["std"]) == (0.875, (0.1,) * 3, (0.3,) * 3)


# features


def test_features_are_chosen_by_number_also_from_the_end(model):
    last = len(model.feature_info) - 1
    backbone = build(model.registered, features_only=True, out_indices=(-2, 0)).eval()
    assert backbone.feature_info.out_indices == (last - 1, 0)
    state = model.state_dict()
    backbone.load_state_dict({key: state[key] for key in backbone.state_dict()})
    x, every = make_input(model), list(model.features(make_input(model)).values())
    with torch.no_grad():
        assert_close(backbone(x), [every[last - 1], every[0]], rtol=1e-5, atol=1e-5)
    backbone.train()
    sum(y.mean() for y in backbone(torch.cat([x, x]))).backward()  # nothing is left unused
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_intermediates_are_the_features(model):
    x = make_input(model)
    with torch.no_grad():
        expected = list(model.features(x).values())
        last, found = model.forward_intermediates(x)
        assert_close(last, model.forward_features(x), rtol=0, atol=0)
        assert_close(found, expected, rtol=0, atol=0)
        some = model.forward_intermediates(x, 2, intermediates_only=True)
        assert_close(some, expected[-2:], rtol=0, atol=0)
        stopped, one = model.forward_intermediates(x, [0], stop_early=True)
        assert_close([stopped, *one], expected[:1] * 2, rtol=0, atol=0)


def test_a_pruned_network_gives_what_was_asked_for_and_has_no_head(model):
    pruned, x = copy.deepcopy(model), make_input(model)
    assert pruned.prune_intermediate_layers([0, 1]) == [0, 1]
    assert len(list(pruned.parameters())) < len(list(model.parameters()))
    with torch.no_grad():
        expected = list(model.features(x).values())
        assert_close(
            pruned.forward_intermediates(x, intermediates_only=True), expected[:2], rtol=0, atol=0
        )
        assert_close(pruned(x), expected[1], rtol=0, atol=0)
    assert pruned.num_features == model.feature_info.channels(1)
    kept = copy.deepcopy(model)
    kept.prune_intermediate_layers(None, prune_head=False)
    with torch.no_grad():
        assert_close(kept(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("indices", [(), (0, 9), (-9,), 9])
def test_features_that_are_not_there_are_refused(indices):
    with pytest.raises(ValueError, match="features are 0 to 2, or -3 to -1; got"):
        build("mgic_resnet56", features_only=True, out_indices=indices)
    with pytest.raises(ValueError, match="out_indices goes with features_only=True"):
        build("mgic_resnet56", out_indices=(0,))


def test_information_on_features_answers_as_timms(timm, model):
    from timm.models._features import FeatureInfo

    theirs = FeatureInfo(list(map(dict, model.feature_info)), (0, 2))
    ours = build(model.registered, features_only=True, out_indices=(0, 2)).feature_info
    assert ours.channels() == theirs.channels()
    assert ours.reduction() == theirs.reduction()
    for method in ("channels", "reduction", "module_name", "get_dicts"):
        assert getattr(ours, method)(idx=1) == getattr(theirs, method)(idx=1)
    assert ours.get_dicts(["num_chs"]) == theirs.get_dicts(["num_chs"])
    assert len(model.feature_info) == len(theirs)


@pytest.mark.parametrize("wrapper", ["FeatureGetterNet", "FeatureGraphNet"])
def test_timms_wrappers_take_the_network_itself(timm, model, wrapper):
    theirs = getattr(timm.models._features, wrapper, None) or getattr(timm.models, wrapper)
    theirs = theirs(copy.deepcopy(model), out_indices=(0, 2)).eval()
    assert theirs.feature_info.channels() == model.feature_info.channels((0, 2))
    x = make_input(model)
    with torch.no_grad():
        expected = list(model.features(x).values())
        assert_close(theirs(x), [expected[0], expected[2]])


def test_information_on_features_is_copied_with_what_is_given(model):
    info = build(model.registered, features_only=True, out_indices=(0, -1)).feature_info
    for again in (copy.deepcopy(info), pickle.loads(pickle.dumps(info)), info.from_other((0, -1))):
        assert type(again) is type(info)
        assert (list(again), again.out_indices) == (list(info), info.out_indices)


# training


def test_parameters_are_grouped_by_depth(timm, model):
    from timm.models import group_parameters

    groups = list(group_parameters(model, model.group_matcher(coarse=False)).values())
    coarse = list(group_parameters(model, model.group_matcher(coarse=True)).values())
    blocks = sum(len(stage) for stage in model.stages.values())
    assert len(groups) == 1 + blocks + 1  # the stem, blocks, the last with what follows, the head
    assert len(coarse) == 1 + len(model.stages) + 1
    assert all(name.startswith("stem") for name in groups[0])
    assert all(name.startswith("head") for name in groups[-1])
    reached = [int(group[0].split(".")[1][1:]) for group in groups[1 : 1 + blocks]]
    assert reached == sorted(reached)


def test_layer_decay_gives_the_first_layers_smaller_steps(timm):
    from timm.optim import param_groups_layer_decay

    groups = param_groups_layer_decay(build("mgic_resnet56", depth=14), layer_decay=0.5)
    scales = {group["lr_scale"] for group in groups}
    assert len(scales) == 1 + 6 + 1
    assert max(scales) == 1


def test_blocks_are_left_out_at_random_in_training_alone():
    torch.manual_seed(0)
    plain, model = (build("mgic_resnet56", depth=14, drop_path_rate=rate) for rate in (0, 0.5))
    x = make_input(model, 8, 8, batch=4)
    with torch.no_grad():
        assert_close(model.eval()(x), plain.eval()(x), rtol=0, atol=0)
        model.train()
        assert (model(x) - model(x)).abs().max() > 1e-4
    assert model.drop_path_rate == 0.5
    rates = [rate for name in model.stages for rate in model._rates(name)]
    # the last of six blocks at 0.5; the third and the fifth change the width
    assert_close(torch.tensor(rates), torch.tensor([0, 0.1, 0, 0.3, 0, 0.5]))


def test_what_is_left_out_keeps_the_mean():
    x, y = torch.zeros(4000, 1, 1, 1), torch.ones(4000, 1, 1, 1)
    torch.manual_seed(0)
    dropped = drop_path(x, y, 0.25)
    assert_close(dropped.unique(), torch.tensor([0, 4 / 3]))
    assert_close(dropped.mean(), torch.tensor(1.0), rtol=0, atol=0.03)


@pytest.mark.parametrize("rate", [-0.1, 1])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(ValueError, match=f"drop_path_rate must be from 0 to .* got {rate}"):
        build("mgic_resnet56", drop_path_rate=rate)


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_are_no_images_whose_blocks_are_left_out(name):
    with pytest.raises(ValueError, match="drop_path_rate is for images"):
        build(name, drop_path_rate=0.1)
    assert build(name).feature_info.channels(-1) == build(name).num_features


@pytest.mark.parametrize(
    ("name", "stride"),
    [("mgic_mobilenetv3_small", 16), ("mgic_resnet50", 8), ("mgic_resnet56", 2), ("resnet50", 16)],
)
def test_strides_beyond_the_output_stride_become_dilation(name, stride):
    model, plain = build(name, output_stride=stride).eval(), build(name).eval()
    assert model.feature_info.reduction(-1) == stride
    model.load_state_dict(plain.state_dict())
    assert model.feature_info.channels() == plain.feature_info.channels()
    reductions = [min(reduction, stride) for reduction in plain.feature_info.reduction()]
    assert model.feature_info.reduction() == reductions
    with torch.no_grad():
        assert model.forward_features(torch.rand(1, 3, 64, 64)).shape[2:] == (64 // stride,) * 2
    dilated = {m.dilation[0] for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert max(dilated) == plain.feature_info.reduction(-1) // stride
    with pytest.raises(ValueError, match="output_stride must be"):
        build(name, output_stride=12)


# other tools


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("mgic")])
def test_timm_builds_features_as_we_do(timm, name):
    options = {"features_only": True, "out_indices": (0, -1), **SHALLOW.get(name, {})}
    theirs = timm.create_model(name, feature_cls="getter", **options)
    ours = create_model(name, **options)
    assert str(theirs) == str(ours)


def test_pretrained_weights_take_another_output_stride(timm):
    model = timm.create_model("mgic_resnet56", pretrained=True, output_stride=2).eval()
    with torch.no_grad():
        assert model.forward_features(torch.rand(1, 3, 28, 28)).shape == (1, 64, 14, 14)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DeepLabV3Plus", "PAN"])
def test_segmentation_models_dilate_the_networks(timm, kind):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = getattr(smp, kind)("tu-mgic_resnet50", encoder_weights=None, classes=4)
    with torch.no_grad():
        assert model.eval()(torch.rand(1, 3, 128, 128)).shape == (1, 4, 128, 128)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("mgic")])
def test_segmentation_models_take_the_networks_as_encoders(timm, name):
    smp = pytest.importorskip("segmentation_models_pytorch")
    depth = len(create_model(name).feature_info)
    depth = {"mgic_resnet50": 5, "mgic_resnet56": 3 - 1}.get(name, depth)
    channels = (64, 32, 16, 16, 8)[:depth]
    model = smp.Unet(
        f"tu-{name}",
        encoder_weights=None,
        encoder_depth=depth,
        decoder_channels=channels,
        classes=4,
    )
    with torch.no_grad():
        assert model.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 4, 64, 64)
