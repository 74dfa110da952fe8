"""Multigrid-in-channels layers and networks for graphs and point clouds."""

from mgic_geo.cost import multiply_adds as multiply_adds
from mgic_geo.cost import num_weights as num_weights
from mgic_geo.derivatives import EdgeGradients as EdgeGradients
from mgic_geo.derivatives import edge_gradients as edge_gradients
from mgic_geo.diff_conv import DiffGCNConv as DiffGCNConv
from mgic_geo.edge_conv import GroupedEdgeConv as GroupedEdgeConv
from mgic_geo.gnn import MGICGNN as MGICGNN
from mgic_geo.grouped_conv import make_grouped_conv as make_grouped_conv
from mgic_geo.grouped_linear import GroupedLinear as GroupedLinear
from mgic_geo.grouped_linear import transfer as transfer
from mgic_geo.levels import Level as Level
from mgic_geo.levels import MGICBlock as MGICBlock
from mgic_geo.levels import Residual as Residual
from mgic_geo.levels import init_transfer_ as init_transfer_
from mgic_geo.levels import level_plan as level_plan
from mgic_geo.linear import MGICMLP as MGICMLP
from mgic_geo.linear import MGICLinear as MGICLinear
from mgic_geo.linear import feed_forward as feed_forward
from mgic_geo.message_passing import MGICMessagePassing as MGICMessagePassing
from mgic_geo.neighbors import knn_graph as knn_graph
from mgic_geo.neighbors import knn_indices as knn_indices
from mgic_geo.point_cloud import PointCloudClassifier as PointCloudClassifier
from mgic_geo.registry import create_model as create_model
from mgic_geo.registry import list_models as list_models
