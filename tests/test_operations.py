"""Every operation of both packages: kernels equal the reference, and PyTorch's tools take it."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mgic_geo import (
    DiffGCNConv,
    GroupedEdgeConv,
    GroupedLinear,
    MGICLinear,
    MGICMessagePassing,
    explain,
    knn_graph,
)
from mgic_geo import edge_gradients as weigh
from mgic_geo.ops.grouped_linear import packing
from mgic_vision.layers import DepthwiseConv2d
from mgic_vision.norm import BatchNorm2d
from tests.kernels import needs_compiler
from tests.operators import OPERATIONS, PACKED, make_inputs

GRAPHS = {"value", "value_t", "crossings"}  # whose gradients the kernels leave to the reference
# whose kernels take float64, or no features at all
UNTYPED = {"spmm", "compress", "neighbor_max", "knn", "knn_between", "farthest"}
ON_GPUS = {"table_max", "table_sums", "table_sums_backward", "level"}  # have kernels there only
INPUTS = make_inputs(torch.Generator().manual_seed(0))


def test_every_operation_is_in_the_table():
    assert OPERATIONS.keys() == INPUTS.keys() | PACKED
    assert all(operation.kernels for operation in OPERATIONS.values())


def numbers(result) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


@needs_compiler
@pytest.mark.parametrize("name", sorted(INPUTS))
def test_every_kernel_equals_the_reference(name):
    operation, inputs = OPERATIONS[name], INPUTS[name]
    expected = numbers(operation.reference(*inputs))
    applied = 0
    for kernel in operation.kernels:
        if kernel.why_not(*inputs) is None:
            applied += 1
            found = numbers(kernel.run(*inputs))
            assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert applied or name in ON_GPUS


@pytest.mark.parametrize("name", sorted(INPUTS))
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_operator_keeps_the_rules_of_pytorch(name):
    operation = OPERATIONS[name]
    inputs = [
        x.clone().requires_grad_(operation.has_backward and name_of not in GRAPHS)
        if isinstance(x, Tensor) and x.is_floating_point()
        else x
        for name_of, x in zip(operation.names, INPUTS[name], strict=True)
    ]
    torch.library.opcheck(operation.registered, tuple(inputs))


class Sum(nn.Module):
    """The sum of what a layer makes of features, as a function of the features."""

    def __init__(self, layer: nn.Module, *inputs) -> None:
        super().__init__()
        self.layer, self.inputs = layer, inputs

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, *self.inputs).square().sum()


def make_layers() -> dict[str, tuple[nn.Module, Tensor, tuple]]:
    """Layers of both packages, features, and further inputs."""
    torch.manual_seed(0)
    pos = torch.rand(12, 3)
    edges = knn_graph(pos, 3)
    attr, plain = weigh(pos, edges), edges.as_tensor()
    x = torch.randn(12, 8)
    norms = {"norm_kwargs": {"track_running_stats": False}}
    images = torch.randn(2, 8, 5, 4).contiguous(memory_format=torch.channels_last)
    return {
        "GroupedLinear": (GroupedLinear(8, 8, groups=2), x, ()),
        "MGICLinear": (MGICLinear(8, group_size=2), x, ()),
        "GroupedEdgeConv": (GroupedEdgeConv(8, 8, groups=2), x, (plain,)),
        "DiffGCNConv": (DiffGCNConv(8, 8, groups=2), x, (plain, attr)),
        "MGIC edge": (
            MGICMessagePassing(8, 8, GroupedEdgeConv, group_size=2, **norms),
            *(x, (plain,)),
        ),
        "MGIC diff": (
            MGICMessagePassing(8, 8, DiffGCNConv, group_size=2, **norms),
            *(x, (plain, attr)),
        ),
        "DepthwiseConv2d": (DepthwiseConv2d(8, 8), images, ()),
        "BatchNorm2d": (BatchNorm2d(8, track_running_stats=False), images, ()),
    }


LAYERS = make_layers()


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_an_operation_stays_on_the_device_of_its_inputs(name):
    packing.cache_clear()
    with torch.device("meta"):
        found = numbers(OPERATIONS[name](*INPUTS[name]))
    assert_close(found, numbers(OPERATIONS[name](*INPUTS[name])), rtol=0, atol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_stays_on_the_device_of_its_inputs(name):
    layer, x, inputs = LAYERS[name]
    function, leaf = Sum(layer, *inputs), x.clone().requires_grad_()
    expected = torch.autograd.grad(function(leaf), leaf)
    packing.cache_clear()
    with torch.device("meta"):
        found = torch.autograd.grad(function(leaf), leaf)
    assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_works_under_every_transform(name):
    layer, x, inputs = LAYERS[name]
    function = Sum(layer, *inputs)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(leaf), leaf)
    assert_close(torch.func.grad(function)(x), slope, rtol=1e-4, atol=1e-4)
    along = torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]
    assert_close(along, slope.sum(), rtol=1e-3, atol=1e-2)
    each = torch.func.vmap(function)(torch.stack([x, 2 * x]))
    assert_close(each, torch.stack([function(x), function(2 * x)]).detach(), rtol=1e-4, atol=1e-3)
    assert_close(torch.func.jacrev(function)(x), slope, rtol=1e-4, atol=1e-4)
    rows = torch.func.vmap(torch.func.grad(function))(torch.stack([x, x]))
    assert_close(rows[1], slope, rtol=1e-4, atol=1e-4)


def test_an_operation_says_why_its_kernel_does_not_run():
    for name, operation in OPERATIONS.items():
        doubles = [
            x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
            for x in INPUTS.get(name, ())
        ]
        if name not in PACKED | ON_GPUS | UNTYPED:
            assert "float64" in str(operation.why_not(*doubles)), name


@needs_compiler
def test_a_fallback_is_an_error_where_kernels_are_required(monkeypatch):
    monkeypatch.setenv("MGIC_KERNELS", "require")
    layer = GroupedLinear(8, 8, groups=2)
    layer(torch.ones(2, 8))
    with pytest.raises(RuntimeError, match=r"no kernel of mgic::grouped_linear .*float64"):
        layer.double()(torch.ones(2, 8).double())


@needs_compiler
def test_a_network_is_explained():
    layer, x, inputs = LAYERS["MGIC edge"]
    text = str(explain(layer, x, *inputs))
    assert re.search(r"mgic::neighbor_max +compiled +3\n", text)
    assert re.search(r"reference +2  compiled: x has fewer than 256 rows$", text)
