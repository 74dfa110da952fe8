"""Every operation of both packages, and valid inputs of each."""

from typing import Any

import torch

from mgic_geo.graphs.adjacency import to_adjacency
from mgic_geo.graphs.derivatives import derivative_operators
from scripts.benchmarks.kernels import operations
from tests.sparse_matrices import sparse_matrices

OPERATIONS = {operation.name.partition("::")[2]: operation for operation in operations()}
IN_TRITON = {
    name: kernel
    for name, operation in OPERATIONS.items()
    for kernel in operation.kernels
    if kernel.name == "triton"
}
PACKED = {"cycle", "grouped_conv"}  # vision/ops/test_cycle.py: what packs is the reference


def make_inputs(generator: torch.Generator, nodes: int = 300) -> dict[str, tuple[Any, ...]]:
    """Inputs of every operation that no module packs."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def images(*shape: int) -> torch.Tensor:
        return normal(*shape).contiguous(memory_format=torch.channels_last)

    edges = torch.randint(0, nodes, (2, 3 * nodes), generator=generator)
    graph = to_adjacency(edges, nodes, nodes)
    attr = normal(3 * nodes, 3) / 3
    ops = derivative_operators(graph, attr)
    (matrix,) = sparse_matrices(graph, normal(3 * nodes, 1))
    x, of_nodes, narrow = normal(300, 8), normal(nodes, 8), normal(nodes, 4)
    grad, spread = normal(300, 4), normal(300, 8)
    weight, bias, mix, small = normal(2, 2, 4), normal(4), normal(2, 2, 28), normal(2, 4, 2)
    row = torch.randint(0, nodes + 1, (nodes, 4), generator=generator)
    norm = normal(8), normal(8)
    # as forward passes return them
    _, of_x = OPERATIONS["batch_norm_act"].reference(x, *norm, 1e-5, 0)
    _, of_map = OPERATIONS["add_normalized_linear"].reference(spread, grad, small, *norm, 1e-5)
    batch = torch.arange(nodes) // (nodes // 3)
    counts, taps = torch.full((3,), nodes // 3), normal(6, 1, 3, 3)
    outer = normal(6, 2, 1, 1), None, taps, normal(6), normal(4, 3, 1, 1), normal(4)
    return {
        "grouped_linear": (x, weight, bias, grad),
        "grouped_linear_weight": (x, grad, 2),
        "mix_derivatives": (of_nodes, mix, bias, narrow, True, *ops),
        "mix_derivatives_backward": (narrow, of_nodes, mix, *ops),
        "derivative_operators": (graph.ptr, graph.index, attr),
        "edge_gradients": (normal(nodes, 3), *edges, batch, 0.5),
        "neighbor_max": (of_nodes, graph.ptr, graph.index),
        "table_max": (of_nodes, row[:, :3]),
        "table_sums": (narrow.unsqueeze(1), row[:, :3] % nodes, normal(nodes, 3, 3)),
        "table_sums_backward": (
            *(normal(nodes, 3, 4), row[:, :3] % nodes, normal(nodes, 3, 3), nodes, 1),
        ),
        "add_at_rows": (narrow, row, nodes),
        "spmm": (of_nodes, *matrix),
        "compress": (*edges, nodes, nodes),
        "knn": (normal(nodes, 3), batch, 3, "auto", None),
        "knn_between": (normal(nodes, 3), normal(nodes, 3), batch, batch.flip(0), 3, 1.5),
        "farthest": (normal(nodes, 3).double(), counts, counts // 2, counts - 1, nodes // 6 * 3),
        "batch_norm_act": (x, *norm, 1e-5, 1),
        "batch_norm_act_backward": (spread, x, *norm, of_x, 1e-5, 0),
        "add_normalized_linear": (spread, grad, small, *norm, 1e-5),
        "add_normalized_linear_backward": (spread, grad, small, *norm, of_map, 1e-5),
        "depthwise": (images(2, 6, 5, 4), taps, 1),
        "level": (images(2, 4, 5, 4), images(2, 4, 5, 4), *outer, 2, 1, 2),
        "depthwise_backward": (images(2, 6, 5, 4), images(2, 6, 5, 4), taps, 1, True, True),
    }
