"""A cycle in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mgic_geo.levels import MGICBlock
from mgic_geo.ops.operator import Operator
from mgic_vision.ops.kernel import in_order, run_kernel
from mgic_vision.ops.packed import PackedModule, run_packed
from mgic_vision.ops.plan import LevelPlan, pack_cycle, read_cycle


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


def _cycle_fake(x: Tensor, plan: Tensor, weights: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


run_cycle = Operator("mgic_vision::cycle", _run_cycle, _cycle_fake)


@register_flop_formula(torch.ops.mgic_vision.cycle, get_raw=True)
def _flops(x: Tensor, plan: Tensor, weights: Tensor, **_: object) -> int:
    places = x.size(2) * x.size(3)
    return 2 * x.size(0) * sum(LevelPlan(*row).multiply_adds(places) for row in plan.tolist())


class NativeCycle(PackedModule, MGICBlock):
    """A cycle that runs in the compiled kernel where that can be, and else as it was.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns the same shape.
    """

    @classmethod
    def take(cls, cycle: MGICBlock) -> NativeCycle | None:
        """Make one of a cycle whose norms are folded, in place.

        Returns ``None``, and leaves the cycle alone, where the kernels do not know its parts.
        """
        if type(cycle) is not MGICBlock or read_cycle(cycle) is None:
            return None
        cycle.__class__ = cls
        assert isinstance(cycle, cls)
        return cycle

    def give_back(self) -> None:
        """Become the plain cycle again, in place."""
        self.__dict__.pop("_packed", None)
        self.__class__ = MGICBlock  # type: ignore[assignment]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the cycle."""
        size = x.shape
        images = len(size) == 4 and size[1] == self.levels[0].outer and not args and not kwargs
        # vectors are faster as products of matrices
        packed = self.packed_for(x) if images and size[2:] != (1, 1) else None
        if packed is None:
            return super().forward(x, *args, **kwargs)
        return run_packed(run_cycle, x, *packed)

    def pack(self) -> tuple[Tensor, Tensor] | None:
        """Sizes and weights as :func:`pack_cycle` lays them out."""
        return pack_cycle(self)
