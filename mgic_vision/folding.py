"""Batch norms of a trained network folded into the linear maps next to them: exact, per channel."""

from __future__ import annotations

import copy
import logging
from itertools import pairwise
from typing import Any, TypeGuard, cast

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from mgic_geo.levels import Correction, MGICBlock, Residual
from mgic_geo.ops.operator import computes_as, has_own_forward
from mgic_vision.norm import BATCH_NORMS, Chain
from mgic_vision.ops.kernel import can_change
from mgic_vision.tracing import Shallow

logger = logging.getLogger(__name__)


def fold_norms_(module: nn.Module) -> nn.Module:
    """Fold every norm inside a network that stands next to a linear map, in place.

    Folded are norms that follow a convolution or a linear layer, the norms N of a cycle into its
    prolongations P and, where the coarsest level begins with a norm, that one into the last
    restriction: in correction form nothing else reads what it gives. A norm after a sum (the first
    one of a pre-activation block on the finer levels) has to stay.

    Args:
        module: The network, in evaluation mode.

    Example:
        >>> layer = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> fold_norms_(layer)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): Sequential()
          (2): ReLU()
        )
    """
    if type(module) is Chain:
        module.__class__ = nn.Sequential  # type: ignore[assignment]  # one in training only
    if isinstance(module, MGICBlock) and computes_as(module, MGICBlock):
        _fold_cycle(module)  # first: corrections without norms need not be traced
    for child in module.children():
        fold_norms_(child)
    if computes_as(module, nn.Sequential):
        _fold_sequence(cast(nn.Sequential, module))
    elif isinstance(module, nn.ModuleList | nn.ModuleDict) or type(module) is nn.Module:
        pass  # their order says nothing about what follows what
    elif isinstance(module, fx.GraphModule) or any(map(is_norm, module.children())):
        _fold_traced(module)
    return module


def is_norm(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether a module is a batch norm, and does what it says: a subclass may do otherwise."""
    return isinstance(module, _BatchNorm) and (
        computes_as(module, *BATCH_NORMS) or _has_act(module)
    )


def _has_act(norm: nn.Module) -> bool:
    """Whether this is a norm of timm's that applies dropout and activation, its children, too."""
    from_timm = type(norm).forward.__module__ == "timm.layers.norm_act"
    return from_timm and not has_own_forward(norm)


def can_fold(linear: nn.Module, norm: nn.Module) -> bool:
    """Whether a norm can go into the weights of the map before it."""
    return (
        isinstance(linear, nn.Conv2d | nn.Linear)
        and can_change(linear)
        and is_norm(norm)
        and norm.running_mean is not None
        and norm.num_features == linear.weight.size(0)  # others are over another axis
    )


def rest_of(norm: nn.Module) -> nn.Module:
    """What a norm does beside normalizing: nothing, but for timm's with an activation inside."""
    return nn.Sequential(*norm.children()) if _has_act(norm) else nn.Sequential()


def folded(linear: nn.Module, norm: nn.Module) -> nn.Module:
    """A linear map that equals ``norm(linear(x))``; rounded once where it is in half precision."""
    linear, norm = cast(nn.Conv2d | nn.Linear, linear), cast(_BatchNorm, norm)
    dtype = linear.weight.dtype
    if dtype in (torch.half, torch.bfloat16):
        linear, norm = copy.deepcopy(linear).float(), copy.deepcopy(norm).float()
    if isinstance(linear, nn.Linear):
        return fuse_linear_bn_eval(linear, norm).to(dtype)
    return fuse_conv_bn_eval(linear, norm).to(dtype)


def _fold_cycle(cycle: MGICBlock) -> None:
    for correction in cycle.list_corrections():
        norm = correction.norm
        if computes_as(correction, Correction) and can_fold(correction.transfer, norm):
            correction.transfer, correction.norm = folded(correction.transfer, norm), rest_of(norm)
    coarsest = cycle.layers[-1]
    branch = coarsest.branch if computes_as(coarsest, Residual) else None
    if not len(cycle.restrict) or not isinstance(branch, nn.Sequential) or not len(branch):
        return
    name, first = next(branch.named_children())
    if can_fold(cycle.restrict[-1], first):
        cycle.restrict[-1] = folded(cycle.restrict[-1], first)
        branch.set_submodule(name, rest_of(first))


def _fold_sequence(sequence: nn.Sequential) -> None:
    children = list(zip(sequence._modules, sequence, strict=True))  # also one at several places
    for (name, linear), (after, norm) in pairwise(children):
        if can_fold(linear, norm):
            sequence.set_submodule(name, folded(linear, norm))
            sequence.set_submodule(after, rest_of(norm))


def _fold_traced(module: nn.Module) -> None:
    """Norms that are attributes of a module, as torchvision's and timm's: its forward tells."""
    try:
        graph = Shallow().trace(module)
    except Exception as error:  # whatever a forward does with what is no tensor
        logger.info("the norms of %s stay: torch.fx cannot trace it: %s", type(module), error)
        return
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    calls = [node.target for node in nodes]
    for node in nodes:
        before: Any = node.args[0]
        if before not in nodes or len(before.users) > 1:
            continue
        linear, norm = (module.get_submodule(str(n.target)) for n in (before, node))
        if calls.count(before.target) == calls.count(node.target) == 1 and can_fold(linear, norm):
            module.set_submodule(str(before.target), folded(linear, norm))
            module.set_submodule(str(node.target), rest_of(norm))
