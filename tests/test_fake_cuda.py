"""Networks on tensors that claim to be on a GPU: a device forgotten in an ``arange`` fails here.

Nothing is computed, so that a value that the host reads, or a shape that depends on one, fails too.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

import mgic_geo
from mgic_geo.ops.knn import knn
from tests.clouds import shorten
from tests.image_networks import KINDS, MODELS, build, make_input
from tests.slow import some


def run(model: nn.Module, *inputs: object, call: Callable[..., Tensor] = functional_call) -> Tensor:
    """The model with tensors in place of its own that claim to be on a GPU."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {
        name: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")
        for name, x in state.items()
    }
    return call(model, state, inputs)


def clouds() -> tuple[Tensor, Tensor]:
    """Points, and the cloud of each."""
    batch = torch.arange(4, device="cuda").repeat_interleave(32, output_size=128)
    return torch.rand(128, 3, device="cuda"), batch


@pytest.mark.parametrize("name", mgic_geo.list_models())
def test_point_networks_run(name):
    model = shorten(mgic_geo.create_model(name))
    with FakeTensorMode():
        y = run(model, *clouds(), 4)
    assert (y.device.type, y.shape) == ("cuda", (4, 10))


@pytest.mark.parametrize("name", ["mgic_dgcnn", "mgic_diffgcn"])
def test_point_networks_of_additive_cycles_run(name):
    model = shorten(mgic_geo.create_model(name, cycle="additive")).eval()
    with FakeTensorMode():
        y = run(model, clouds()[0])
    assert (y.device.type, y.shape) == ("cuda", (1, 10))


@pytest.mark.parametrize("name", some(("diffgcn", "mgic_dgcnn"), "diffgcn"))
def test_what_a_gpu_runs_of_point_networks_is_one_graph(name):
    model = shorten(mgic_geo.create_model(name))
    torch.compiler.reset()
    compiled = torch.compile(
        lambda *inputs: functional_call(*inputs), backend="eager", fullgraph=True, dynamic=False
    )
    with FakeTensorMode():
        y = run(model, *clouds(), 4, call=compiled)
    assert (y.device.type, y.shape) == ("cuda", (4, 10))


# by default one of each graph, and a cycle; what is in front of the head is that of the above
@pytest.mark.parametrize("name", some(mgic_geo.list_models(), "dgcnn", "mgic_diffgcn", "pointnet"))
def test_point_segmenters_run(name):
    model = mgic_geo.create_segmenter(name, 5)
    with FakeTensorMode():
        y = run(model, *clouds(), 4)
    assert (y.device.type, y.shape) == ("cuda", (128, 5))


def test_a_search_needs_no_value():
    with FakeTensorMode():
        _, batch = clouds()
        table = mgic_geo.cloud_table(batch, 4)
        found = knn.run(torch.rand(128, 64, device="cuda"), batch, 10, "auto", table)
    assert (found.device.type, found.shape) == ("cuda", (128, 10))


# what is in front of the head of MGIC-MobileNetV3 is so in LR-ASPP, too
@pytest.mark.parametrize("name", some(MODELS, *sorted({*KINDS} - {"mgic_mobilenetv3_small"})))
def test_image_networks_run(name):
    model = build(name)
    shape = make_input(model).shape
    with FakeTensorMode():
        y = run(model, torch.rand(shape, device="cuda"))
    for each in y.values() if isinstance(y, dict) else [y]:
        assert each.device.type == "cuda"
