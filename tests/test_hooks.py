"""A hook sees every call of its module, in every mode, whatever a kernel would skip."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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


NETWORKS = {
    "mgic_dgcnn": lambda: point_network("mgic_dgcnn"),
    "mgic_diffgcn": lambda: point_network("mgic_diffgcn"),
    "many rows": message_passing,
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
    uncalled = (nn.ModuleList, SumAggregation)  # PyG makes one for every convolution
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
