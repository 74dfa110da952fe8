"""Networks as torch.fx, torchvision's feature extractor and torchvision's detectors take them."""

import copy

import pytest
import torch
from image_networks import MODELS, assert_equal, build, make_input, shift_norms
from torch import fx, nn
from torch.testing import assert_close
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.ops import FeaturePyramidNetwork

import mgic_vision
from mgic_geo import MGICBlock
from mgic_vision.layers import GroupedConv2d
from mgic_vision.norm import BatchNorm2d
from mgic_vision.ops.packed import PackedModule
from tests.slow import some

LEVELS = ("s8", "s16", "s32")
MASKS = [name for name in MODELS if name.startswith("lraspp")]


QUICK = (
    "function_mgic",
    "ghost_resnet56",
    "lraspp_mgic_small",
    "mgic_resnet56",
    "mobilenet_v3_small",
)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", some(MODELS, *QUICK))
def test_a_traced_network_computes_the_same(name, training):
    model = shift_norms(build(name)).train(training)
    traced = fx.symbolic_trace(copy.deepcopy(model))
    x = make_input(model, batch=4)
    with torch.no_grad():
        assert_equal(traced(x), model(x))
    buffers, found = dict(model.named_buffers()), dict(traced.named_buffers())
    for count in set(buffers) - set(found):  # torch.fx leaves out what timm's own norms count
        assert count.endswith("bn1.num_batches_tracked")
        del buffers[count]
    assert_close(found, buffers, rtol=1e-4, atol=1e-4)  # norms move on by one step


@pytest.mark.parametrize("name", ["mgic_resnet56", "mgic_mobilenetv3_small"])
def test_a_graph_names_the_layers_that_were_called(name):
    model = build(name)
    called = {n.target for n in fx.symbolic_trace(model).graph.nodes if n.op == "call_module"}
    layers = {n for n, m in model.named_modules() if isinstance(m, GroupedConv2d | BatchNorm2d)}
    assert layers <= called


@pytest.mark.parametrize("name", ["mgic_resnet50", "mgic_mobilenetv3_small"])
def test_a_fused_network_is_traced_with_its_kernels(name):
    fused = mgic_vision.fuse(shift_norms(build(name)))
    traced = fx.symbolic_trace(fused)
    packed = {n for n, m in fused.named_modules() if isinstance(m, PackedModule)}
    called = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert packed <= called
    x = make_input(fused)
    with torch.no_grad():
        assert_close(traced(x), fused(x), rtol=0, atol=0)


def test_a_traced_network_refuses_what_the_network_does():
    traced = fx.symbolic_trace(build("mgic_resnet56"))
    with pytest.raises(ValueError, match=r"input must be \(B, 3, H, W\), got \(2, 4, 8, 8\)"):
        traced(torch.rand(2, 4, 8, 8))


def test_a_cycle_alone_is_traced():
    cycle = next(m for m in build("mgic_resnet56").modules() if isinstance(m, MGICBlock)).eval()
    x = torch.randn(2, 16, 5, 5)
    assert_close(fx.symbolic_trace(nn.Sequential(cycle))(x), cycle(x))


@pytest.mark.parametrize("name", some(MODELS, *QUICK))
def test_torchvisions_extractor_gives_the_features_of_every_stride(name):
    model = build(name).eval()
    names = [info["module"] for info in model.feature_info]
    extractor = create_feature_extractor(model, {module: module for module in names}).eval()
    x = make_input(model)
    with torch.no_grad():
        found = extractor(x)
        expected = model.forward_features(x) if name in MASKS else model.features(x)
    assert_close([found[module] for module in names], list(expected.values()))


def test_nodes_are_the_same_in_training_and_evaluation():
    train, evaluation = get_graph_node_names(build("mgic_mobilenetv3_small"))
    assert train == evaluation


class Pyramid(nn.Module):
    """A backbone as torchvision's detectors want one, from features by node."""

    def __init__(self, name: str) -> None:
        super().__init__()
        model = build(name)
        info = {row["name"]: row for row in model.feature_info}
        nodes = {info[level]["module"]: level for level in LEVELS}
        self.body, self.out_channels = create_feature_extractor(model, nodes), 32
        self.fpn = FeaturePyramidNetwork([info[level]["num_chs"] for level in LEVELS], 32)

    def forward(self, x):
        return self.fpn(self.body(x))


@pytest.mark.parametrize("detector", [FasterRCNN, RetinaNet])
@pytest.mark.parametrize("name", ["mgic_mobilenetv3_small"])
def test_torchvisions_detectors_train_and_run_on_our_backbones(detector, name):
    anchors = AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3)
    kind = {"rpn_anchor_generator": anchors} if detector is FasterRCNN else {}
    if detector is RetinaNet:
        kind = {"anchor_generator": anchors}
    model = detector(Pyramid(name), 3, min_size=64, max_size=64, **kind)
    if detector is FasterRCNN:
        model.roi_heads.box_roi_pool.featmap_names = list(LEVELS)
    images = [torch.rand(3, 64, 48), torch.rand(3, 40, 64)]
    boxes = torch.tensor([[4.0, 4.0, 30.0, 30.0]])
    losses = model(images, [{"boxes": boxes, "labels": torch.tensor([1])}] * 2)
    sum(losses.values()).backward()
    grads = [p.grad for n, p in model.backbone.body.named_parameters() if "head" not in n]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    with torch.no_grad():
        found = model.eval()(images)
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2
