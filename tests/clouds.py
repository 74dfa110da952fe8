"""Small networks on point clouds, and clouds for them."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mgic_geo import create_model, list_models

# each network, and cycles of the other kind
NETWORKS = [*list_models(), "mgic_dgcnn, additive", "mgic_diffgcn, additive"]


def make_network(name: str, *args, **options) -> nn.Module:
    """One of these."""
    torch.manual_seed(0)
    name, _, cycle = name.partition(", ")
    return create_model(name, *args, **({"cycle": cycle} if cycle else {}), **options)


def disturb_norms(model: nn.Module) -> None:
    """Give every norm statistics and an affine part, as training would."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d):
            for tensor in (norm.running_mean, norm.weight.data, norm.bias.data):
                nn.init.normal_(tensor)
            nn.init.uniform_(norm.running_var, 0.5, 2)


def shorten(model: nn.Module) -> nn.Module:
    """Take out those of six graph convolutions that are as the one before them."""
    if len(model.gconvs) == len(model.mlps) == 6:
        del model.gconvs[2:5], model.mlps[2:5]
    return model


def small(name: str, make=create_model, **options) -> nn.Module:
    """A narrow, short network in float64, of five classes, whose norms are as after training."""
    torch.manual_seed(0)
    group_size = {"group_size": 4} if name.startswith("mgic") else {}
    model = make(name, 5, **{"k": 4, "width": 8} | group_size | options).double()
    disturb_norms(model)
    return shorten(model) if make is create_model else model


def clouds(*sizes: int) -> tuple[Tensor, Tensor]:
    """Points of clouds of these sizes, and the cloud of each."""
    generator = torch.Generator().manual_seed(1)
    pos = torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64)
    return pos, torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def outputs_and_gradients(model: nn.Module, *inputs: object) -> list[Tensor]:
    """Of a network on clouds or images, with the same dropout each time."""
    torch.manual_seed(0)
    y = model(*inputs)
    target = torch.arange(len(y), device=y.device) % y.size(1)
    loss = functional.cross_entropy(y, target) if y.dim() == 2 else y.square().mean()
    return [y, *torch.autograd.grad(loss, list(model.parameters()))]
