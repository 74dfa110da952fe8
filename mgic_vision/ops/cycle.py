"""A cycle in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mgic_geo.levels import MGICBlock
from mgic_geo.ops.operator import Kernel, Operation
from mgic_vision.ops.kernel import in_order, run_kernel
from mgic_vision.ops.packed import PackedModule
from mgic_vision.ops.plan import LevelPlan, pack_cycle, read_cycle
from mgic_vision.tracing import leaf_of_fx


def _run_cycle(x: Tensor, plan: Tensor, weights: Tensor) -> Tensor:
    """Run a cycle as :func:`pack_cycle` describes it.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns the same, channels innermost.
    """
    x = in_order(x)
    y = torch.empty_like(x)
    batch, _, height, width = x.shape
    run_kernel("mgic_cycle", x, plan, weights, y, batch, height, width)
    return y


#: ``(x, plan, weights)``: a cycle as :func:`pack_cycle` lays it out. It has no other form than the
#: kernel: the module that packs itself is its reference.
run_cycle = Operation(
    "mgic_vision::cycle",
    _run_cycle,
    Kernel("compiled", _run_cycle, lambda *_: None),
    fake=lambda x, *_: torch.empty_like(x, memory_format=torch.channels_last),
)


@register_flop_formula(torch.ops.mgic_vision.cycle, get_raw=True)
def _flops(x: Tensor, plan: Tensor, weights: Tensor, **_: object) -> int:
    places = x.size(2) * x.size(3)
    return 2 * x.size(0) * sum(LevelPlan(*row).multiply_adds(places) for row in plan.tolist())


class NativeCycle(PackedModule, MGICBlock):
    """A cycle that runs in the compiled kernel where possible, and otherwise as it was.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns the same shape.
    """

    plain, operation = MGICBlock, "mgic_vision::cycle"

    @staticmethod
    def knows(module: MGICBlock) -> bool:
        """Whether it is made of layers and transfers that the kernel knows."""
        return read_cycle(module) is not None

    @leaf_of_fx
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the cycle."""
        images = x.dim() == 4 and x.size(1) == self.levels[0].outer and not args and not kwargs
        packed = self.packed_for(x) if images else None
        if packed is None:
            return super().forward(x, *args, **kwargs)
        return run_cycle.run_first(x, *packed)

    def pack(self) -> tuple[Tensor, Tensor] | None:
        """Sizes and weights as :func:`pack_cycle` lays them out."""
        return pack_cycle(self)
