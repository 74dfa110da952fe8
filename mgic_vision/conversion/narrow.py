"""Copies of a block's branch at the widths and with the groups of a level."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mgic_geo import GroupedLinear
from mgic_geo.conversion import drop_hooks, require, shared_hooks
from mgic_geo.levels import Level, group_count, reset_parameters
from mgic_vision.conversion.parts import coarse_form
from mgic_vision.conversion.squeeze import is_squeeze

GATED = 2
MIXING_NORMS = (nn.GroupNorm, nn.InstanceNorm2d)
Widths = dict[int, int]
#: What a branch may be made of.
MODULES = (
    "a branch of convolutions, linear maps, norms of every channel, activations and attention over "
    "channels"
)


def branch_widths(branch: nn.Module) -> tuple[int, int]:
    """Outer and inner width of a branch.

    Raises:
        NotConvertible: If it changes the width, has more than two widths, weights that two modules
            share or modules that are not understood, or mixes no channels.
    """
    ends: list[tuple[int, int]] = []
    depthwise = 0
    found = leaves(branch)
    weights = [id(weight) for leaf in found for weight in leaf.parameters()]
    require(len(weights) == len(set(weights)), "shares weights between two of its modules")
    for leaf in (as_linear(leaf) or leaf for leaf in found):
        if isinstance(leaf, nn.Conv2d | nn.Linear):
            _check_plain(leaf)
        if isinstance(leaf, nn.Conv2d):
            require(set(leaf.stride) == {1}, "changes the resolution", known="a stride of 1")
            depthwise += is_depthwise(leaf)
            ends.append((leaf.in_channels, leaf.out_channels))
        elif isinstance(leaf, nn.Linear):
            ends.append((leaf.in_features, leaf.out_features))
        elif not is_squeeze(leaf):
            _check_vectors(leaf)
    require(ends, "has no convolution or linear map")
    nothing = "is depthwise: a cycle over channels would save nothing"
    require(depthwise < len(ends), nothing, known="a map between channels beside it")
    outer = ends[0][0]
    changes = f"changes the width from {outer} to {ends[-1][1]}"
    require(ends[-1][1] == outer, changes, known=f"a way back to {outer}")
    inner = {width for pair in ends for width in pair} - {outer}
    least = min(inner, default=outer)
    twice = {least, GATED * least}  # halves of one map, of which one gates the other
    more = f"has more than two widths: {outer}, {sorted(inner)}"
    require(inner <= twice, more, known="one inner width, or twice that for a gate")
    return outer, least


def leaves(branch: nn.Module) -> list[nn.Module]:
    """Modules that are copied as one: squeeze-excite, and what has no weights in modules inside it.

    Raises:
        NotConvertible: If a module has weights of its own and others in modules inside it.
    """
    children = list(branch.children())
    own = any(True for _ in branch.parameters(recurse=False))
    inside = any(True for child in children for _ in child.parameters())
    if is_squeeze(branch) or not children or (own and not inside):  # a norm with its activation
        return [branch]
    require(not own, f"does not understand {type(branch).__name__}", known=MODULES)
    return list(dict.fromkeys(leaf for child in children for leaf in leaves(child)))


def as_linear(leaf: nn.Module) -> nn.Linear | None:
    """A linear map of another class: Hugging Face's ``Conv1D``, whose weight is ``(in, out)``."""
    if type(leaf).__name__ != "Conv1D" or isinstance(leaf, nn.Conv1d):
        return None
    held = dict(leaf.named_parameters())
    linear = nn.Linear(held["weight"].size(0), held["weight"].size(1), device="meta")
    linear.weight = nn.Parameter(held["weight"].detach().T)
    linear.bias = nn.Parameter(held["bias"].detach())
    return linear.train(leaf.training)


def is_depthwise(leaf: nn.Module) -> bool:
    """Whether this is a convolution of every channel alone."""
    return isinstance(leaf, nn.Conv2d) and leaf.groups == leaf.in_channels == leaf.out_channels


def _check_plain(leaf: nn.Module) -> None:
    """Pruned, normalized and standardized weights are computed from others."""
    state = {name for name, _ in (*leaf.named_parameters(), *leaf.named_buffers())}
    others = sorted(state - {"weight", "bias"})
    computed = f"does not understand {type(leaf).__name__} with {', '.join(others)}"
    require(not others, computed, known="a weight that is a parameter")


def _check_vectors(leaf: nn.Module) -> None:
    known = all(tensor.dim() < 2 for tensor in leaf.state_dict().values())
    known = known and not isinstance(leaf, MIXING_NORMS)
    require(known, f"does not understand {type(leaf).__name__}", known=MODULES)


def narrow(branch: nn.Module, level: Level, finest: Level, *, project: bool) -> nn.Module:
    """Copy a branch for one level.

    Convolutions and linear maps get the level's groups, a depthwise convolution stays depthwise,
    and one that has groups already keeps their width where they are the narrower ones. Norms are
    made as wide as the level, squeeze-excite is on the finest level only, the rest is copied. A
    module without weights that stands at two places becomes two. Hooks are those of the finest
    level only, whose widths they know.

    Args:
        branch: As the block had it.
        level: Its widths and groups are those of the copy.
        finest: Level 0, whose widths are those of ``branch``.
        project: Whether the finest level starts from the branch's own weights, of which the groups
            keep what is within a group; otherwise all maps start anew, with outputs of the
            variance that they had.
    """
    widths = {GATED * finest.inner: GATED * level.inner}
    widths |= {finest.outer: level.outer, finest.inner: level.inner}
    keep = project and level.finest
    memo = shared_hooks(branch)
    for leaf in leaves(branch):
        memo[id(leaf)] = _narrow_leaf(leaf, widths, level, memo, keep=keep)
    new: nn.Module = copy.deepcopy(branch, memo)  # what is replaced is not copied on the way
    if not level.finest:
        drop_hooks(new)
    _separate(new)
    return new


