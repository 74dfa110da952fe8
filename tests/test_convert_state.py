"""What a converted network holds: its own dictionaries, hooks, ties and precision."""

import copy
import functools
import io
import logging

import pytest
import timm
import torch
import torch_geometric.nn as pyg
import torchvision
from image_blocks import DICTIONARIES, SIZES, assert_nothing_shared
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.testing import assert_close
from torchvision.models.resnet import BasicBlock, Bottleneck

import mgic_geo
import mgic_vision
from mgic_geo import MGICBlock
from tests.geo.test_convert import EDGES


def resnet(block=BasicBlock):
    """Two blocks of one width after a stem, all that matters of a ResNet."""
    width = 16 * block.expansion
    stem = nn.Conv2d(3, width, 3, padding=1)
    return nn.Sequential(stem, block(width, 16), block(width, 16))


def convnext():
    return timm.models.ConvNeXt(
        depths=(1, 1, 1, 1), dims=(16, 16, 32, 32), num_classes=4, ls_init_value=0.1
    )


def transformer():
    return timm.models.VisionTransformer(
        img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=4
    )


VISION = {
    "basic": resnet,
    "bottleneck": lambda: resnet(Bottleneck),
    "convnext": convnext,
    "mobilenet": lambda: torchvision.models.MobileNetV2(
        num_classes=4, inverted_residual_setting=[[1, 16, 1, 2], [2, 32, 2, 2]]
    ),
    "transformer": transformer,
}
GRAPHS = {
    "gcn": lambda: pyg.GCN(8, 32, 3, out_channels=4),
    "sage": lambda: pyg.GraphSAGE(8, 32, 3, out_channels=4),
    "gin": lambda: pyg.GIN(8, 32, 3, out_channels=4),
    "gat": lambda: pyg.GAT(8, 32, 3, out_channels=4, heads=2),
    "gated": lambda: pyg.Sequential(
        "x, e", [(pyg.Linear(8, 32), "x -> x"), (pyg.ResGatedGraphConv(32, 32), "x, e -> x")]
    ),
}


COUNTED = {**SIZES, "input_size": (3, 32, 32)}


@functools.cache
def convert(name):
    """A small network, converted, inputs for it and the report; copy it before you change it."""
    torch.manual_seed(0)
    if name in GRAPHS:
        new, report = mgic_geo.convert(GRAPHS[name](), group_size=8)
        inputs = torch.randn(5, 8), EDGES
    else:
        new, report = mgic_vision.convert(VISION[name](), **COUNTED)
        inputs = (torch.randn(2, 3, 32, 32),)
    assert report.changed
    return new, inputs, report


def convolutions(model):
    """What has a matrix inside cycles, by name."""
    cycles = [f"{name}." for name, m in model.named_modules() if isinstance(m, MGICBlock)]
    return {
        name: module
        for name, module in model.named_modules()
        if name.startswith(tuple(cycles)) and hasattr(module, "weight") and module.weight.dim() > 1
    }


@pytest.mark.parametrize("name", [*VISION, *GRAPHS])
def test_no_two_modules_share_a_dictionary_and_none_in_a_cycle_stands_at_two_places(name):
    new = convert(name)[0]
    assert_nothing_shared(new)
    for cycle in (module for module in new.modules() if isinstance(module, MGICBlock)):
        every = [module for _, module in cycle.named_modules(remove_duplicate=False)]
        assert len(every) == len(set(every))


@pytest.mark.parametrize("name", ["bottleneck", "convnext", "transformer", "sage"])
def test_hook_fires_once_a_call_of_its_module(name):
    new, inputs, _ = copy.deepcopy(convert(name))  # what is shared would stay shared
    layers, seen = convolutions(new), []
    for path, layer in layers.items():
        layer.register_forward_hook(lambda module, *_, path=path: seen.append((path, module)))
    new(*inputs)
    assert sorted(path for path, _ in seen) == sorted(layers)
    assert all(layers[path] is module for path, module in seen)


