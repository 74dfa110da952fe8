"""A level of a cycle of inverted residuals, without squeeze-excite, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mgic_geo.levels import Features, Level, Residual, check_counts
from mgic_geo.ops.batch_norm_act import FUNCTIONS
from mgic_geo.ops.gpu.choice import why_not_multiply_in_triton, why_not_triton
from mgic_geo.ops.operator import Kernel, Operation, is_hooked
from mgic_vision.ops.branch import Branch, read_branch
from mgic_vision.ops.packed import PackedModule


def _reference(
    x: Tensor,
    addend: Tensor | None,
    first: Tensor | None,
    first_bias: Tensor | None,
    taps: Tensor,
    taps_bias: Tensor | None,
    last: Tensor,
    last_bias: Tensor | None,
    groups: int,
    dilation: int,
    activation: int,
) -> Tensor:
    maps = {"first": first, "taps": taps, "last": last}
    biases = {"first_bias": first_bias, "taps_bias": taps_bias, "last_bias": last_bias}
    _check(groups, x, taps, last, {**maps, **biases, "addend": addend})
    activate, margin = FUNCTIONS[activation], taps.size(2) // 2 * dilation
    if first is not None:
        x = activate(functional.conv2d(x, first, first_bias, groups=groups))
    x = functional.conv2d(x, taps, taps_bias, 1, margin, dilation, taps.size(0))
    y = functional.conv2d(activate(x), last, last_bias, groups=groups)
    return y if addend is None else addend + y


def _check(
    groups: int, x: Tensor, taps: Tensor, last: Tensor, given: Mapping[str, Tensor | None]
) -> None:
    """Raise where sizes do not fit, by the name of the first that does not.

    Raises:
        ValueError: With what was expected.
    """
    if x.dim() != 4 or not x.is_floating_point():
        shape = f"{x.dtype} of shape {tuple(x.shape)}"
        raise ValueError(f"x must be (B, C, H, W) and floating point, got {shape}")
    for name in ("first", "taps", "last"):
        weight = given[name]
        if weight is not None and (weight.dim() != 4 or not weight.numel()):
            raise ValueError(f"{name} must be the weight of a map, got {tuple(weight.shape)}")
    width, inner, outer, side = x.size(1), taps.size(0), last.size(0), taps.size(2) | 1
    check_counts(groups=groups)
    wanted = {
        "first": (inner, width // groups, 1, 1),
        "first_bias": (inner,),
        "taps": (inner, 1, side, side),
        "taps_bias": (inner,),
        "last": (outer, inner // groups, 1, 1),
        "last_bias": (outer,),
        "addend": (x.size(0), outer, *x.shape[2:]),
    }
    for name, shape in wanted.items():
        tensor = given[name]
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} must be {shape}, got shape {tuple(tensor.shape)}")


def _triton(x: Tensor, *inputs: Any) -> Tensor:
    from mgic_vision.ops.gpu.level import run_level

    return run_level(x, *inputs)


def _why_not(x: Tensor, *inputs: Any) -> str | None:
    reason = why_not_multiply_in_triton(x, *inputs[:7])
    return "x is empty" if reason is None and not x.numel() else reason


#: ``(x, addend, first, first_bias, taps, taps_bias, last, last_bias, groups, dilation,
#: activation)``: ``(B, C, H, W)`` through a grouped 1x1 map to the inner width, ``None`` where it
#: has that width, a filter of every channel and a grouped 1x1 map, with one of
#: :data:`~mgic_geo.ops.batch_norm_act.ACTIVATIONS` in between, added to ``addend`` or ``None``.
level = Operation(
    "mgic_vision::level",
    _reference,
    Kernel("triton", _triton, _why_not),
    fake=lambda x, addend, a, b, taps, c, last, *_: torch.empty_like(
        x[:, :1].expand(-1, last.size(0), -1, -1), memory_format=torch.channels_last
    ),
    flops=lambda x, addend, first, a, taps, b, last, *_, **__: (
        2 * x[0] * x[2] * x[3] * sum(w.numel() for w in (first, taps, last) if w is not None)
    ),
)


class FusedLevel(PackedModule, Residual):
    """A level whose branch runs in a kernel in Triton where possible, and otherwise as it was.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns the same shape.
    """

    plain, operation, kernel = Residual, "mgic_vision::level", "triton"

    @staticmethod
    def knows(module: Residual) -> bool:
        """Whether its branch is that of an inverted residual without squeeze-excite."""
        return _read(module) is not None

    def forward(self, x: Features, *args: object, **kwargs: object) -> Tensor:
        """Add the branch to ``x``."""
        packed = self.packed_for(x) if isinstance(x, Tensor) else None
        if packed is None or not isinstance(x, Tensor):
            return super().forward(x, *args, **kwargs)
        return level(x, x, *packed)

    def added(self, x: Features, *args: object, **kwargs: object) -> Tensor:
        """What the branch adds to ``x``."""
        packed = self.packed_for(x) if isinstance(x, Tensor) and not is_hooked(self) else None
        if packed is None:
            return super().added(x, *args, **kwargs)
        return level(x, None, *packed)

    def pack(self) -> tuple[Any, ...] | None:
        """Weights as they are, and what else :data:`level` takes."""
        branch = _read(self)
        if branch is None:
            return None
        convs = branch.first, branch.spatial, branch.last
        pairs = [(None, None) if conv is None else (conv.weight, conv.bias) for conv in convs]
        sizes = branch.last.groups, branch.spatial.dilation[0], branch.activation
        return *(each for pair in pairs for each in pair), *sizes

    @staticmethod
    def why_not(x: Tensor) -> str | None:
        """Why the kernel cannot take these images, in words."""
        return why_not_triton(x)

    @staticmethod
    def takes(weight: Tensor) -> bool:
        """Whether the kernel reads such a weight; the operation looks at its type."""
        return type(weight) in (Tensor, nn.Parameter) and not weight.is_inference()


def _read(layer: Residual) -> Branch | None:
    convs = [module for module in layer.branch.modules() if isinstance(module, nn.Conv2d)]
    if not convs:
        return None
    widths = convs[-1].out_channels, convs[-1].in_channels, convs[-1].groups
    branch = read_branch(layer, Level(0, *widths, finest=True, coarsest=True))
    if branch is None or branch.leading or branch.squeeze is not None:
        return None
    return branch if branch.depthwise and not branch.basic else None
