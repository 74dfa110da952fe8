"""Feed-forward maps of vision transformers, of torchvision and of timm."""

from __future__ import annotations

from typing import Any

from torch import nn

from mgic_geo.conversion import require
from mgic_vision.conversion.parts import Parts, adapter


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
