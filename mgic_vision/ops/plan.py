"""Sizes and weights of a whole cycle as the kernel reads them."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mgic_geo.levels import Correction, Level, MGICBlock
from mgic_geo.ops.csrc.call import check_fields, read_constant
from mgic_geo.ops.operator import computes_as
from mgic_vision.layers import SqueezeExcite
from mgic_vision.ops.branch import Branch, is_nothing, read_branch
from mgic_vision.ops.kernel import FOLDER, is_pointwise
from mgic_vision.ops.packing import Store, pack_bias, pack_filter, pack_map, pad_channels

ABSENT = read_constant("plan.h", "ABSENT", FOLDER)
MAX_LEVELS = read_constant("plan.h", "MAX_LEVELS", FOLDER)


class LevelPlan(NamedTuple):
    """``level`` of plan.h: sizes, then where weights begin."""

    channels: int
    inner: int
    groups: int
    kernel: int
    first_kernel: int
    dilation: int
    depthwise: int
    activation: int
    pre: int
    squeezed: int
    coarse: int = 0
    restrict_groups: int = 1
    prolong_groups: int = 1
    restrict_activation: int = 0
    restrict_weight: int = ABSENT
    restrict_bias: int = ABSENT
    prolong_weight: int = ABSENT
    prolong_bias: int = ABSENT
    scale: int = ABSENT
    shift: int = ABSENT
    first_weight: int = ABSENT
    first_bias: int = ABSENT
    spatial_weight: int = ABSENT
    spatial_bias: int = ABSENT
    last_weight: int = ABSENT
    last_bias: int = ABSENT
    reduce_weight: int = ABSENT
    reduce_bias: int = ABSENT
    gate_weight: int = ABSENT
    gate_bias: int = ABSENT

    def multiply_adds(self, places: int) -> int:
        """Of one image with so many places, without the zeros that fill up vectors."""
        taps = (self.first_weight != ABSENT) * self.first_kernel**2 + (self.last_weight != ABSENT)
        outer = self.channels * self.inner // self.groups * taps
        seen = 1 if self.depthwise else self.inner // self.groups
        transfers = sum(
            self.channels * self.coarse // groups
            for groups in (self.restrict_groups, self.prolong_groups)
        )
        squeeze = 2 * self.squeezed * self.inner
        return places * (outer + self.inner * seen * self.kernel**2 + transfers) + squeeze


check_fields(LevelPlan, "plan.h", "level", FOLDER)


def read_cycle(cycle: MGICBlock) -> list[Branch] | None:
    """The parts of a cycle whose norms are folded.

    Returns ``None`` where the kernels do not know the layers or transfers, or it is additive.
    """
    if cycle.cycle != "multiplicative":
        return None
    found = [
        read_branch(layer, level) for layer, level in zip(cycle.layers, cycle.levels, strict=True)
    ]
    transfers = (*cycle.restrict, *cycle.prolong)
    known = [branch for branch in found if branch is not None]
    if len(known) < len(found) or not all(map(is_nothing, cycle.norms)):
        return None
    if not all(computes_as(correction, Correction) for correction in cycle.list_corrections()):
        return None
    if len(known) > MAX_LEVELS or not all(map(is_pointwise, transfers)):
        return None
    # the norm in front of the coarsest level is in the last restriction, and so is what follows it
    moved = [_is_moved(branch) for branch in known]
    return None if any(moved[:-1]) or (moved[-1] and len(known) == 1) else known


def pack_cycle(cycle: MGICBlock) -> tuple[Tensor, Tensor] | None:
    """Plan ``(levels, fields)`` and weights of a cycle, or ``None`` as :func:`read_cycle`."""
    branches = read_cycle(cycle)
    if branches is None:
        return None
    store, plans = Store(), []
    for number, (branch, level) in enumerate(zip(branches, cycle.levels, strict=True)):
        plan = _plan_branch(branch, level, store)
        if number + 1 < len(branches):
            restrict, prolong = cycle.restrict[number], cycle.prolong[number]
            after = branches[number + 1]
            plan = _add_transfers(plan, cast(nn.Conv2d, restrict), cast(nn.Conv2d, prolong), store)
            if _is_moved(after):
                plan = plan._replace(restrict_activation=after.activation)
        plans.append(plan)
    return torch.tensor(plans, dtype=torch.int64), store.joined()


def _is_moved(branch: Branch) -> bool:
    """Whether an activation in front of a branch has lost the norm before it."""
    return branch.leading and branch.norm is None


def _plan_branch(branch: Branch, level: Level, store: Store) -> LevelPlan:
    groups, first, spatial, last = level.groups, branch.first, branch.spatial, branch.last
    if branch.basic:  # the kernel has several taps in its first map, and leaves out its last
        first, spatial, last = spatial, last, None
    pack = pack_filter if branch.depthwise else pack_map
    plan = LevelPlan(
        *(level.outer, level.inner, groups),
        kernel=spatial.kernel_size[0],
        first_kernel=1 if first is None else first.kernel_size[0],
        dilation=spatial.dilation[0],
        depthwise=int(branch.depthwise),
        activation=branch.activation,
        pre=int(branch.norm is not None),
        squeezed=0,
        spatial_weight=store.add(pack(spatial.weight, groups)),
        spatial_bias=store.add(pack_bias(spatial.bias, level.inner, groups)),
    )
    if last is not None:
        plan = plan._replace(
            last_weight=store.add(pack_map(last.weight, groups)),
            last_bias=store.add(pack_bias(last.bias, level.outer, groups)),
        )
    if first is not None:
        plan = plan._replace(
            first_weight=store.add(pack_map(first.weight, groups)),
            first_bias=store.add(pack_bias(first.bias, level.inner, groups)),
        )
    if branch.norm is not None:
        scale, shift = _scale_and_shift(branch.norm)
        plan = plan._replace(scale=store.add(scale), shift=store.add(shift))
    return plan if branch.squeeze is None else _add_squeeze(plan, branch.squeeze, store)


def _add_transfers(
    plan: LevelPlan, restrict: nn.Conv2d, prolong: nn.Conv2d, store: Store
) -> LevelPlan:
    """R and P; each group of the level reads what its group of P does."""
    coarse = restrict.out_channels
    return plan._replace(
        coarse=coarse,
        restrict_groups=restrict.groups,
        prolong_groups=prolong.groups,
        restrict_weight=store.add(pack_map(restrict.weight, restrict.groups)),
        restrict_bias=store.add(pack_bias(restrict.bias, coarse, restrict.groups)),
        prolong_weight=store.add(pack_map(prolong.weight, plan.groups)),
        prolong_bias=store.add(pack_bias(prolong.bias, plan.channels, plan.groups)),
    )


def _add_squeeze(plan: LevelPlan, squeeze: SqueezeExcite, store: Store) -> LevelPlan:
    """Squeeze-excite reads and writes hidden channels, each group filled up to whole vectors."""
    reduce, gate = squeeze.reduce, squeeze.expand
    inputs = pad_channels(reduce.weight.reshape(reduce.out_channels, plan.groups, -1), 2)
    outputs = pad_channels(gate.weight.reshape(plan.groups, -1, gate.in_channels), 1)
    return plan._replace(
        squeezed=reduce.out_channels,
        reduce_weight=store.add(pack_map(inputs.flatten(1)[..., None, None], 1)),
        reduce_bias=store.add(pack_bias(reduce.bias, reduce.out_channels, 1)),
        gate_weight=store.add(pack_map(outputs.flatten(0, 1)[..., None, None], 1)),
        gate_bias=store.add(pack_bias(gate.bias, plan.inner, plan.groups)),
    )


def _scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """What a norm in evaluation mode does to each channel."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = torch.rsqrt(variance + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    return scale, (0 if norm.bias is None else norm.bias) - mean * scale
