"""Numbers for points by which neighbors in space are near in memory, too."""

import torch
from torch import Tensor

BITS = 7  # of a coordinate: cells of a curve, 128 along every axis


def order_along_curve(pos: Tensor, batch: Tensor | None = None) -> Tensor:
    """The points of every cloud along a space-filling curve (Morton's), cloud after cloud.

    Args:
        pos: Coordinates.
        batch: The cloud of every point, in any order; ``None`` means a single cloud.

    Shape:
        - ``pos``: ``(N, 3)``. ``batch``: ``(N,)``. Returns ``(N,)``: the numbers they have here.

    Example:
        >>> order_along_curve(torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.1, 0, 0], [0.9, 1, 1]]))
        tensor([0, 2, 3, 1])
    """
    low, high = torch.aminmax(pos, dim=0)
    cells = 1 << BITS
    scale = (high - low).clamp_min(torch.finfo(pos.dtype).tiny).reciprocal() * cells
    cell = ((pos - low) * scale).long().clamp_(0, cells - 1)
    place = _spread_bits(pos.device)[cell] @ torch.tensor([1, 2, 4], device=pos.device)
    return (place if batch is None else place.add_(batch << 3 * BITS)).argsort()


def renumber(neighbors: Tensor, order: Tensor) -> Tensor:
    """Tables of neighbors for points in another order.

    Shape:
        - ``neighbors``: ``(N, k)``, -1 where there is none. ``order``: ``(N,)``, the numbers that
          the points have there. Returns ``(N, k)``.

    Example:
        >>> renumber(torch.tensor([[1], [2], [-1]]), torch.tensor([2, 0, 1]))
        tensor([[-1],
                [ 2],
                [ 0]])
    """
    numbers = order.new_full((order.numel() + 1,), -1)  # the last one is that of -1
    numbers[order] = torch.arange(order.numel(), device=order.device)
    return numbers[neighbors[order]]


def _spread_bits(device: torch.device) -> Tensor:
    """Two zeros between the bits of every number of a cell."""
    number = torch.arange(1 << BITS, device=device)
    bits = [(number >> bit & 1) << 3 * bit for bit in range(BITS)]
    return torch.stack(bits).sum(0)
