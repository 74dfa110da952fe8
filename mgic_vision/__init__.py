"""Multigrid-in-channels networks for images."""

from mgic_vision.blocks import basic_block as basic_block
from mgic_vision.blocks import bottleneck as bottleneck
from mgic_vision.blocks import dense_level as dense_level
from mgic_vision.blocks import ghost_bottleneck as ghost_bottleneck
from mgic_vision.blocks import inverted_residual as inverted_residual
from mgic_vision.convert import convert as convert
from mgic_vision.fuse import fuse as fuse
from mgic_vision.layers import GhostModule as GhostModule
from mgic_vision.layers import GroupedConv2d as GroupedConv2d
from mgic_vision.layers import SqueezeExcite as SqueezeExcite
from mgic_vision.merging import merge_groups as merge_groups
from mgic_vision.models.backbone import Backbone as Backbone
from mgic_vision.models.backbone import Stages as Stages
from mgic_vision.models.interface import Head as Head
from mgic_vision.models.interface import ImageModel as ImageModel
from mgic_vision.models.lraspp import LRASPP as LRASPP
from mgic_vision.models.registration import register_at_import as _register_at_import
from mgic_vision.models.registration import register_with_timm as register_with_timm
from mgic_vision.models.registration import register_with_torchvision as register_with_torchvision
from mgic_vision.models.registry import create_model as create_model
from mgic_vision.models.registry import list_models as list_models
from mgic_vision.models.registry import list_options as list_options
from mgic_vision.summary import Summary as Summary
from mgic_vision.summary import summary as summary
from mgic_vision.transfers import TransferConv2d as TransferConv2d
from mgic_vision.units import depthwise_change as depthwise_change
from mgic_vision.units import mgic_unit as mgic_unit
from mgic_vision.units import pointwise_change as pointwise_change

_register_at_import()
