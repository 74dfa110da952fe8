"""Slow, obvious reference versions: dense matrices, and loops over edges, channels and groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch_geometric.nn import EdgeConv


def block_diagonal(blocks: Tensor) -> Tensor:
    """(groups, out / groups, in / groups) as the dense (out, in) matrix it stands for."""
    groups, rows, columns = blocks.shape
    dense = blocks.new_zeros(groups * rows, groups * columns)
    for group in range(groups):
        own_rows = slice(group * rows, (group + 1) * rows)
        dense[own_rows, group * columns : (group + 1) * columns] = blocks[group]
    return dense


def matrices(maps: Iterable[torch.nn.Module]) -> list[Tensor]:
    """The dense matrix of every one of some grouped maps."""
    return [block_diagonal(each.weight) for each in maps]


def mgic_cycle(
    x: Tensor,
    layers: Sequence[Callable[[Tensor], Tensor]],
    restrictions: Sequence[Tensor],
    prolongations: Sequence[Tensor],
    norms: Sequence[Callable[[Tensor], Tensor]] | None = None,
) -> Tensor:
    """The cycle as its definition recurs: finest level first, transfers as dense matrices."""
    if not restrictions:
        return layers[0](x)
    norms = norms or [lambda correction: correction] * len(restrictions)
    coarse = x @ restrictions[0].T
    solved = mgic_cycle(coarse, layers[1:], restrictions[1:], prolongations[1:], norms[1:])
    return layers[0](x + norms[0]((solved - coarse) @ prolongations[0].T))


def additive_cycle(
    x: Tensor,
    layers: Sequence[Callable[[Tensor], Tensor]],
    restrictions: Sequence[Tensor],
    prolongations: Sequence[Tensor],
) -> Tensor:
    """The sum over the levels, each restricted and prolonged step by step."""
    total = layers[0](x)
    for level in range(1, len(layers)):
        part = x
        for restriction in restrictions[:level]:
            part = part @ restriction.T
        part = layers[level](part)
        for prolongation in reversed(prolongations[:level]):
            part = part @ prolongation.T
        total = total + part
    return total


def batch_norm(x: Tensor, norm: torch.nn.BatchNorm1d) -> Tensor:
    """Batch norm in evaluation, channel by channel."""
    columns = []
    for channel in range(x.size(1)):
        centered = x[:, channel] - norm.running_mean[channel]
        scaled = centered / (norm.running_var[channel] + norm.eps).sqrt()
        columns.append(scaled * norm.weight[channel] + norm.bias[channel])
    return torch.stack(columns, dim=1)


def neighbor_max(x: Tensor, edge_index: Tensor, num_targets: int) -> Tensor:
    """Channel-wise maximum over the sources of every target; 0 where there are none."""
    rows = []
    for target in range(num_targets):
        neighbors = [x[j] for j, i in edge_index.t().tolist() if i == target]
        rows.append(torch.stack(neighbors).amax(0) if neighbors else torch.zeros_like(x[0]))
    return torch.stack(rows)


def edge_conv(
    weight: Tensor, bias: Tensor | None, x: Tensor | tuple[Tensor, Tensor], edge_index: Tensor
) -> Tensor:
    """PyG's EdgeConv once for every group, on the channels of that group.

    weight is (groups, out / groups, 2 * in / groups), as in GroupedEdgeConv.
    """
    groups, rows, columns = weight.shape
    source, target = x if isinstance(x, tuple) else (x, x)
    outputs = []
    for group in range(groups):

        def linear(pair: Tensor, group: int = group) -> Tensor:
            y = pair @ weight[group].T
            return y if bias is None else y + bias[group * rows : (group + 1) * rows]

        own = slice(group * columns // 2, (group + 1) * columns // 2)
        outputs.append(EdgeConv(linear)((source[:, own], target[:, own]), edge_index))
    return torch.cat(outputs, dim=1)


def edge_gradients(
    pos: Tensor, edge_index: Tensor, batch: Tensor | None = None, softening: float = 0.0
) -> Tensor:
    """Edge by edge: h / degree * d / (|d|^2 + (s h)^2), h the mean edge length of its cloud."""
    edges = edge_index.t().tolist()
    clouds = [0] * pos.size(0) if batch is None else batch.tolist()
    real = [(j, i) for j, i in edges if (pos[j] - pos[i]).norm() > 0]
    rows = []
    for j, i in edges:
        if (j, i) not in real:
            rows.append(torch.zeros_like(pos[0]))
            continue
        lengths = [(pos[b] - pos[a]).norm() for b, a in real if clouds[a] == clouds[i]]
        mean_length = sum(lengths) / len(lengths)
        degree = sum(a == i for _, a in real)
        d = pos[j] - pos[i]
        rows.append(mean_length / degree * d / (d @ d + (softening * mean_length) ** 2))
    return torch.stack(rows)


def derivative(x: Tensor, edge_index: Tensor, weight: Tensor) -> Tensor:
    """Sum over the edges of every target of weight * (source - target)."""
    y = torch.zeros_like(x)
    for (j, i), w in zip(edge_index.t().tolist(), weight, strict=True):
        y[i] += w * (x[j] - x[i])
    return y


def diff_conv(
    weight: Tensor, bias: Tensor, x: Tensor, edge_index: Tensor, edge_attr: Tensor
) -> Tensor:
    """Seven maps theta for every group: identity, first derivatives, the same derivatives twice.

    weight is (groups, out / groups, 7 * in / groups), operators outermost in a row.
    """
    first = [derivative(x, edge_index, axis) for axis in edge_attr.t()]
    pairs = zip(first, edge_attr.t(), strict=True)
    second = [derivative(f, edge_index, axis) for f, axis in pairs]
    groups, _, columns = weight.shape
    width = columns // 7
    outputs = []
    for group in range(groups):
        own = slice(group * width, (group + 1) * width)
        thetas = weight[group].split(width, dim=1)
        terms = zip([x, *first, *second], thetas, strict=True)
        outputs.append(sum(f[:, own] @ theta.T for f, theta in terms))
    return torch.cat(outputs, dim=1) + bias
