"""ConvNeXt, of torchvision and of timm."""

from __future__ import annotations

from typing import Any

from torch import nn

from mgic_geo.conversion import require
from mgic_vision.conversion.parts import ChannelScale, Parts, Permute, adapter, sequence


@adapter("torchvision.models.convnext.CNBlock")
def torchvision_block(block: Any) -> Parts:
    """The branch is a sequence of the block; layer scale follows."""
    scale = ChannelScale(block.layer_scale)
    return Parts(block.block, after=sequence(scale, block.stochastic_depth))


@adapter("timm.models.convnext.ConvNeXtBlock")
def timm_block(block: Any) -> Parts:
    """A depthwise convolution, a norm and a feed-forward map, with channels last or not."""
    require(type(block.shortcut) is nn.Identity, "changes width or resolution")
    inside = [block.norm, block.mlp]
    if not block.use_conv_mlp:
        inside = [Permute(0, 2, 3, 1), *inside, Permute(0, 3, 1, 2)]
    scale = None
    if block.gamma is not None:
        scale = ChannelScale(nn.Parameter(block.gamma.detach().reshape(-1, 1, 1)))
    return Parts(sequence(block.conv_dw, *inside), after=sequence(scale, block.drop_path))
