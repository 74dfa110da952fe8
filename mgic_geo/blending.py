"""Gradual conversion: the original layer beside the cycle that will replace it."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class Blend(nn.Module):
    r"""An original layer and its replacement, :math:`a f(x) + (1 - a) g(x)`.

    Both run and both are trained; ``share`` is :math:`a`, a buffer that is saved with the weights.

    Args:
        original: The layer :math:`f`.
        replacement: The layer :math:`g`.

    Shape:
        - Inputs: what both take. Returns what both return.

    Example:
        >>> blend = Blend(nn.Linear(4, 4), nn.Linear(4, 4))
        >>> x = torch.ones(2, 4)
        >>> torch.equal(blend(x), blend.original(x))
        True
    """

    share: Tensor

    def __init__(self, original: nn.Module, replacement: nn.Module) -> None:
        super().__init__()
        self.original, self.replacement = original, replacement
        self.register_buffer("share", torch.ones(()))
        self.train(original.training)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run both layers and mix what they return."""
        old, new = self.original(*args, **kwargs), self.replacement(*args, **kwargs)
        return torch.lerp(new, old, self.share.to(old))


def set_blend(model: nn.Module, share: float) -> None:
    """Set how much of the originals is left in a network of ``convert(..., gradual=True)``.

    Args:
        model: The network.
        share: :math:`a`, from 1, the original network, to 0, the converted one.

    Raises:
        ValueError: If ``share`` is not from 0 to 1, or the network has no :class:`Blend`.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    for blend in _blends(model):
        blend.share.fill_(share)


def share_at(progress: float, until: float = 0.5) -> float:
    """The share of the originals at a point of the training: from 1 to 0 by a cosine.

    Args:
        progress: Share of the training steps that are over.
        until: Share after which the originals do not count any more, above 0 and at most 1.

    Raises:
        ValueError: If ``until`` is not above 0 and at most 1.

    References:
        Wei et al., Building on Efficient Foundations, 2024, section 3.2, a self-guided start.

    Example:
        >>> [round(share_at(progress), 3) for progress in (0, 0.25, 0.5, 1)]
        [1.0, 0.5, 0.0, 0.0]
    """
    if not 0 < until <= 1:
        raise ValueError(f"until must be above 0 and at most 1, got {until}")
    return (1 + math.cos(math.pi * min(1.0, progress / until))) / 2


def finish(model: Model) -> Model:
    """Drop the originals of a network of ``convert(..., gradual=True)``.

    Args:
        model: The network, whose blends are at 0; it is changed.

    Returns:
        The network: another module only where it is a :class:`Blend` itself.

    Raises:
        ValueError: If some of the originals still count, or the network has no :class:`Blend`.

    Example:
        >>> model = nn.Sequential(Blend(nn.Linear(4, 4), nn.Linear(4, 4)))
        >>> set_blend(model, 0.0)
        >>> finish(model)
        Sequential(
          (0): Linear(in_features=4, out_features=4, bias=True)
        )
    """
    left = max(float(blend.share) for blend in _blends(model))
    if left:
        raise ValueError(
            f"the originals still count with {left:g}: train with set_blend(model, 0) first"
        )
    for name, module in list(model.named_modules(remove_duplicate=False)):  # at all its places
        if name and isinstance(module, Blend):
            model.set_submodule(name, module.replacement)
    return model.replacement if isinstance(model, Blend) else model  # type: ignore[return-value]


def _blends(model: nn.Module) -> list[Blend]:
    """Every blend of a network.

    Raises:
        ValueError: If there is none.
    """
    found = [module for module in model.modules() if isinstance(module, Blend)]
    if not found:
        raise ValueError("the network has nothing to blend: convert it with gradual=True")
    return found
