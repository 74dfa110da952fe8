"""A hook sees every call of its module, in every mode, whatever a kernel would skip.

A ``forward`` that a user wrote, in a subclass or for one module alone, is called as well.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import MethodType

import pytest
import torch
from torch import nn
from torch_geometric.nn import SumAggregation

import mgic_geo
import mgic_vision
from mgic_vision.layers import RELU
from tests.clouds import shorten

POINTS = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) // 20


def point_network(name: str):
    torch.manual_seed(0)
    return shorten(mgic_geo.create_model(name, 4, width=8, k=4, group_size=4)), POINTS


def message_passing():
    torch.manual_seed(0)
    layer = mgic_geo.MGICMessagePassing(32, 32, mgic_geo.GroupedEdgeConv, group_size=8)
    edges = torch.randint(0, 300, (2, 900), generator=torch.Generator().manual_seed(0))
    return layer, (torch.randn(300, 32), edges)


def block(make_layer):
    torch.manual_seed(0)
    unit = mgic_vision.mgic_unit(16, 16, make_layer, group_size=4, coarse_size=4)
    return unit, (torch.randn(2, 16, 6, 5).contiguous(memory_format=torch.channels_last),)


def images():
    torch.manual_seed(0)
    network = mgic_vision.create_model("mgic_resnet56", 4, depth=8, width=8, group_size=4)
    return network, (torch.randn(2, 3, 16, 16),)


NETWORKS = {
    "mgic_dgcnn": lambda: point_network("mgic_dgcnn"),
    "mgic_diffgcn": lambda: point_network("mgic_diffgcn"),
    "many rows": message_passing,
    "images": images,
    "basic": lambda: block(mgic_vision.basic_block),
    "inverted": lambda: block(
        lambda level: mgic_vision.inverted_residual(level, squeeze="every", activation=RELU)
    ),
}


@contextmanager
def seen(
    network: nn.Module, names: Iterable[str], register: str = "register_forward_hook"
) -> Iterator[set[str]]:
    """Names of the modules whose hooks were called meanwhile."""
    modules, called = dict(network.named_modules()), set()
    handles = [
        getattr(modules[name], register)(lambda *_, name=name: called.add(name)) for name in names
    ]
    yield called
    for handle in handles:
        handle.remove()


def modules_called(network: nn.Module) -> set[str]:
    uncalled = (nn.ModuleList, nn.ModuleDict, SumAggregation)  # PyG makes one for every convolution
    return {name for name, part in network.named_modules() if not isinstance(part, uncalled)}


@pytest.mark.parametrize("mode", ["training", "evaluation", "fused"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_hook_on_one_module_is_called_as_with_hooks_on_all(name, mode):
    network, inputs = NETWORKS[name]()
    network.train(mode == "training")
    if mode == "fused":
        network = (mgic_vision if inputs[0].dim() == 4 else mgic_geo).fuse(network)
    names = [name for name, _ in network.named_modules()]
    with torch.set_grad_enabled(mode == "training"):
        with seen(network, names) as everywhere:
            network(*inputs)
        assert everywhere == modules_called(network)
        for one in sorted(everywhere):
            with seen(network, [one]) as alone:
                network(*inputs)
            assert alone == {one}


@contextmanager
def another_forward(module: nn.Module, way: str) -> Iterator[list[nn.Module]]:
    """Calls of a ``forward`` that is put into a module, or comes with a subclass of its class."""
    calls, kind = [], type(module)

    def forward(self, *args, **kwargs):
        calls.append(self)
        return kind.forward(self, *args, **kwargs)

    if way == "subclass":
        module.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    else:
        module.forward = MethodType(forward, module)
    yield calls
    module.__class__ = kind
    vars(module).pop("forward", None)


@pytest.mark.parametrize("way", ["own", "subclass"])
@pytest.mark.parametrize("mode", ["training", "evaluation", "fused"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_forward_of_the_users_own_is_called(name, mode, way):
    network, inputs = NETWORKS[name]()
    network.train(mode == "training")
    package = mgic_vision if inputs[0].dim() == 4 else mgic_geo
    with torch.set_grad_enabled(mode == "training"):
        for one in modules_called(network):
            with another_forward(network.get_submodule(one), way) as calls:
                (package.fuse(network) if mode == "fused" else network)(*inputs)
            assert calls, one


@pytest.mark.parametrize("name", ["mgic_mobilenetv3_small", "resnet50", "lraspp_mgic_small"])
def test_every_module_of_a_network_for_images_is_called(name):
    network = mgic_vision.create_model(name, 4).eval()
    with torch.no_grad(), seen(network, [name for name, _ in network.named_modules()]) as called:
        network(torch.rand(1, 3, 64, 64))
    assert called == modules_called(network)


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_backward_hook_on_one_module_is_called_as_with_hooks_on_all(name, kind):
    network, (x, *others) = NETWORKS[name]()
    x.requires_grad_()
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # PyTorch refuses to change what such a hook watches
    with seen(network, [name for name, _ in network.named_modules()], kind) as everywhere:
        network(x, *others).sum().backward()
    assert everywhere == modules_called(network)
    for one in sorted(everywhere):
        with seen(network, [one], kind) as alone:
            network(x, *others).sum().backward()
        assert alone == {one}
