"""The networks of mgic_vision's registry for tests: less deep, and with norms that do something."""

import importlib.util
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import assert_close

from mgic_vision import (
    Backbone,
    Stages,
    basic_block,
    bottleneck,
    create_model,
    inverted_residual,
    list_models,
    mgic_unit,
)
from mgic_vision.layers import HARDSWISH, conv_norm_act
from mgic_vision.models.interface import Head, ImageModel

# timm is optional: without it the walk leaves out what comes from there
FROM_TIMM = {"ghostnet_050", "ghostnet_100", "ghostnet_130"}
MODELS = [
    name
    for name in list_models()
    if name not in FROM_TIMM or importlib.util.find_spec("timm") is not None
]

# one of every kind: vectors, each library, masks, each block
KINDS = (
    *("function_mgic", "ghost_resnet56", "ghostnet_050", "lraspp_mgic_small"),
    *("mgic_mobilenetv3_small", "mgic_resnet50", "mgic_resnet56", "mobilenet_v3_small", "resnet56"),
)

# full width at less depth, where depth only repeats, or half the width
SHALLOW = {
    "function_ghost": {"c_max": 64},
    "function_mgic": {"c_max": 64},
    "function_mobilenetv3": {"c_max": 64},
    "ghost_resnet56": {"depth": 8},
    "mgic_mobilenetv3_small": {"width": 0.5},
    "mgic_resnet50": {"layers": (2, 1, 1, 1)},
    "mgic_resnet56": {"depth": 8},
    "resnet56": {"depth": 8},
}


def build(name: str, seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    options = {**SHALLOW.get(name, {}), **options}
    return make_small() if name == "small" else create_model(name, **options)


def make_small() -> ImageModel:
    """A cycle of each kind, the first with squeeze-excite, and changes of width and resolution."""
    sizes, stages = {"group_size": 4, "coarse_size": 4}, Stages(8, 2)
    squeezing = partial(inverted_residual, squeeze="every", activation=HARDSWISH)
    stages.add(mgic_unit(8, 16, squeezing, inner=32, stride=2, **sizes), 16, stride=2)
    stages.add(mgic_unit(16, 16, basic_block, **sizes), 16)
    stages.add(mgic_unit(16, 32, bottleneck, inner=8, stride=2, **sizes), 32, stride=2)
    backbone = Backbone(conv_norm_act(3, 8, kernel_size=3, stride=2), stages)
    return ImageModel(backbone, Head(32, 10))


def make_input(model: nn.Module, height: int = 64, width: int = 64, batch: int = 2):
    torch.manual_seed(1)
    size = model.input_size
    return torch.randn(batch, *size) if len(size) == 1 else torch.randn(batch, 3, height, width)


def shift_norms(model: nn.Module) -> nn.Module:
    """Give every norm its own scale, shift and statistics; they may be negative."""
    generator = torch.Generator().manual_seed(0)
    for norm in norms(model):
        for parameter in norm.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def assert_equal(y, expected):
    scale = expected.abs().max()
    assert_close(y / scale, expected / scale, rtol=0, atol=1e-4)
