"""ResNet and ResNeXt, of torchvision and of timm."""

from __future__ import annotations

from typing import Any

from mgic_geo.conversion import require
from mgic_vision.conversion.parts import Parts, adapter, sequence


@adapter("torchvision.models.resnet.BasicBlock", "torchvision.models.resnet.Bottleneck")
def torchvision_block(block: Any) -> Parts:
    """Convolution and norm, two or three times, an activation in between and after the sum."""
    require(block.downsample is None, "changes width or resolution")
    modules = [block.conv1, block.bn1, block.relu, block.conv2, block.bn2]
    if hasattr(block, "conv3"):
        modules += [block.relu, block.conv3, block.bn3]
    return Parts(sequence(*modules), act=block.relu)


@adapter("timm.models.resnet.BasicBlock", "timm.models.resnet.Bottleneck")
def timm_block(block: Any) -> Parts:
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
