"""Graphs: compressed adjacency, nearest neighbors, derivatives.

Searches and sampling take the arguments of torch-cluster and PyTorch Geometric, in their order, and
do not need torch-cluster. Points of a cloud need not lie side by side.
"""

from mgic_geo.graphs.between import knn, radius, radius_graph
from mgic_geo.graphs.neighbors import knn_graph
from mgic_geo.graphs.sampling import fps, knn_interpolate

__all__ = ["fps", "knn", "knn_graph", "knn_interpolate", "radius", "radius_graph"]
