"""Small graphs, and the convolutions of PyG that tests put into cycles."""

from collections.abc import Sequence

import torch
import torch_geometric.nn as pyg
from torch import nn

from mgic_geo import GroupedEdgeConv
from mgic_geo.graphs.adjacency import Adjacency, to_adjacency
from mgic_geo.graphs.derivatives import DerivativeOperators, derivative_operators

NODES = 12


def draw_edges() -> torch.Tensor:
    """Edges without loops, each once; the last node has no neighbors, nor has the first."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(0, NODES, (40,), generator=generator)
    target = torch.randint(0, NODES - 1, (40,), generator=generator)
    return torch.stack([source, target])[:, source != target].unique(dim=1).contiguous()


EDGES = draw_edges()


def gin(in_channels: int, out_channels: int) -> nn.Module:
    return pyg.GINConv(pyg.MLP([in_channels, out_channels, out_channels], norm=None))


PYG = (pyg.GCNConv, pyg.SAGEConv, pyg.GraphConv, gin, pyg.GATConv, pyg.TransformerConv)
CONVS = {conv.__name__: conv for conv in (*PYG, GroupedEdgeConv)}

NUM_SOURCES, NUM_TARGETS = 6, 5
# unsorted, a self-loop, an edge that is there twice; source 5 and target 4 have no edges
BIPARTITE = torch.tensor([[3, 0, 1, 3, 2, 0, 4, 1], [2, 1, 0, 0, 2, 1, 3, 3]])


ADJACENCY = to_adjacency(BIPARTITE, NUM_SOURCES, NUM_TARGETS)


def padded(adjacency: Adjacency) -> Adjacency:
    """The same graph with three places behind its last edge."""
    loops = torch.full((3,), adjacency.num_targets - 1)
    return adjacency._replace(index=torch.cat([adjacency.index, loops]), order=None)


def features(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Of the sources."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(NUM_SOURCES, 3, generator=generator, dtype=torch.float64).to(dtype)


def operators_of(sizes: Sequence[int]) -> DerivativeOperators:
    """Derivatives in clouds of so many nodes, with an edge from the first of each to the last."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.tensor([0, *sizes]).cumsum(0)
    edges = [torch.stack([starts[:-1], starts[1:] - 1])]
    for start, size in zip(starts.tolist(), sizes, strict=False):
        edges.append(torch.randint(start, start + size, (2, 3 * size), generator=generator))
    edge_index = torch.cat(edges, dim=1)
    graph = to_adjacency(edge_index, sum(sizes), sum(sizes))
    return derivative_operators(graph, torch.randn(edge_index.size(1), 3, generator=generator) / 3)
