"""Multigrid-in-channels layers and networks for graphs and point clouds.

Start here:

- :class:`MGICMessagePassing` replaces a graph convolution of PyTorch Geometric, and
  :class:`MGICLinear` a linear map.
- :func:`create_model` builds a point-cloud classifier; :func:`list_models` names them all.
- :func:`convert` replaces the convolutions of a network that exists.
- :func:`fuse` makes a trained network faster; :func:`explain` says which implementations run.
- :class:`MGICBlock` is the cycle itself, for layers of your own.
"""

import warnings

with warnings.catch_warnings():  # of PyG's own import, of which users can do nothing
    warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
    import torch_geometric.nn

from mgic_geo import conversion
from mgic_geo.blending import finish, set_blend, share_at
from mgic_geo.conversion import Report
from mgic_geo.convert import convert
from mgic_geo.cost import multiply_adds, num_weights
from mgic_geo.drawing import draw
from mgic_geo.fuse import fuse
from mgic_geo.graphs.derivatives import EdgeGradients, edge_gradients
from mgic_geo.graphs.neighbors import cloud_table, knn_graph, knn_indices
from mgic_geo.levels import (
    Correction,
    Level,
    MGICBlock,
    Residual,
    init_transfer_,
    level_plan,
)
from mgic_geo.models.dense import DensePointCloud
from mgic_geo.models.gnn import MGICGNN
from mgic_geo.models.point_cloud import PointCloudClassifier
from mgic_geo.models.registry import create_model, list_models, list_options
from mgic_geo.models.segmentation import PointCloudSegmenter, create_segmenter
from mgic_geo.models.weights import (
    WeightsError,
    build_with_weights,
    choose_checkpoint,
    list_pretrained,
    read_weights,
)
from mgic_geo.nn.diff_conv import DiffGCNConv
from mgic_geo.nn.edge_conv import GroupedEdgeConv
from mgic_geo.nn.grouped_conv import make_grouped_conv
from mgic_geo.nn.grouped_linear import GroupedLinear, transfer
from mgic_geo.nn.linear import MGICMLP, MGICLinear, feed_forward
from mgic_geo.nn.message_passing import MGICMessagePassing
from mgic_geo.nn.structured_linear import StructuredLinear, make_additive_conv
from mgic_geo.nn.width_change import WidthChange
from mgic_geo.ops.operator import explain
from mgic_geo.rates import param_groups

del torch_geometric, warnings  # names complete to what is public

__version__ = "0.1.0"

# what to start with comes first, as `help` shows it
__all__ = [  # noqa: RUF022
    "MGICMessagePassing",
    "MGICLinear",
    "create_model",
    "list_models",
    "list_options",
    "convert",
    "fuse",
    "explain",
    "MGICBlock",
    # layers
    "DiffGCNConv",
    "GroupedEdgeConv",
    "GroupedLinear",
    "StructuredLinear",
    "WidthChange",
    "feed_forward",
    "make_additive_conv",
    "make_grouped_conv",
    "transfer",
    # the cycle
    "Correction",
    "Level",
    "Residual",
    "init_transfer_",
    "level_plan",
    # graphs
    "EdgeGradients",
    "edge_gradients",
    "knn_graph",
    "knn_indices",
    "cloud_table",
    # networks
    "DensePointCloud",
    "MGICGNN",
    "MGICMLP",
    "PointCloudClassifier",
    "PointCloudSegmenter",
    "create_segmenter",
    "WeightsError",
    "build_with_weights",
    "choose_checkpoint",
    "list_pretrained",
    "read_weights",
    # training and conversion
    "param_groups",
    "Report",
    "conversion",
    "finish",
    "set_blend",
    "share_at",
    # what networks cost
    "draw",
    "multiply_adds",
    "num_weights",
]
