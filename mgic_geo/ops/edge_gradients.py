"""Weights of edges in derivatives, and the sparse matrices made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from mgic_geo.ops.compiled import why_not_compiled
from mgic_geo.ops.csrc import build
from mgic_geo.ops.inputs import check_axes
from mgic_geo.ops.operator import Kernel, Operation
from mgic_geo.ops.spmm import targets_of, transpose


def weigh_edges(
    pos: Tensor, source: Tensor, target: Tensor, cloud: Tensor, softening: float
) -> Tensor:
    """:func:`mgic_geo.edge_gradients` in operations that exporters know.

    Shape:
        - ``cloud``: ``(N,)``, numbers below N. Returns ``(E, 3)``.
    """
    d = pos.index_select(0, source) - pos.index_select(0, target)
    largest = d.abs().amax(1, keepdim=True)  # (E, 1)
    divisor, real = largest.where(largest > 0, 1.0), (largest > 0).to(d.dtype)
    unit = d / divisor  # no square of it over- or underflows
    length = largest * unit.norm(dim=1, keepdim=True)

    target = target.unsqueeze(1)
    edge_cloud = cloud.unsqueeze(1).gather(0, target)
    sums = pos.new_zeros(pos.size(0), 1)
    lengths, edges = (sums.scatter_add(0, edge_cloud, values) for values in (length, real))
    mean_length = lengths / edges.clamp_min(1)
    degree = sums.scatter_add(0, target, real).clamp_min(1)
    scale = mean_length.gather(0, edge_cloud) / divisor
    square = unit.square().sum(1, keepdim=True) + (softening * scale).square()
    # no less than 1 where an edge is real: its largest coordinate is 1
    return unit * (scale / square.clamp_min(1.0)) / degree.gather(0, target) * real


def _reference(
    pos: Tensor, source: Tensor, target: Tensor, batch: Tensor | None, softening: float
) -> Tensor:
    _check(pos, batch)
    return weigh_edges(pos, source, target, _cloud_places(pos, batch), softening)


def _check(pos: Tensor, batch: Tensor | None) -> None:
    check_axes(pos=(pos, 2))
    if not pos.is_floating_point():
        raise ValueError(f"pos must be floating point, got {pos.dtype}")
    if batch is not None:
        check_axes(batch=(batch, 1))
        if batch.dtype != torch.int64:
            raise ValueError(f"batch must be int64, got {batch.dtype}")


def _cloud_places(pos: Tensor, batch: Tensor | None) -> Tensor:
    """Clouds by the place of their first point when sorted: below N, whatever numbers they have."""
    if batch is None:
        return torch.zeros(pos.size(0), dtype=torch.long, device=pos.device)
    return torch.searchsorted(batch.sort().values, batch)


def _compiled(
    pos: Tensor, source: Tensor, target: Tensor, batch: Tensor | None, softening: float
) -> Tensor:
    _check(pos, batch)
    check_axes(source=(source, 1), target=(target, 1))
    if batch is not None and (batch[1:] >= batch[:-1]).all():
        cloud = batch.unique_consecutive(return_inverse=True)[1]
    else:
        cloud = _cloud_places(pos, batch)
    pos, source, target = pos.contiguous(), source.contiguous(), target.contiguous()
    value, lengths = pos.new_empty(source.numel(), 3), pos.new_empty(source.numel())
    sums = pos.new_zeros(3, pos.size(0), dtype=torch.double)
    build.run(
        *("mgic_edge_gradients", pos, source, target, cloud.contiguous(), softening),
        *(value, lengths, sums),
    )
    return value


#: ``(pos, source, target, batch, softening)``: see :func:`mgic_geo.edge_gradients`.
edge_weights = Operation(
    "mgic::edge_gradients",
    _reference,
    Kernel("compiled", _compiled, lambda pos, *_: why_not_compiled(pos=pos)),
    fake=lambda pos, source, *_: pos.new_empty(source.size(0), 3),
)


def count_crossings(targets: Tensor, sources: Tensor, num_nodes: int) -> Tensor:
    """Count for every node the edges that join nodes before it with it or later ones.

    Shape:
        - ``targets``, ``sources``: ``(E,)``. Returns ``(num_nodes + 1,)``.

    Example:
        >>> count_crossings(torch.tensor([0, 1, 2, 3]), torch.tensor([1, 0, 3, 2]), 4).tolist()
        [0, 2, 0, 2, 0]
    """
    change = targets.new_zeros(num_nodes + 2)
    change.index_add_(0, torch.minimum(targets, sources) + 1, torch.ones_like(targets))
    change.index_add_(0, torch.maximum(targets, sources) + 1, -torch.ones_like(targets))
    return change.cumsum(0)[:-1]


def _matrices_reference(ptr: Tensor, index: Tensor, edge_value: Tensor) -> list[Tensor]:
    check_axes(ptr=(ptr, 1), index=(index, 1))
    if edge_value.shape != (*index.shape, 3) or not edge_value.is_floating_point():
        raise ValueError(
            f"edge_value must be ({index.size(0)}, 3) floating point, got shape "
            f"{tuple(edge_value.shape)} of {edge_value.dtype}"
        )
    # the center's own weight, minus the sum of the others, as one more edge of every node
    num_nodes, edges = ptr.numel() - 1, index.numel()
    nodes = torch.arange(num_nodes, device=index.device)
    targets = targets_of(ptr, edges)
    real = targets < num_nodes  # padding is a loop at the last node
    targets = targets.clamp_max(num_nodes - 1)
    # a loop derives nothing; its weight and the node's own would only nearly cancel
    edge_value = edge_value * (index != targets).unsqueeze(1)
    own = edge_value.new_zeros(num_nodes, 3).index_add(0, targets, edge_value).neg()
    starts = ptr + torch.arange(num_nodes + 1, device=index.device)
    places = torch.arange(edges, device=index.device) + targets + (~real).long()
    joined = index.new_zeros(edges + num_nodes)
    joined = joined.scatter(0, places, index).scatter(0, starts[1:] - 1, nodes)
    values = edge_value.new_zeros(joined.numel(), 3)
    values = values.index_copy(0, places, edge_value).index_copy(0, starts[1:] - 1, own)
    ptr_t, index_t, perm = transpose(starts, joined, num_nodes)
    crossings = count_crossings(targets, index, num_nodes)
    return [starts, joined, values, ptr_t, index_t, values.index_select(0, perm), crossings]


def _matrices_compiled(ptr: Tensor, index: Tensor, edge_value: Tensor) -> list[Tensor]:
    check_axes(ptr=(ptr, 1), index=(index, 1), edge_value=(edge_value, 2))
    if int(ptr[-1]) != index.numel():  # padded
        return _matrices_reference(ptr, index, edge_value)
    ptr, index, edge_value = ptr.contiguous(), index.contiguous(), edge_value.contiguous()
    results = _matrices_fake(ptr, index, edge_value)
    build.run("mgic_derivative_operators", ptr, index, edge_value, *results)
    return results


def _matrices_fake(ptr: Tensor, index: Tensor, edge_value: Tensor) -> list[Tensor]:
    entries = index.size(0) + ptr.size(0) - 1
    matrix = torch.empty_like(ptr), index.new_empty(entries), edge_value.new_empty(entries, 3)
    return [*matrix, *map(torch.empty_like, matrix), torch.empty_like(ptr)]


#: ``(ptr, index, edge_value)``: the weights as sparse matrices with the own weight of every node in
#: them, and their transposes: fields of :class:`~mgic_geo.graphs.derivatives.DerivativeOperators`.
derivative_matrices = Operation(
    "mgic::derivative_operators",
    _matrices_reference,
    Kernel(
        "compiled", _matrices_compiled, lambda ptr, index, value: why_not_compiled(edge_value=value)
    ),
    fake=_matrices_fake,
)
