"""Inverted residuals: MobileNetV2 and V3, EfficientNet and their kin, of torchvision and timm."""

from __future__ import annotations

from typing import Any

from mgic_geo.conversion import require
from mgic_vision.conversion.parts import Parts, adapter, sequence

TIMM = "timm.models._efficientnet_blocks"


@adapter(
    "torchvision.models.mobilenetv2.InvertedResidual",
    "torchvision.models.mobilenetv3.InvertedResidual",
    "torchvision.models.efficientnet.MBConv",
    "torchvision.models.efficientnet.FusedMBConv",
)
def torchvision_block(block: Any) -> Parts:
    """The branch is a sequence of the block."""
    require(block.use_res_connect, "changes width or resolution")
    branch = block.conv if hasattr(block, "conv") else block.block
    return Parts(branch, after=sequence(dict(block.named_children()).get("stochastic_depth")))


@adapter(*(f"{TIMM}.{name}" for name in ("InvertedResidual", "DepthwiseSeparableConv")))
@adapter(*(f"{TIMM}.{name}" for name in ("EdgeResidual", "ConvBnAct")))
def timm_block(block: Any) -> Parts:
    """Convolutions, each with a norm that has the activation in it, and squeeze-excite."""
    require(block.has_skip, "changes width or resolution, or has no shortcut")
    require(dict(block.named_children()).get("conv_s2d") is None, "moves space to channels")
    names = {
        "InvertedResidual": "conv_pw bn1 conv_dw bn2 aa se conv_pwl bn3",
        "DepthwiseSeparableConv": "conv_dw bn1 aa se conv_pw bn2",
        "EdgeResidual": "conv_exp bn1 aa se conv_pwl bn2",
        "ConvBnAct": "conv bn1 aa",
    }[type(block).__name__]
    modules = [block.get_submodule(name) for name in names.split()]
    return Parts(sequence(*modules), after=sequence(block.drop_path))
