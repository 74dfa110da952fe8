"""The function of section 4.2 that networks approximate."""

import math

import torch
from torch import Tensor

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
