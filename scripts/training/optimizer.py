"""The optimizer and the course of its learning rate."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from mgic_geo import param_groups


@dataclass(frozen=True)
class OptimizerSettings:
    """How the weights are trained.

    Args:
        kind: AdamW, or SGD with momentum.
        lr: Highest learning rate, reached after the warm-up.
        weight_decay: Share of each weight taken off per step and unit of learning rate.
        momentum: For SGD.
        schedule: ``cosine`` falls to zero over the whole run; ``step`` multiplies by
            ``step_factor`` every ``step_epochs``; ``poly`` falls to zero with every step, as the
            remaining share of the run to the power of ``poly_power``; ``constant`` stays.
        warmup_epochs: The rate rises linearly over these; fractions are fine.
        step_epochs: Epochs between two steps.
        step_factor: What a step multiplies the rate by.
        rates: ``equal`` for all weights, or by ``structure``, see :func:`mgic_geo.param_groups`.
        poly_power: Above 1 the rate falls faster at first, below 1 at the end.

    Raises:
        ValueError: A rate, decay or number of epochs that makes no sense.
    """

    kind: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: Literal["cosine", "step", "poly", "constant"] = "cosine"
    warmup_epochs: float = 1.0
    step_epochs: int = 30
    step_factor: float = 0.1
    poly_power: float = 0.9
    rates: Literal["equal", "structure"] = "equal"

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be above 0, got {self.lr}")
        for name in ("weight_decay", "momentum", "warmup_epochs", "poly_power"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.step_epochs < 1:
            raise ValueError(f"step_epochs must be at least 1, got {self.step_epochs}")

    def make_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer; its groups keep their highest rate as ``initial_lr``."""
        weights = param_groups(network, self.lr, rule=self.rates)
        for group in weights:
            group["initial_lr"] = group["lr"]
        if self.kind == "sgd":
            return torch.optim.SGD(
                weights, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
            )
        return torch.optim.AdamW(weights, lr=self.lr, weight_decay=self.weight_decay)

    def make_factor(self, steps_per_epoch: int, num_epochs: int) -> Callable[[int], float]:
        """Return the function from the number of steps taken to the share of ``lr``.

        Example:
            >>> factor = OptimizerSettings(warmup_epochs=1).make_factor(2, 3)
            >>> [round(factor(step), 3) for step in range(6)]
            [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
        """
        warmup = round(self.warmup_epochs * steps_per_epoch)
        rest = max(1, num_epochs * steps_per_epoch - warmup)

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            if self.schedule == "cosine":
                return (1 + math.cos(math.pi * min(1.0, (step - warmup) / rest))) / 2
            if self.schedule == "poly":
                return (1 - min(1.0, (step - warmup) / rest)) ** self.poly_power
            if self.schedule == "step":
                return self.step_factor ** (step // steps_per_epoch // self.step_epochs)
            return 1.0

        return factor


DEFAULT_OPTIMIZER = OptimizerSettings()
