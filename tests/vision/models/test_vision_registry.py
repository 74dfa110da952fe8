"""Every network of mgic_vision's registry, and what it costs."""

import io
import sys
from functools import cache

import pytest
import torch
from image_networks import (
    FROM_TIMM,
    KINDS,
    MODELS,
    SHALLOW,
    assert_equal,
    build,
    make_input,
)
from torch import nn
from torch.testing import assert_close

from mgic_geo import MGICBlock, multiply_adds, num_weights
from mgic_vision import (
    LRASPP,
    Backbone,
    SqueezeExcite,
    Stages,
    create_model,
    list_models,
    list_options,
    summary,
)
from mgic_vision.layers import conv_norm_act
from tests.slow import some

R56, R50, V3 = "mgic_resnet56", "mgic_resnet50", "mgic_mobilenetv3"

FROM_TORCHVISION = {
    "lraspp_mobilenet_v3_large",
    "lraspp_mobilenet_v3_small",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "resnet50",
}
OURS = sorted(set(MODELS) - FROM_TIMM - FROM_TORCHVISION)


# weights, multiply-adds and those of R and P of every network as the registry gives it, worked out
# from the tables and the definition of the cycle
COSTS = {
    "function_ghost": (142_785, 138_368, 0),
    "function_mgic": (141_841, 125_424, 11_264),
    "function_mobilenetv3": (252_657, 246_224, 0),
    "ghost_resnet56": (438_154, 65_286_784, 0),
    "ghostnet_050": (2_587_292, 42_328_152, 0),
    "ghostnet_100": (5_182_508, 141_150_512, 0),
    "ghostnet_130": (7_358_820, 227_003_256, 0),
    "lraspp_mgic_large": (1_696_762, 9_698_653_056, 728_760_320),
    "lraspp_mgic_small": (608_170, 3_501_323_264, 204_996_608),
    "lraspp_mobilenet_v3_large": (1_746_878, 9_855_644_544, 0),
    "lraspp_mobilenet_v3_small": (515_614, 2_772_333_568, 0),
    "mgic_mobilenetv3": (5_503_344, 195_259_240, 16_652_160),
    "mgic_mobilenetv3_small": (2_576_132, 63_276_320, 4_227_328),
    "mgic_resnet50": (15_254_312, 4_074_833_920, 1_624_899_584),
    "mgic_resnet56": (301_818, 66_466_432, 2_211_840),
    "mobilenet_v2": (3_504_872, 300_774_272, 0),
    "mobilenet_v3_large": (5_483_032, 216_589_760, 0),
    "mobilenet_v3_small": (2_542_856, 56_510_400, 0),
    "resnet50": (25_557_032, 4_089_184_256, 0),
    "resnet56": (853_018, 125_485_696, 0),
}

# options; weights and multiply-adds, all and of R and P, as worked out by hand beforehand without
# the norm in front of the pooling of the residual networks
SETTINGS = [
    (R56, {"coarse_size": 64, "group_size": 16}, 534_394, 110.9e6, 4.13e6),
    (R56, {"coarse_size": 16, "group_size": 32}, 848_890, 147.7e6, 6.49e6),
    (R56, {"coarse_size": 16, "group_size": 4}, 203_194, 45.5e6, 1.11e6),
    (R50, {"coarse_size": 64, "group_size": 16}, 6_227_752, 1.561e9, 0.406e9),
    (V3, {"coarse_size": 64, "group_size": 2}, 4.73e6, 90.9e6, 2.02e6),
    (V3, {"coarse_size": 64, "group_size": 64, "width": 0.6}, 2.58e6, 109e6, 10.26e6),
    (V3, {"coarse_size": 64, "group_size": 64, "width": 1.2}, 7.61e6, 274e6, 27.58e6),
]
# between them, or the default, which the test of the table has
BETWEEN = [
    (R56, {"coarse_size": 16, "group_size": 16}, 498_682, 108.5e6, 4.42e6),
    (R56, {"coarse_size": 16, "group_size": 8}, 301_690, 66.5e6, 2.21e6),
    (R50, {"coarse_size": 64, "group_size": 32}, 9_235_240, 2.399e9, 0.812e9),
    (R50, {"coarse_size": 64, "group_size": 64}, 15_250_216, 4.075e9, 1.625e9),
    (V3, {"coarse_size": 64, "group_size": 4}, 4.76e6, 96.2e6, 2.98e6),
    (V3, {"coarse_size": 64, "group_size": 8}, 4.82e6, 106.7e6, 4.92e6),
    (V3, {"coarse_size": 64, "group_size": 16}, 4.96e6, 125.1e6, 7.99e6),
    (V3, {"coarse_size": 64, "group_size": 32}, 5.19e6, 157.0e6, 12.11e6),
    (V3, {"coarse_size": 64, "group_size": 64, "width": 1.0}, 5.50e6, 195e6, 16.65e6),
]


