"""Tools that people use on networks of images take ours, converted ones too, and agree with us."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models import resnet18

from mgic_vision import convert, create_model, summary
from mgic_vision.layers import DepthwiseConv2d, GroupedConv2d
from mgic_vision.transfers import TransferConv2d

# what they warn of is theirs
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SHAPE = (3, 64, 64)
NAMES = ("mgic_mobilenetv3", "mgic_resnet50", "converted")
#: Tools that look modules up by their very class are told of ours.
CONVOLUTIONS = (GroupedConv2d, DepthwiseConv2d, TransferConv2d)
#: What counts as work there and not here.
OTHERS = (nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d)


def make(name):
    torch.manual_seed(0)
    if name == "converted":
        return convert(resnet18(num_classes=10), group_size=16, coarse_size=32)[0].eval()
    return create_model(name, num_classes=10).eval()


@pytest.fixture(params=NAMES)
def model(request):
    return make(request.param)


def images(number=2):
    return torch.rand(number, *SHAPE, generator=torch.Generator().manual_seed(0))


def by_torchinfo(model):
    torchinfo = pytest.importorskip("torchinfo")
    return torchinfo.summary(model, input_data=images(1), verbose=0).total_mult_adds


def by_fvcore(model):
    analysis = pytest.importorskip("fvcore.nn").FlopCountAnalysis(model, images(1))
    others = ("batch_norm", "adaptive_avg_pool2d")
    return sum(work for name, work in analysis.by_operator().items() if name not in others)


def by_ptflops(model):
    ptflops = pytest.importorskip("ptflops")
    hook = pytest.importorskip("ptflops.pytorch_ops").conv_flops_counter_hook
    options = {"as_strings": False, "print_per_layer_stat": False, "verbose": False}
    options |= {"custom_modules_hooks": dict.fromkeys(CONVOLUTIONS, hook), "backend": "pytorch"}
    options |= {"ignore_modules": list(OTHERS)}
    options |= {"backend_specific_config": {"count_functional": False}}  # sums and products
    return ptflops.get_model_complexity_info(model, SHAPE, **options)[0]


def by_thop(model):
    thop = pytest.importorskip("thop")
    count, none = thop.vision.basic_hooks.count_convNd, thop.vision.basic_hooks.zero_ops
    hooks = dict.fromkeys(CONVOLUTIONS, count) | dict.fromkeys(OTHERS, none)
    return thop.profile(model, (images(1),), custom_ops=hooks, verbose=False)[0]


@pytest.mark.parametrize("count", [by_torchinfo, by_fvcore, by_ptflops, by_thop])
def test_their_count_of_multiply_adds_is_ours_to_a_hundredth(count, model):
    ours = summary(model, SHAPE).total.multiply_adds
    assert count(model) == pytest.approx(ours, rel=0.01)


def test_grad_cam_shows_where_the_last_stage_looks(model):
    cams = pytest.importorskip("pytorch_grad_cam", exc_type=ImportError)
    last = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    with cams.GradCAM(model=model, target_layers=[last]) as cam:
        maps = cam(input_tensor=images(), targets=None)
    assert maps.shape == (2, *SHAPE[1:])
    assert np.isfinite(maps).all()
    assert maps.max() > 0


def test_captums_attributions_sum_up_to_the_change_of_the_score(model):
    attr = pytest.importorskip("captum.attr")
    model, x = model.double(), images().double()
    found = attr.IntegratedGradients(model).attribute(
        x, target=3, n_steps=64, internal_batch_size=32
    )
    with torch.no_grad():
        change = (model(x) - model(torch.zeros_like(x)))[:, 3]
    assert_close(found.sum((1, 2, 3)), change, rtol=0.05, atol=0.01 * change.abs().max().item())


def near(y, model, share):
    """Whether the scores differ from the network's by at most a share of their size."""
    with torch.no_grad():
        wanted = model(images())
    assert (torch.as_tensor(y) - wanted).norm() <= share * wanted.norm()


def test_linear_maps_in_dynamic_int8(model):
    with torch.no_grad():
        small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        assert any("quantized" in type(m).__module__ for m in small.modules())
        near(small(images()), model, 0.05)


def openvino_near(program, model):
    compiled = pytest.importorskip("openvino").compile_model(program, "CPU")
    near(compiled(images().numpy())[0], model, 0.01)


def test_openvino_with_an_exported_program(model):
    openvino = pytest.importorskip("openvino")
    program = torch.export.export(model, (images(),))
    openvino_near(openvino.convert_model(program), model)


def test_openvino_with_an_example(model):
    openvino = pytest.importorskip("openvino")
    openvino_near(openvino.convert_model(model, example_input=images()), model)


def test_openvino_says_that_a_module_needs_an_example(model):
    """Without one it asks for TorchScript, which takes no ``super()``."""
    openvino = pytest.importorskip("openvino")
    with pytest.raises(RuntimeError, match="please provide valid 'example_input'"):
        openvino.convert_model(model, input=[2, *SHAPE])


def written(model, path, dynamo):
    onnx_file = str(path / "model.onnx")
    torch.onnx.export(
        model, (images(),), onnx_file, dynamo=dynamo, input_names=["x"], verbose=False
    )
    return onnx_file


def run_onnx(onnx_file):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images().numpy()})[0]


@pytest.mark.parametrize("dynamo", [False, True], ids=["older", "newer"])
def test_onnx_of_both_exporters(model, dynamo, tmp_path):
    near(run_onnx(written(model, tmp_path, dynamo)), model, 1e-4)


@pytest.mark.parametrize("dynamo", [False, True], ids=["older", "newer"])
def test_onnx_runtime_in_int8(model, dynamo, tmp_path):
    tools = pytest.importorskip("onnxruntime.quantization")
    small = str(tmp_path / "small.onnx")
    # convolutions in int8 are those of unsigned weights
    tools.quantize_dynamic(
        written(model, tmp_path, dynamo), small, weight_type=tools.QuantType.QUInt8
    )
    near(run_onnx(small), model, 0.2)
