"""Learning rates by the structure of a network."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch_geometric.nn as pyg
from torch import Tensor, nn

from mgic_geo.levels import MGICBlock
from mgic_geo.nn.grouped_linear import GroupedLinear

RULES = ("structure", "equal")


def param_groups(model: nn.Module, lr: float, *, rule: str = "structure") -> list[dict[str, Any]]:
    r"""Parameter groups for an optimizer of Adam's kind, each with its learning rate.

    Adam's steps are as large for every weight, whatever it multiplies. A dense map of width
    :math:`C` sums :math:`C` inputs; a map of a cycle sums fewer, and stands in a product with the
    transfers that lead to its level. So that the sum moves as much as the dense map's would, a
    weight of ``k`` inputs on a way of ``f`` factors gets

    .. math::
        \eta \cdot \frac{C}{k} \cdot \frac{1}{f}, \qquad f = 2 j + 1 \text{ on level } j

    where a transfer counts to the coarser of its two levels. Biases, norms and all that is not in a
    cycle get :math:`\eta`; so do convolutions whose maps are of other classes than PyTorch's,
    PyG's and this package's.

    Args:
        model: The network.
        lr: :math:`\eta`.
        rule: ``"structure"``, or ``"equal"`` for :math:`\eta` everywhere.

    Returns:
        Groups with ``params`` and ``lr``, the largest rate first; every parameter once.

    Raises:
        ValueError: If ``lr`` is not above 0 or ``rule`` unknown.

    References:
        Qiu, Potapczynski, Finzi, Goldblum and Wilson, Compute Better Spent: Replacing Dense Layers
        with Structured Matrices, ICML 2024, section 3.

    Example:
        >>> from mgic_geo import MGICLinear
        >>> layer = MGICLinear(16, group_size=4, coarse_size=8)
        >>> [(group["lr"], len(group["params"])) for group in param_groups(layer, 0.75)]
        [(3.0, 1), (2.0, 1), (1.0, 1), (0.75, 2), (0.5, 1)]
    """
    if not lr > 0:
        raise ValueError(f"lr must be above 0, got {lr}")
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    factors: dict[Tensor, float] = {}
    for block in (module for module in model.modules() if isinstance(module, MGICBlock)):
        shrinks = [block.levels[0].outer / level.outer for level in block.levels]
        for level, layer in enumerate(block.layers):
            factors |= _factors(layer, shrinks[level], 2 * level + 1)
        for level, (down, up) in enumerate(zip(block.restrict, block.prolong, strict=True), 1):
            factors |= _factors(down, shrinks[level - 1], 2 * level + 1)
            factors |= _factors(up, shrinks[level], 2 * level + 1)
    groups = defaultdict(list)
    for parameter in model.parameters():
        factor = factors.get(parameter, 1.0) if rule == "structure" else 1.0
        groups[lr * factor].append(parameter)
    return [{"params": groups[rate], "lr": rate} for rate in sorted(groups, reverse=True)]


def _factors(module: nn.Module, shrink: float, chain: int) -> dict[Tensor, float]:
    """How many times ``lr`` the weights of the maps in ``module`` get."""
    found = {}
    for part in module.modules():
        if isinstance(part, GroupedLinear | nn.Conv2d):
            found[part.weight] = part.groups * shrink / chain
        elif isinstance(part, nn.Linear | pyg.Linear):
            found[part.weight] = shrink / chain
    return found
