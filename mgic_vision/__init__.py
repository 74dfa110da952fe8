"""Multigrid-in-channels networks for images.

Start here:

- :func:`create_model` builds a classifier, a segmenter or a backbone; :func:`list_models` names
  them all and :func:`list_options` their options.
- :func:`convert` replaces the residual blocks of a network of torchvision or timm.
- :func:`fuse` makes a trained network faster; :func:`explain` says which implementations run.
- :func:`summary` counts what the cycles of a network cost.
- :func:`mgic_unit` is the cycle as a layer, for networks of your own.
- :func:`register_with_timm` and :func:`register_with_torchvision` offer the networks there.
"""

from mgic_geo import (
    Report,
    WeightsError,
    draw,
    explain,
    finish,
    multiply_adds,
    num_weights,
    read_weights,
    set_blend,
)
from mgic_geo import __version__ as __version__
from mgic_vision.blocks import (
    basic_block,
    bottleneck,
    dense_level,
    ghost_bottleneck,
    inverted_residual,
)
from mgic_vision.conversion.convert import convert
from mgic_vision.conversion.parts import Parts
from mgic_vision.cost import Summary, summary
from mgic_vision.fusing import fuse
from mgic_vision.layers import GhostModule, GroupedConv2d, SqueezeExcite
from mgic_vision.merging import merge_groups
from mgic_vision.models.backbone import Backbone
from mgic_vision.models.interface import Head, ImageModel
from mgic_vision.models.lraspp import LRASPP
from mgic_vision.models.registration import register_with_timm, register_with_torchvision
from mgic_vision.models.registry import create_model, list_models, list_options
from mgic_vision.models.stages import Stages
from mgic_vision.transfers import TransferConv2d
from mgic_vision.units import depthwise_change, mgic_unit, pointwise_change

# what to start with comes first, as `help` shows it
__all__ = [  # noqa: RUF022
    "create_model",
    "list_models",
    "list_options",
    "convert",
    "fuse",
    "explain",
    "summary",
    "mgic_unit",
    "register_with_timm",
    "register_with_torchvision",
    # blocks and layers
    "basic_block",
    "bottleneck",
    "dense_level",
    "depthwise_change",
    "ghost_bottleneck",
    "GhostModule",
    "GroupedConv2d",
    "inverted_residual",
    "pointwise_change",
    "SqueezeExcite",
    "TransferConv2d",
    # networks
    "Backbone",
    "Head",
    "ImageModel",
    "LRASPP",
    "Stages",
    "Parts",
    "WeightsError",
    "read_weights",
    # what networks are made of and cost
    "Report",
    "Summary",
    "draw",
    "finish",
    "merge_groups",
    "multiply_adds",
    "num_weights",
    "set_blend",
]
