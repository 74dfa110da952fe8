"""Graphs: compressed adjacency, nearest neighbors, derivatives."""
