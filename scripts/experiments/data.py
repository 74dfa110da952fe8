"""Data of short trainings: the function of section 4.2, and digits."""

import functools
import math

import torch
from torch import Tensor

from datasets.mnist5k import mnist5k

# x, y, a, b
LOW = (0.0, 0.0, 0.0, 1.0)
HIGH = (2 * math.pi, 2 * math.pi, 1.0, 2.0)


def function(points: Tensor) -> Tensor:
    """Equation 4.1, a cos(bx) sin(cy).

    Shape:
        - ``points``: ``(N, 5)``. Returns ``(N, 1)``.

    Example:
        >>> function(torch.tensor([[0.0, math.pi / 20, 0.5, 1.0, 10.0]]))
        tensor([[0.5000]])
    """
    x, y, a, b, c = points.unbind(1)
    return (a * torch.cos(b * x) * torch.sin(c * y)).unsqueeze(1)


def draw_points(count: int, c_range: tuple[float, float], seed: int) -> Tensor:
    """Draw points of the function with frequencies c from a range, ``(count, 5)``."""
    low, high = (torch.tensor((*ends, end)) for ends, end in zip((LOW, HIGH), c_range, strict=True))
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 5, generator=generator).mul_(high - low).add_(low)


@functools.cache
def digits(split: str, size: int = 32) -> tuple[Tensor, Tensor]:
    """All images ``(N, 3, size, size)`` of a split of mnist5k, and their classes ``(N,)``."""
    data = mnist5k(split, size=size)
    return torch.stack([data[row].image for row in range(len(data))]), torch.tensor(data.targets)


def digit_batches(size: int = 32) -> list[tuple[Tensor, Tensor]]:
    """The test images of mnist5k in batches."""
    return list(zip(*(part.split(250) for part in digits("test", size)), strict=True))
