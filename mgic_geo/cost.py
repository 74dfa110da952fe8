"""What a network costs: weights and multiply-adds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def num_weights(model: nn.Module) -> int:
    """Learned numbers of a network.

    Example:
        >>> num_weights(nn.Linear(3, 4))
        16
    """
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, *inputs: Any, **kwargs: Any) -> int:
    """Multiply-adds of one forward pass in evaluation mode, by torch's own counter.

    Matrix products, convolutions and sparse products count; norms, activations, maxima and the
    search for neighbors do not.

    Args:
        model: The network; its mode is put back.
        *inputs: What it is called with.
        **kwargs: What it is called with.

    Example:
        >>> multiply_adds(nn.Linear(3, 4), torch.ones(5, 3))
        60
        >>> from mgic_geo import GroupedLinear
        >>> multiply_adds(GroupedLinear(64, 64, groups=8), torch.ones(1, 64))
        512
    """
    training = model.training
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(*inputs, **kwargs)
    finally:
        model.train(training)
    return counter.get_total_flops() // 2