def _separate(branch: nn.Module) -> None:
    """Give modules without weights that stand at several places a copy at each."""
    seen: set[nn.Module] = set()
    for name, module in list(branch.named_modules(remove_duplicate=False)):
        if module in seen and not (list(module.parameters()) or list(module.buffers())):
            branch.set_submodule(name, copy.deepcopy(module, shared_hooks(module)))
        seen.add(module)


def _narrow_leaf(
    leaf: nn.Module, widths: Widths, level: Level, memo: dict[int, Any], *, keep: bool
) -> nn.Module:
    if is_squeeze(leaf):
        if not level.finest:
            return coarse_form(leaf).train(leaf.training)
        squeeze = copy.deepcopy(leaf, memo)
        if not keep:
            reset_parameters(squeeze)
        return squeeze
    leaf = as_linear(leaf) or leaf
    if isinstance(leaf, nn.Conv2d):
        return _narrow_conv(leaf, widths, level, memo, keep=keep)
    if isinstance(leaf, nn.Linear):
        return _narrow_linear(leaf, widths, level, keep=keep)
    return _narrow_vectors(leaf, widths, memo, keep=keep)


def _narrow_conv(
    conv: nn.Conv2d, widths: Widths, level: Level, memo: dict[int, Any], *, keep: bool
) -> nn.Conv2d:
    in_channels, out_channels = widths[conv.in_channels], widths[conv.out_channels]
    groups = level.groups
    if conv.groups > 1:
        own = group_count(in_channels, out_channels, group_size=conv.in_channels // conv.groups)
        groups = max(own, groups)
    weight = conv.weight.new_empty((out_channels, in_channels // groups, *conv.kernel_size))
    if keep:
        weight.copy_(_blocks(conv.weight, conv.groups, groups))
    else:
        _draw_(weight, conv.weight)
    memo[id(conv.weight)] = nn.Parameter(weight)
    memo[id(conv.bias)] = _bias(conv.bias, out_channels, keep=keep)
    new = copy.deepcopy(conv, memo)  # of its own class, with its padding
    new.in_channels, new.out_channels, new.groups = in_channels, out_channels, groups
    return new


def _draw_(new: Tensor, old: Tensor) -> None:
    """Draw a weight ``(out, in / groups, ...)`` whose outputs vary as those of ``old``.

    For inputs of one variance that do not depend on each other, the variance of an output is the
    sum of squares of its row times theirs; that sum becomes the mean over the rows of ``old``.
    """
    if new.is_meta:  # there it takes most of the time
        return
    per_row = old.detach().flatten(1).square().sum(1).mean()
    new.normal_().mul_((per_row / new[0].numel()).sqrt())


def _blocks(weight: Tensor, old: int, new: int) -> Tensor:
    """What is within the new groups of a weight ``(out, in / old, ...)`` with old groups."""
    require(new % old == 0, f"its {old} groups are no union of {new} groups")
    out, step = weight.size(0), new // old
    kept = weight.size(1) // step
    rows = weight.detach().unflatten(0, (old, step, out // new))
    parts = [rows[:, i, :, i * kept : (i + 1) * kept] for i in range(step)]
    return torch.stack(parts, 1).flatten(0, 2)


def _narrow_linear(linear: nn.Linear, widths: Widths, level: Level, *, keep: bool) -> nn.Module:
    new = GroupedLinear(
        widths[linear.in_features],
        widths[linear.out_features],
        groups=level.groups,
        bias=linear.bias is not None,
    ).to(linear.weight)
    rows = new.weight.detach().flatten(0, 1)  # (groups, out, in) -> (groups * out, in)
    if keep:
        rows.copy_(_blocks(linear.weight, 1, level.groups))
    else:
        _draw_(rows, linear.weight)
    new.bias = _bias(linear.bias, new.out_channels, keep=keep)
    return new.train(linear.training)


def _bias(bias: Tensor | None, width: int, *, keep: bool) -> nn.Parameter | None:
    if bias is None:
        return None
    return nn.Parameter(bias.detach().clone() if keep else bias.new_zeros(width))


def _narrow_vectors(
    leaf: nn.Module, widths: Widths, memo: dict[int, Any], *, keep: bool
) -> nn.Module:
    """Norms and activations: what they hold a channel, and the widths they note.

    Scales and shifts stay, those of the first channels on coarser levels. A batch norm after a map
    that starts anew is told the variance that this starts with, the mean over channels, and no
    mean: the map's weights have both signs.
    """
    new = copy.deepcopy(leaf, memo)
    for module in new.modules():
        for name, tensor in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ):
            if tensor.dim() == 1 and tensor.numel() in widths:
                part: Any = tensor.detach()[: widths[tensor.numel()]].clone()
                if isinstance(tensor, nn.Parameter):
                    part = nn.Parameter(part, tensor.requires_grad)
                setattr(module, name, part)
    noted = vars(new)
    for name in {"num_features", "num_channels"} & noted.keys():
        noted[name] = widths.get(noted[name], noted[name])
    if "normalized_shape" in noted:
        noted["normalized_shape"] = tuple(widths.get(n, n) for n in noted["normalized_shape"])
    if isinstance(leaf, _BatchNorm) and leaf.running_var is not None and not keep:
        assert isinstance(new, _BatchNorm)
        assert new.running_var is not None
        new.reset_running_stats()
        new.running_var.copy_(leaf.running_var.mean())
    return new
