"""The blocks of torchvision and timm that can be converted, for tests."""

import torch
import torchvision
from timm.layers import BatchNormAct2d
from torch import nn

SIZES = {"group_size": 8, "coarse_size": 16, "min_width": 16}
DICTIONARIES = {
    *("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"),
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
}


def tiny_blocks():
    """One small block of every kind that is known, and the class that it has."""
    from timm.layers import Mlp, SqueezeExcite
    from timm.models import _efficientnet_blocks as timm_blocks
    from timm.models.convnext import ConvNeXtBlock
    from timm.models.resnet import BasicBlock, Bottleneck
    from torchvision.models import convnext, efficientnet, mobilenetv2, mobilenetv3, resnet

    config = mobilenetv3.InvertedResidualConfig(32, 3, 64, 32, True, "HS", 1, 1, 1.0)
    mb = efficientnet.MBConvConfig(4, 3, 1, 32, 32, 1)
    fused = efficientnet.FusedMBConvConfig(4, 3, 1, 32, 32, 1)
    yield resnet.BasicBlock(32, 32)
    yield resnet.Bottleneck(128, 32)
    yield resnet.Bottleneck(64, 16, groups=8, base_width=32)
    yield BasicBlock(32, 32)
    yield Bottleneck(128, 32, attn_layer="se")
    yield mobilenetv2.InvertedResidual(32, 32, 1, 4)
    yield mobilenetv3.InvertedResidual(config, norm_layer=nn.BatchNorm2d)
    yield efficientnet.MBConv(mb, 0.0, nn.BatchNorm2d)
    yield efficientnet.FusedMBConv(fused, 0.0, nn.BatchNorm2d)
    yield timm_blocks.InvertedResidual(32, 32, exp_ratio=4, se_layer=SqueezeExcite)
    yield timm_blocks.DepthwiseSeparableConv(32, 32)
    yield timm_blocks.EdgeResidual(32, 32, exp_ratio=4)
    yield timm_blocks.ConvBnAct(32, 32, kernel_size=3, skip=True)
    yield convnext.CNBlock(32, 1.0, 0.0)
    yield ConvNeXtBlock(32, ls_init_value=1.0)
    yield ConvNeXtBlock(32, conv_mlp=True, use_grn=True, ls_init_value=None)
    yield torchvision.models.vision_transformer.MLPBlock(32, 128, 0.0)
    yield Mlp(32, 128)
    yield from blocks_of_timm()


def blocks_of_timm():
    """Blocks of whose classes nothing is known but what they compute."""
    from timm.layers import ConvMlp, GluMlp, SwiGLU
    from timm.models import byobnet, fastvit, regnet, resnest, resnetv2
    from timm.models._efficientnet_blocks import UniversalInvertedResidual

    yield regnet.Bottleneck(64, 64, bottle_ratio=1, group_size=8, se_ratio=0.25)
    yield resnetv2.PreActBottleneck(128, 128, bottle_ratio=0.25, norm_layer=BatchNormAct2d)
    yield resnetv2.PreActBasic(32, 32, bottle_ratio=1.0, norm_layer=BatchNormAct2d)
    yield UniversalInvertedResidual(32, 32, 5, 3, 0, exp_ratio=4.0, layer_scale_init_value=0.5)
    yield resnest.ResNestBottleneck(256, 64, radix=2)
    yield byobnet.MobileOneBlock(32, 32, num_conv_branches=2)
    yield fastvit.MobileOneBlock(32, 32, 3, use_se=True)
    yield ConvMlp(32, 128)
    yield GluMlp(32, 256)
    yield SwiGLU(32, 96)


BLOCKS = {f"{i}-{type(b).__module__}.{type(b).__name__}": b for i, b in enumerate(tiny_blocks())}


def features(block):
    is_image = any(isinstance(module, nn.Conv2d) for module in block.modules())
    return image_of(block) if is_image else torch.randn(2, 5, 32)


def image_of(block):
    first = next(m for m in block.modules() if isinstance(m, nn.Conv2d))
    return torch.randn(2, first.in_channels, 6, 6)


def assert_nothing_shared(model):
    """No two modules hold the same dictionary or set, whatever its name."""
    owners = {}
    for path, module in model.named_modules():
        held = {k: v for k, v in vars(module).items() if isinstance(v, dict | set | list)}
        assert held.keys() >= DICTIONARIES
        for name, value in held.items():
            other = owners.setdefault(id(value), f"{path}.{name}")
            assert other == f"{path}.{name}"
