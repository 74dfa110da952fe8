"""The blocks that :func:`mgic_vision.convert` knows, of torchvision and of timm."""

from __future__ import annotations

from typing import Any

from torch import nn

from mgic_geo.conversion import require
from mgic_vision.conversion.parts import ChannelScale, Parts, adapter, sequence
from mgic_vision.layers import Permute

TIMM = "timm.models._efficientnet_blocks"
#: Classes there, and the modules of their branches in order.
INVERTED = {
    "InvertedResidual": "conv_pw bn1 conv_dw bn2 aa se conv_pwl bn3",
    "DepthwiseSeparableConv": "conv_dw bn1 aa se conv_pw bn2",
    "EdgeResidual": "conv_exp bn1 aa se conv_pwl bn2",
    "ConvBnAct": "conv bn1 aa",
}


@adapter("torchvision.models.resnet.BasicBlock", "torchvision.models.resnet.Bottleneck")
def torchvision_resnet(block: Any) -> Parts:
    """Convolution and norm, two or three times, an activation in between and after the sum."""
    require(block.downsample is None, "changes width or resolution")
    modules = [block.conv1, block.bn1, block.relu, block.conv2, block.bn2]
    if hasattr(block, "conv3"):
        modules += [block.relu, block.conv3, block.bn3]
    return Parts(sequence(*modules), act=block.relu)


@adapter("timm.models.resnet.BasicBlock", "timm.models.resnet.Bottleneck")
def timm_resnet(block: Any) -> Parts:
    """As torchvision's, and attention over channels at the branch's end."""
    require(block.downsample is None and block.stride == 1, "changes width or resolution")
    basic = not hasattr(block, "conv3")
    modules = [block.conv1, block.bn1]
    if basic:
        modules += [block.drop_block, block.act1, block.aa, block.conv2, block.bn2]
    else:
        modules += [block.act1, block.conv2, block.bn2, block.drop_block, block.act2, block.aa]
        modules += [block.conv3, block.bn3]
    act = block.act2 if basic else block.act3
    return Parts(sequence(*modules, block.se), after=sequence(block.drop_path), act=act)


@adapter(
    "torchvision.models.mobilenetv2.InvertedResidual",
    "torchvision.models.mobilenetv3.InvertedResidual",
    "torchvision.models.efficientnet.MBConv",
    "torchvision.models.efficientnet.FusedMBConv",
)
def torchvision_inverted(block: Any) -> Parts:
    """The branch is a sequence of the block."""
    require(block.use_res_connect, "changes width or resolution")
    branch = block.conv if hasattr(block, "conv") else block.block
    return Parts(branch, after=sequence(dict(block.named_children()).get("stochastic_depth")))


@adapter(*(f"{TIMM}.{name}" for name in INVERTED))
def timm_inverted(block: Any) -> Parts:
    """Convolutions, each with a norm that has the activation in it, and squeeze-excite."""
    require(block.has_skip, "changes width or resolution, or has no shortcut")
    require(dict(block.named_children()).get("conv_s2d") is None, "moves space to channels")
    names = INVERTED[type(block).__name__].split()
    modules = [block.get_submodule(name) for name in names]
    return Parts(sequence(*modules), after=sequence(block.drop_path))


@adapter("torchvision.models.convnext.CNBlock")
def torchvision_convnext(block: Any) -> Parts:
    """The branch is a sequence of the block; layer scale follows."""
    scale = ChannelScale(block.layer_scale)
    return Parts(block.block, after=sequence(scale, block.stochastic_depth))


@adapter("timm.models.convnext.ConvNeXtBlock")
def timm_convnext(block: Any) -> Parts:
    """A depthwise convolution, a norm and a feed-forward map, with channels last or not."""
    require(type(block.shortcut) is nn.Identity, "changes width or resolution")
    inside = [block.norm, block.mlp]
    if not block.use_conv_mlp:
        inside = [Permute(0, 2, 3, 1), *inside, Permute(0, 3, 1, 2)]
    scale = None
    if block.gamma is not None:
        scale = ChannelScale(nn.Parameter(block.gamma.detach().reshape(-1, 1, 1)))
    return Parts(sequence(block.conv_dw, *inside), after=sequence(scale, block.drop_path))


@adapter(
    "torchvision.models.vision_transformer.MLPBlock",
    "torchvision.ops.misc.MLP",
    "timm.layers.mlp.Mlp",
)
def feed_forward(block: Any) -> Parts:
    """The whole map is the branch of the transformer's residual connection."""
    linear = [module for module in block.modules() if isinstance(module, nn.Linear)]
    require(linear, "maps no vectors with its channels last")
    require(linear[0].in_features == linear[-1].out_features, "changes width")
    return Parts(block, is_image=False, is_residual=False)