@pytest.mark.parametrize("name", ["bottleneck", "convnext"])
@pytest.mark.parametrize("level", [0, -1])
def test_pruning_and_weight_norm_of_one_convolution_leave_the_others_alone(name, level):
    new, inputs, _ = copy.deepcopy(convert(name))
    before = copy.deepcopy(new.eval().state_dict())
    cycle = next(module for module in new.modules() if isinstance(module, MGICBlock))
    conv = next(m for m in cycle.layers[level].modules() if isinstance(m, nn.Conv2d))
    path = next(path for path, module in new.named_modules() if module is conv)

    prune.l1_unstructured(conv, "weight", amount=0.5)
    new(*inputs)
    assert (conv.weight == 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    prune.remove(conv, "weight")
    parametrizations.weight_norm(conv)
    new(*inputs)

    others = {key: tensor for key, tensor in before.items() if not key.startswith(f"{path}.")}
    after = new.state_dict()
    own = {"parametrizations.weight.original0", "parametrizations.weight.original1", "bias"}
    assert after.keys() - others.keys() <= {f"{path}.{key}" for key in own}
    assert_close({key: after[key] for key in others}, others, rtol=0, atol=0)


@pytest.mark.parametrize("name", [*VISION, *GRAPHS])
def test_deepcopy_and_pickle_give_the_same_network_with_dictionaries_of_its_own(name):
    new, inputs, _ = convert(name)
    file = io.BytesIO()
    torch.save(new.eval(), file)
    file.seek(0)
    for other in (copy.deepcopy(new), torch.load(file, weights_only=False)):
        assert_close(other(*inputs), new(*inputs), rtol=0, atol=0)
        assert_nothing_shared(other)


def spy(log):
    """A hook that notes the shape of an output and the module."""
    return lambda module, inputs, output: log.append((module, output.shape))


def test_hooks_on_modules_that_live_on_stay_in_the_finest_branch_and_fire_once(caplog):
    model, log = resnet(Bottleneck), []
    model[1].conv2.register_forward_hook(spy(log))
    model[1].bn2.register_forward_hook(spy(log))
    new, _ = mgic_vision.convert(model, **SIZES)
    assert not caplog.records
    new(torch.randn(2, 3, 8, 8))
    branch = new[1].cycle.layers[0].branch
    assert log == [(branch[3], (2, 16, 8, 8)), (branch[4], (2, 16, 8, 8))]


def test_hook_on_an_activation_fires_as_often_as_it_did():
    model, log = resnet(Bottleneck), []
    model[1].relu.register_forward_hook(spy(log))
    x = torch.randn(2, 3, 8, 8)
    model(x)
    before = len(log)
    new, _ = mgic_vision.convert(model, **SIZES)
    new(x)
    assert len(log) == 2 * before == 6


def test_bound_method_of_a_recorder_is_called_on_one_recorder():
    class Recorder:
        def __init__(self):
            self.names = []

        def note(self, module, inputs, output):
            self.names.append(type(module).__name__)

    model, recorder = resnet(), Recorder()
    for module in (model[0], model[1].conv1, model[1].bn1):
        module.register_forward_hook(recorder.note)
    new, _ = mgic_vision.convert(model, **SIZES)
    new(torch.randn(2, 3, 8, 8))
    hook = next(iter(new[0]._forward_hooks.values()))
    assert hook.__self__.names == ["Conv2d", "Conv2d", "BatchNorm2d"]


def test_hooks_of_every_kind_are_only_on_the_finest_level():
    model = resnet()
    conv = model[1].conv1
    conv.register_forward_pre_hook(lambda *_: None, with_kwargs=False)
    conv.register_full_backward_hook(lambda *_: None)
    conv.register_state_dict_pre_hook(lambda *_: None)
    conv.register_load_state_dict_pre_hook(lambda *_: None)
    conv.register_load_state_dict_post_hook(lambda *_: None)
    new, _ = mgic_vision.convert(model, **SIZES)
    names = [name for name in DICTIONARIES if name.endswith("hooks")]
    on_levels = [
        sum(len(getattr(module, name)) for module in layer.modules() for name in names)
        for layer in new[1].cycle.layers
    ]
    assert on_levels == [5] + [0] * (len(on_levels) - 1)
    new[1].cycle.layers[-1].branch[0].register_backward_hook(lambda *_: None)  # of the other kind
    loaded = dict(new.state_dict())
    new.load_state_dict(loaded)


def dropped(caplog):
    """The modules that the warnings name."""
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    return [record.getMessage().split()[3] for record in caplog.records]


def test_hooks_that_are_dropped_are_named(caplog):
    model, log = transformer(), []
    for module in (model.blocks[0], model.blocks[0].mlp, model.blocks[0].mlp.act):
        module.register_forward_hook(spy(log))
    model.blocks[1].mlp.fc2.register_full_backward_hook(lambda *_: None)
    new, report = mgic_vision.convert(model, **SIZES, input_size=(3, 32, 32))
    assert len(report.changed) == 2
    assert dropped(caplog) == ["blocks.0.mlp", "blocks.1.mlp.fc2"]
    assert not log  # counting multiply-adds called none
    new(torch.randn(2, 3, 32, 32))
    assert [type(module).__name__ for module, _ in log] == ["GELU", "Block"]


def test_hooks_on_a_graph_convolution_are_dropped_and_named(caplog):
    model = GRAPHS["gin"]()
    model.convs[1].register_propagate_forward_hook(lambda *_: None)
    model.convs[1].nn.lins[0].register_forward_hook(lambda *_: None)
    model.convs[2].register_forward_hook(lambda *_: None)
    new, _ = mgic_geo.convert(model, group_size=8)
    assert dropped(caplog) == ["convs.1", "convs.1.nn.lins.0"]
    assert new.convs[2]._forward_hooks
    assert not any(module._forward_hooks for module in new.convs[1].modules())


def test_block_at_two_places_is_made_once_and_stays_one():
    model = resnet()
    model.append(model[1])
    new, report = mgic_vision.convert(model, **SIZES)
    assert new[1] is new[3]
    assert isinstance(new[1].cycle, MGICBlock)
    assert [(row.name, row.also) for row in report.changed] == [("1", ("3",)), ("2", ())]
    assert str(report).startswith("changed  1 = 3 (BasicBlock): ")
    assert report.weights_after == mgic_geo.num_weights(new)
    x = torch.randn(2, 16, 8, 8)
    assert_close(new.eval()[3](x), new[1](x), rtol=0, atol=0)


def test_convolution_at_two_places_is_made_once_and_stays_one():
    model = pyg.GCN(32, 32, 3, out_channels=32)
    model.convs[2] = model.convs[0]
    new, report = mgic_geo.convert(model, group_size=8)
    assert new.convs[0] is new.convs[2]
    assert new.convs[0] is not new.convs[1]
    assert [row.also for row in report.changed] == [("convs.2",), ()]
    assert new(torch.randn(5, 32), EDGES).shape == (5, 32)


@pytest.mark.parametrize("pattern", ["convs.0", "convs.2"])
def test_tied_convolution_is_chosen_by_any_of_its_names(pattern):
    model = pyg.GCN(32, 32, 3, out_channels=32)
    model.convs[2] = model.convs[0]
    _, report = mgic_geo.convert(model, group_size=8, include=[pattern])
    assert [row.name for row in report.changed] == ["convs.0"]
    _, report = mgic_geo.convert(model, group_size=8, exclude=[pattern])
    assert [row.name for row in report.changed] == ["convs.1"]


def test_blocks_that_share_weights_are_left_with_the_reason():
    model = resnet()
    model[2].conv1.weight = model[1].conv1.weight
    new, report = mgic_vision.convert(model, **SIZES)
    assert [row.reason for row in report.left] == [
        "shares weights with 2.conv1.weight, outside of it",
        "shares weights with 1.conv1.weight, outside of it",
    ]
    assert new[1].conv1.weight is new[2].conv1.weight
    assert report.unknown_weights == mgic_geo.num_weights(model[0])
    model = resnet()
    model[1].conv2.weight = model[1].conv1.weight
    (left,) = mgic_vision.convert(model, **SIZES)[1].left
    assert (left.name, left.reason) == ("1", "shares weights between two of its modules")
    graph = pyg.GCN(32, 32, 3)
    graph.convs[0].lin = graph.convs[1].lin
    new, report = mgic_geo.convert(graph, group_size=8)
    assert [row.name for row in report.changed] == ["convs.2"]
    assert new.convs[0].lin is new.convs[1].lin


def test_graph_convolution_with_maps_tied_inside_is_left():
    conv = pyg.SAGEConv(32, 32, bias=False)
    conv.lin_l = conv.lin_r
    _, report = mgic_geo.convert(conv, group_size=8)
    assert "its options cannot be read" in report.left[0].reason
    shared, report = mgic_geo.convert(pyg.GATv2Conv(32, 32, share_weights=True), group_size=8)
    coarsest = shared.block.layers[-1].conv
    assert coarsest.lin_l is coarsest.lin_r  # its constructor ties them again


def test_norm_at_two_places_of_a_block_stays_one_on_every_level():
    model = resnet()
    model[1].bn2 = model[1].bn1
    new, _ = mgic_vision.convert(model, **SIZES)
    for layer in new[1].cycle.layers:
        assert layer.branch[1] is layer.branch[4]
    assert_nothing_shared(new)


def test_activation_and_norm_given_as_modules_are_copied_for_every_place():
    act, norm = nn.PReLU(), pyg.MeanSubtractionNorm()
    new, _ = mgic_geo.convert(pyg.GCN(32, 32, 3), group_size=8, act=act, norm=norm)
    for kind in (nn.PReLU, pyg.MeanSubtractionNorm):
        every = [m for _, m in new.named_modules(remove_duplicate=False) if isinstance(m, kind)]
        assert len(every) == len(set(every)) > 3
        assert not {act, norm} & set(every)


@pytest.mark.parametrize("kind", ["prune", "weight_norm", "spectral_norm"])
def test_convolution_whose_weight_is_computed_is_left(kind):
    model = resnet()
    if kind == "prune":
        with torch.no_grad():  # else torch refuses to copy it
            prune.l1_unstructured(model[1].conv1, "weight", amount=0.5)
    else:
        getattr(parametrizations, kind)(model[1].conv1)
    new, report = mgic_vision.convert(model, **SIZES)
    assert report.left[0].reason.startswith("does not understand")
    assert [row.name for row in report.changed] == ["2"]
    x = torch.randn(2, 3, 8, 8)
    assert new(x).shape == model(x).shape


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("bottleneck", torch.float16),
        ("convnext", torch.bfloat16),
        ("mobilenet", torch.bfloat16),
        ("transformer", torch.float64),
        ("gin", torch.bfloat16),
        ("gat", torch.float64),
    ],
    ids=str,
)
def test_networks_are_converted_and_counted_in_any_precision(name, dtype):
    if name in GRAPHS:
        new, report = mgic_geo.convert(GRAPHS[name]().to(dtype), group_size=8)
        inputs = torch.randn(5, 8, dtype=dtype), EDGES
    else:
        new, report = mgic_vision.convert(VISION[name]().to(dtype), **COUNTED)
        inputs = (torch.randn(2, 3, 32, 32, dtype=dtype),)
        assert str(report) == str(convert(name)[2])
    assert report.changed
    assert {parameter.dtype for parameter in new.parameters()} == {dtype}
    assert new.eval()(*inputs).dtype == dtype


def test_input_size_that_a_model_claims_wrongly_is_not_counted_for(caplog):
    model = transformer()
    model.default_cfg = {"input_size": (3, 224, 224)}
    _, report = mgic_vision.convert(model, **SIZES)
    assert report.changed
    assert report.multiply_adds_before is report.multiply_adds_after is None
    assert "VisionTransformer says that it takes inputs of (3, 224, 224)" in caplog.text
    with pytest.raises(AssertionError, match="224"):
        mgic_vision.convert(model, **SIZES, input_size=(3, 224, 224))
