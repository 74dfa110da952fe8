"""A cycle in one call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mgic_geo.levels import MGICBlock
from mgic_vision.native import available, usable
from mgic_vision.native.kernel import PackedModule, run_kernel
from mgic_vision.native.plan import LevelPlan, plan_cycle


@torch.library.custom_op("mgic_vision::cycle", mutates_args=(), device_types="cpu")
def run_cycle(x: Tensor, plan: Tensor, weights: Tensor) -> Tensor:
    """Run a cycle as :func:`plan_cycle` describes it.

    Shape:
        - ``x``: ``(B, C, H, W)``, channels innermost. Returns the same.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty_like(x)
    batch, _, height, width = x.shape
    run_kernel(
        *("mgic_cycle", x, x.data_ptr(), y.data_ptr(), batch, height, width),
        *(plan.data_ptr(), plan.size(0), weights.data_ptr(), torch.get_num_threads()),
    )
    return y


@run_cycle.register_fake
def _(x: Tensor, plan: Tensor, weights: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@register_flop_formula(torch.ops.mgic_vision.cycle, get_raw=True)
def _flops(x: Tensor, plan: Tensor, weights: Tensor, **_: object) -> int:
    places = x.size(2) * x.size(3)
    return 2 * x.size(0) * sum(LevelPlan(*row).multiply_adds(places) for row in plan.tolist())


class NativeCycle(PackedModule):
    """A cycle that runs in the compiled kernel where that can be, and else as it was.

    Args:
        cycle: The cycle, its norms folded.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns the same shape.
    """

    def __init__(self, cycle: MGICBlock) -> None:
        super().__init__()
        self.cycle = cycle
        self.plan: Tensor | None
        self.weights: Tensor | None
        self.pack()

    def forward(self, x: Tensor) -> Tensor:
        """Run the cycle."""
        vectors = x.shape[-2:] == (1, 1)  # faster as products of matrices
        if self.plan is None or self.weights is None or vectors or not usable(x):
            return self.cycle(x)
        return run_cycle(x, self.plan, self.weights)

    def pack(self) -> None:
        """Lay out the weights, where there are kernels that know them."""
        plan, weights = (available() and plan_cycle(self.cycle)) or (None, None)
        self.register_buffer("plan", plan, persistent=False)
        self.register_buffer("weights", weights, persistent=False)
