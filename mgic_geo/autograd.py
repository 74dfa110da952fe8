"""What the backward passes of several operators share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def differentiable_gradients(
    y: Tensor, inputs: Sequence[Tensor | None], grad: Tensor
) -> list[Tensor | None]:
    """Gradients that can be differentiated again; ``None`` for inputs that need none.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> differentiable_gradients(x**2, (x, None), torch.ones(1))
        [tensor([6.], grad_fn=<MulBackward0>), None]
    """
    needing = [x for x in inputs if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(y, needing, grad, create_graph=True))
    return [next(found) if x is not None and x.requires_grad else None for x in inputs]