def slow(cases: list) -> list:
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


FINAL_NORM = {R56: 2 * 64, R50: 2 * 2048, V3: 0}


@pytest.fixture(scope="module", params=some(MODELS, *KINDS))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name) -> nn.Module:
    """Shared by the tests of one network, which leave it as it is."""
    return build(name).eval()


# the walk through the registry


def test_every_name_has_its_costs():
    assert set(COSTS) == set(list_models())


@pytest.mark.parametrize("counted", MODELS)
def test_costs_are_those_of_the_table(counted):
    report = summarized(counted)
    total, transfers = report.total, report.transfers
    assert (total.weights, total.multiply_adds, transfers.multiply_adds) == COSTS[counted]


# tests/vision/test_summary.py has one of every kind of ours
@pytest.mark.parametrize("counted", some(MODELS, "ghostnet_050", "mgic_resnet50"))
def test_costs_are_those_of_torchs_counter(counted):
    model = build(counted)
    x = torch.empty(1, *model.input_size, device="meta")
    assert summary(model).total.multiply_adds == multiply_adds(model.to("meta"), x)


@pytest.mark.parametrize("size", [(64, 64), (33, 65)])
def test_any_size_gives_scores_and_features_by_stride(name, model, size):
    x = make_input(model, *size)
    with torch.no_grad():
        y, features = model(x), backbone(model).features(x)
    vector, mask = len(model.input_size) == 1, isinstance(model, LRASPP)
    assert y.shape == (2, model.num_classes, *(size if mask else ()))
    for info in model.feature_info:
        batch, side = 2, [-(-side // info["reduction"]) for side in size]
        if vector:  # vectors are the pixels of one row up to the last features
            last = info is model.feature_info[-1]
            batch, side = (2, [1, 1]) if last else (1, [1, 2])
        assert features[info["name"]].shape == (batch, info["num_chs"], *side)
        assert info["name"] == f"s{info['reduction']}"
    assert list(features) == [info["name"] for info in model.feature_info]
    if max(model.input_size) > 32:
        assert {"s4", "s8", "s16"} | (set() if mask else {"s32"}) <= set(features)


def test_the_backward_pass_reaches_every_parameter(name):
    model = build(name).train()
    x = make_input(model, batch=4)
    model(x).square().mean().backward()
    unreached = [
        key
        for key, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert not unreached


@pytest.mark.parametrize("saved", some(MODELS, *KINDS))
def test_a_state_dict_brings_the_values_back(saved):
    model, file = build(saved).eval(), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = create_model(saved, **SHALLOW.get(saved, {})).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    x = make_input(model, 32, 32)
    with torch.no_grad():
        assert_close(other(x), model(x), rtol=0, atol=0)


def test_channels_last_equals_contiguous(name, model):
    other = build(name).to(memory_format=torch.contiguous_format).eval()
    x = make_input(model, 64, 96)
    with torch.no_grad():
        assert_equal(model(x), other(x))


def test_features_are_channels_last_whatever_the_input_is(name, model):
    layouts = []

    def note(module, inputs, output):
        layouts.append(output.is_contiguous(memory_format=torch.channels_last))

    convs = [m for m in backbone(model).stages.modules() if isinstance(m, nn.Conv2d)]
    hooks = [conv.register_forward_hook(note) for conv in convs]
    with torch.no_grad():
        model(make_input(model, 64, 96).contiguous())
    for hook in hooks:
        hook.remove()
    assert all(layouts)
    assert len(layouts) >= len(convs)


def test_bfloat16_autocast_stays_close(name, model):
    x = make_input(model)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
    assert y.dtype == torch.bfloat16
    error = (y.float() - exact).norm() / exact.norm()
    assert error < 0.1


# by default no masks: their head and their backbone are exported below and when fused
@pytest.mark.parametrize("exported", some(MODELS, "function_mgic", "mgic_resnet56"))
def test_every_network_exports(exported):
    model = build(exported).eval()
    x = make_input(model)
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ours", [name for name in OURS if "mgic" in name])
def test_the_cycles_of_every_network_couple_all_channels(ours):
    options = {"squeeze": "none"} if "squeeze" in list_options(ours) else {}
    model = build(ours, **options).eval()
    cycles = {module.levels: module for module in model.modules() if isinstance(module, MGICBlock)}
    assert cycles
    assert not any(isinstance(module, SqueezeExcite) for module in model.modules())
    for cycle in cycles.values():
        assert is_coupled(cycle)
    wide = [cycle for levels, cycle in cycles.items() if levels[-1].outer % 2 == 0]
    for cycle in wide:  # what the test above would not notice, if it could not fail
        if cycle.levels[0].groups > 1:
            assert not is_coupled(with_grouped_bottom(cycle))


@pytest.mark.parametrize("ours", [name for name in OURS if "mgic" in name])
def test_corrections_of_every_network_start_at_a_tenth(ours):
    cycles = [module for module in build(ours).modules() if isinstance(module, MGICBlock)]
    for cycle in (*cycles, *cycles):
        for norm in cycle.norms:
            assert_close(norm.weight, torch.full_like(norm.weight, 0.1), rtol=0, atol=0)
            assert not norm.bias.any()
        own = [m for layer in cycle.layers for m in layer.modules() if hasattr(m, "running_mean")]
        assert all((norm.weight == 1).all() for norm in own)
        for norm in (*cycle.norms, *own):
            nn.init.constant_(norm.weight, 7.0)
        cycle.reset_parameters()  # and so they do again
    assert sum(len(cycle.norms) for cycle in cycles) >= len(cycles) > 0


def is_coupled(cycle: MGICBlock) -> bool:
    """Whether a unit in any channel reaches all, where positive weights let nothing cancel."""
    for parameter in cycle.parameters():
        parameter.data.abs_()
    channels = cycle.levels[0].outer
    units = torch.eye(channels)[..., None, None]
    with torch.no_grad():
        reached = cycle(units) - cycle(torch.zeros_like(units))
    return bool((reached > 0).all())


def with_grouped_bottom(cycle: MGICBlock) -> MGICBlock:
    """Cut the dense maps of the coarsest level into two groups."""
    for module in cycle.layers[-1].modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            rows, columns = module.out_channels // 2, module.in_channels // 2
            module.weight.data[:rows, columns:] = 0
            module.weight.data[rows:, :columns] = 0
    return cycle


def backbone(model: nn.Module) -> Backbone:
    return model.backbone if isinstance(model, LRASPP) else model


# timm's interface


def test_without_classes_the_features_in_front_of_the_classifier_come_out(name, model):
    headless = build(name, num_classes=0).eval()
    state = model.state_dict()
    headless.load_state_dict({key: state[key] for key in headless.state_dict()})
    x = make_input(model)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
        assert_close(headless(x), expected, rtol=0, atol=0)
    assert headless.num_classes == 0
    assert isinstance(headless.get_classifier(), nn.Identity)
    assert expected.size(1) == model.head_hidden_size


def test_features_only_is_the_same_network_without_its_head(name, model):
    headless = build(name, features_only=True).eval()
    state = model.state_dict()
    prefix = "backbone." if isinstance(model, LRASPP) else ""
    headless.load_state_dict({key: state[prefix + key] for key in headless.state_dict()})
    x = make_input(model)
    with torch.no_grad():
        features, expected = headless(x), backbone(model).features(x)
        assert_close(features[-1], backbone(model).forward_features(x))
    assert_close(features, list(expected.values()), rtol=0, atol=0)


def test_a_fresh_classifier_has_as_many_classes_as_asked_for(name):
    model = build(name, num_classes=0).double().eval()
    model.reset_classifier(7)
    with torch.no_grad():
        y = model(make_input(model).double())
    assert (model.num_classes, y.size(1), y.dtype) == (7, 7, torch.double)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)


def test_every_network_gives_its_features_unpooled(name):
    model = build(name, num_classes=0, global_pool="").eval()
    x = make_input(model)
    with torch.no_grad():
        y, features = model(x), model.forward_features(x)
        expected = model.forward_head(features) if isinstance(model, LRASPP) else features
    assert model.global_pool == ""
    assert_close(y, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", [n for n in MODELS if n in KINDS and not n.startswith("lraspp")])
def test_every_classifier_pools_as_asked(name):
    model = build(name, global_pool="max").eval()
    x = torch.randn(2, model.num_features, 2, 3)
    most, mean = x.amax((2, 3), True), x.mean((2, 3), True)
    for pool, pooled in {"max": most, "avg": mean, "avgmax": (most + mean) / 2}.items():
        if pool != "max":
            model.reset_classifier(3, pool)
        assert model.global_pool == pool
        with torch.no_grad():
            assert_close(model.forward_head(x), model.forward_head(pooled))


def test_images_may_have_other_channels(name):
    model = build(name, in_chans=2).eval()
    x = make_input(model)
    x = x if x.dim() == 2 else x[:, :2]
    with torch.no_grad():
        assert model(x).size(0) == 2
    with pytest.raises(ValueError, match=r"input must be \(B, 2.*got"):
        model(torch.cat([x, x], 1))


def test_dropout_stands_in_front_of_the_classifier():
    model = build(R56, drop_rate=0.9).train()
    dropped = model.forward_head(torch.ones(50, 64, 2, 2), pre_logits=True)
    assert_close((dropped == 0).float().mean(), torch.tensor(0.9), rtol=0, atol=0.03)


DEEP = {R56: {"depth": 14}, "lraspp_mgic_small": {}, "resnet56": {"depth": 14}}


@pytest.mark.parametrize("checked", some(MODELS, *DEEP))
def test_checkpointing_trains_the_same_and_keeps_less(checked):
    def train(enable):
        model = build(checked, **DEEP.get(checked, {})).train()
        model.set_grad_checkpointing(enable)
        saved = 0

        def pack(tensor):
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(make_input(model)).square().mean()
        loss.backward()
        return model, saved

    (plain, saved), (checkpointed, less) = train(False), train(True)
    assert less < (saved / 3 if checked in DEEP else saved)  # how much, depends on the blocks
    one, other = ([w.grad for w in model.parameters()] for model in (plain, checkpointed))
    assert_close(one, other)
    assert_close(list(plain.buffers()), list(checkpointed.buffers()), rtol=0, atol=0)


# counts


@cache
def summarized(name, **options):
    return summary(create_model(name, **options))


@pytest.mark.parametrize(
    ("name", "options", "hand", "work", "transfers"), [*SETTINGS, *slow(BETWEEN)]
)
def test_counts_are_those_worked_out_by_hand(name, options, hand, work, transfers):
    report = summarized(name, **options)
    weights = report.total.weights
    digits = {"rtol": 0, "atol": 0} if isinstance(hand, int) else {"rtol": 2e-3, "atol": 0}
    assert_close(float(weights - FINAL_NORM[name]), float(hand), **digits)
    assert_close(float(weights), float(hand), rtol=0.01, atol=0)
    assert_close(float(report.total.multiply_adds), work, rtol=5e-3, atol=0)
    assert_close(float(report.without_transfers.multiply_adds), work - transfers, rtol=5e-3, atol=0)


def test_h_swish_costs_nothing_and_is_left_out_where_asked():
    plain = create_model(V3, h_swish=False)
    assert not any(isinstance(module, nn.Hardswish) for module in plain.modules())
    assert num_weights(plain) == COSTS[V3][0]


def test_the_pointwise_change_costs_what_a_dense_convolution_does():
    depthwise, pointwise = (create_model(R56, change=c) for c in ("depthwise", "pointwise"))
    assert num_weights(pointwise) - num_weights(depthwise) == 16 * 32 + 32 * 64 - 9 * (32 + 64)


# the paper's multiply-adds, in the thousands of millions, which leave out those of R and P
PRINTED = [
    (R50, {"coarse_size": 64, "group_size": 16}, 1.0),
    (V3, {"coarse_size": 64, "group_size": 64, "width": 1.2}, 0.233),
    *slow(
        [
            (R50, {"coarse_size": 64, "group_size": 32}, 1.6),
            (R50, {"coarse_size": 64, "group_size": 64}, 2.5),
            (V3, {"coarse_size": 64, "group_size": 64, "width": 1.0}, 0.145),
        ]
    ),
]


@pytest.mark.parametrize(("name", "options", "printed"), PRINTED)
def test_strides_come_nearer_to_the_papers_multiply_adds_than_pools(name, options, printed):
    stride, pool = (
        summarized(name, **kind, **options).without_transfers.multiply_adds
        for kind in ({}, {"downsample": "maxpool"})  # strides are the default
    )
    assert abs(stride / 1e9 - printed) < 0.25 * printed
    assert pool / 1e9 > 1.6 * printed


@pytest.mark.parametrize("name", [R50, R56, V3, "lraspp_mgic_small"])
def test_pools_follow_the_cycles_where_asked(name):
    model = build(name, downsample="maxpool").eval()
    strided = [m for m in backbone(model).stages.modules() if isinstance(m, nn.Conv2d)]
    assert {m.stride for m in strided} == {(1, 1)}
    assert model.feature_info.reduction(-1) == build(name).feature_info.reduction(-1)
    with torch.no_grad():
        found = backbone(model).features(torch.rand(1, 3, 65, 64))
    for key, x in found.items():
        assert x.shape[2:] == tuple(-(-side // int(key[1:])) for side in (65, 64))


# segmentation


def test_the_segmentation_head_equals_torchvisions():
    from torchvision.models.segmentation.lraspp import LRASPPHead

    torch.manual_seed(0)
    model = build("lraspp_mgic_small", num_classes=5, pool_window=None).eval()
    other = LRASPPHead(24, 288, 5, 128).eval()
    ours = {key: value for key, value in model.state_dict().items() if "backbone" not in key}
    order = ("value.conv", "value.norm", "gate", "classifier.low", "classifier.high")
    values = [ours[key] for part in order for key in ours if key.startswith(part)]
    theirs = other.state_dict()
    other.load_state_dict(dict(zip(theirs, values, strict=True)))
    low, high = torch.randn(2, 24, 12, 20), torch.randn(2, 288, 6, 10)
    with torch.no_grad():
        y = model.forward_head({"s8": low, "s16": high})
        assert_close(y, other({"low": low, "high": high}), rtol=1e-4, atol=1e-4)


def test_gates_of_windows_are_interpolated_over_the_map():
    model = build("lraspp_mgic_small", pool_window=9).eval()
    features = {"s8": torch.randn(1, 24, 50, 58), "s16": torch.randn(1, 288, 25, 29)}
    with torch.no_grad():
        gates = model.gate(features["s16"])  # 2x2 windows
        expected = model.value(features["s16"])
        y = model.forward_head(features, pre_logits=True)
    assert gates.shape == (1, 128, 2, 2)
    assert_close(y[..., 0, -1], expected[..., 0, -1] * gates[..., 0, -1])
    assert_close(y[..., 12, 14], expected[..., 12, 14] * gates.mean((2, 3)))


def test_torchvisions_own_lraspp_has_as_many_weights():
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    theirs = lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=19)
    ours = create_model("lraspp_mobilenet_v3_large", reduced_tail=False)
    assert num_weights(ours) == num_weights(theirs)


def test_the_head_takes_any_backbone_and_exports_with_any_size():
    stages = Stages(4, 4)
    stages.add(conv_norm_act(4, 6, kernel_size=3, stride=2), 6, stride=2)
    stages.add(conv_norm_act(6, 8, kernel_size=3, stride=2), 8, stride=2)
    stem = conv_norm_act(3, 4, kernel_size=5, stride=4)
    model = LRASPP(Backbone(stem, stages), 3, filters=4, pool_window=None).eval()
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, (torch.rand(2, 3, 64, 96),), dynamic_shapes=(sizes,))
    x = torch.rand(3, 3, 128, 80)
    with torch.no_grad():
        assert_close(program.module()(x), model(x))


def test_the_head_takes_the_last_features_of_a_stride():
    backbone = build(V3, output_stride=16, features_only=True)
    model = LRASPP(backbone, 3, filters=4)
    assert model.num_features == backbone.feature_info.channels(-1)
    model(torch.randn(2, 3, 64, 64)).mean().backward()
    last = backbone.stages["s32"]
    assert all(parameter.grad is not None for parameter in last.parameters())


def test_the_head_costs_what_its_cost_line_says():
    model = build("lraspp_mgic_small")
    head = num_weights(model) - num_weights(model.backbone)
    assert head == 2 * 288 * 128 + 2 * 128 + (24 + 128 + 2) * 19


def test_masks_are_not_pooled_and_need_stride_8():
    model = build("lraspp_mgic_small")
    with pytest.raises(ValueError, match=r"masks are not pooled.* got 'avg'"):
        model.reset_classifier(3, "avg")
    with pytest.raises(ValueError, match="must offer s8 and s16, got s4"):
        LRASPP(Backbone(nn.Identity(), _one_stage()), 3)
    with pytest.raises(ValueError, match="made with features_only=True, got one with a head"):
        LRASPP(build("mgic_mobilenetv3_small"), 3)


def _one_stage() -> Stages:
    stages = Stages(3, 4)
    stages.add(nn.Identity(), 3)
    return stages


# baselines


@pytest.mark.parametrize(
    "borrowed",
    some(
        [name for name in MODELS if name not in OURS and not name.startswith("lraspp")],
        *("mobilenet_v2", "resnet50", *KINDS),
    ),
)
def test_borrowed_networks_score_as_in_their_library(borrowed):
    torch.manual_seed(0)
    if borrowed in FROM_TIMM:
        import timm

        theirs = timm.create_model(borrowed).eval()
    else:
        from torchvision import models

        theirs = models.get_model(borrowed).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert_close(build(borrowed).eval()(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("borrowed", "package"), [("ghostnet_100", "timm"), ("resnet50", "torchvision")]
)
def test_a_missing_library_is_named(monkeypatch, borrowed, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ImportError, match=f"{borrowed} comes from {package}: pip install {package}"
    ):
        create_model(borrowed)


# the registry


def test_options_listed_are_options_taken():
    expected = {"change", "coarse_size", "cycle", "depth", "drop_rate", "features_only"}
    expected |= {"global_pool", "group_size", "in_chans", "min_levels", "width"}
    expected |= {"downsample", "drop_path_rate", "out_indices", "output_stride"}
    assert set(list_options(R56)) == expected
    assert {"width", "h_swish", "squeeze", "in_chans", "drop_rate"} <= set(list_options(V3))
    assert {"features_only", "in_chans"} <= set.intersection(
        *(set(list_options(name)) for name in list_models())
    )


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("resnet57", {}, "no model 'resnet57'; there are function_ghost, "),
        (R56, {"groups": 4}, "mgic_resnet56 does not take groups; it takes change, coarse_size"),
        (R56, {"depth": 57}, "depth must be 6 n .* got 57"),
        (R56, {"change": "none"}, "change must be one of depthwise, pointwise, got 'none'"),
        (R56, {"group_size": 0}, "group_size must be at least 1, got 0"),
        (R56, {"downsample": "mean"}, "downsample must be one of stride, maxpool, got 'mean'"),
        (R56, {"num_classes": -1}, "num_classes must be at least 0, got -1"),
        (R56, {"global_pool": "sum"}, "global_pool must be one of .* got 'sum'"),
        (R56, {"global_pool": ""}, "goes with num_classes=0, got 10"),
        (R50, {"layers": (3, 4)}, r"layers must be 4 numbers above 0, got \(3, 4\)"),
        (V3, {"width": 0}, "width must be positive, got 0"),
        (V3, {"output_stride": 12}, "output_stride must be a power of 2 from 2 on, got 12"),
        (V3, {"squeeze": "all"}, "squeeze must be one of none, finest, every, got 'all'"),
        ("function_mgic", {"c_max": 48}, "c_max must be a power of 2 from 32 on, got 48"),
        ("lraspp_mgic_small", {"num_classes": -1}, "num_classes must be at least 0, got -1"),
        ("lraspp_mgic_small", {"filters": 0}, "filters must be at least 1, got 0"),
        ("resnet50", {"weights": "DEFAULT", "in_chans": 1}, "are for in_chans=3, got 1"),
    ],
)
def test_wrong_arguments_are_named(name, options, match):
    with pytest.raises(ValueError, match=match):
        create_model(name, **options)


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.rand(3, 32, 32), r"input must be \(B, 3, H, W\), got"),
        (torch.rand(2, 32, 32, 3), r"input must be \(B, 3, H, W\), got"),
        (torch.rand(2, 3, 32), r"input must be \(B, 3, H, W\), got"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"floating point, got torch.uint8"),
    ],
    ids=lambda value: str(tuple(value.shape)) if isinstance(value, torch.Tensor) else "",
)
def test_an_input_of_another_kind_is_refused(x, match):
    with pytest.raises(ValueError, match=match):
        build(R56)(x)


@pytest.mark.fault(35)
def test_batch_of_no_images_gives_no_scores_and_leaves_the_statistics_alone():
    model = build(R56).train()
    model(torch.rand(2, 3, 8, 8))
    before = [b.clone() for b in model.buffers() if b.is_floating_point()]
    assert len(model(torch.empty(0, 3, 8, 8))) == 0
    after = [b for b in model.buffers() if b.is_floating_point()]
    assert_close(after, before, rtol=0, atol=0)
