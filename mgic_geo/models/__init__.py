"""Networks for point clouds and graphs, their registry and their weights."""
