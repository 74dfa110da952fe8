"""Graphs: compressed adjacency, nearest neighbors, derivatives.

Searches and sampling are called as in torch-cluster and PyTorch Geometric, and give exact and
repeatable results without either:

============================================  ================================================
instead of                                    write
============================================  ================================================
``torch_cluster.knn_graph``                   :func:`mgic_geo.graphs.knn_graph`
``torch_cluster.knn``                         :func:`mgic_geo.graphs.knn`
``torch_cluster.radius_graph``                :func:`mgic_geo.graphs.radius_graph`
``torch_cluster.radius``                      :func:`mgic_geo.graphs.radius`
``torch_cluster.fps``                         :func:`mgic_geo.graphs.fps`
``torch_geometric.nn.knn_interpolate``        :func:`mgic_geo.graphs.knn_interpolate`
``torch_geometric.nn.DynamicEdgeConv``        :class:`mgic_geo.nn.dynamic_edge_conv.DynamicEdgeConv`
============================================  ================================================
"""

from mgic_geo.graphs.between import knn, radius, radius_graph
from mgic_geo.graphs.neighbors import knn_graph
from mgic_geo.graphs.sampling import fps, knn_interpolate

__all__ = ["fps", "knn", "knn_graph", "knn_interpolate", "radius", "radius_graph"]
