"""Where the norms of a new cycle start, without data."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mgic_geo.conversion import drop_hooks
from mgic_geo.levels import MGICBlock
from mgic_vision.conversion.narrow import leaves

SAMPLES, SIZE = 8, 8
LEAST = 0.1  # of the largest singular value: means along smaller ones are mostly error


@torch.no_grad()
def settle(cycle: MGICBlock, branch: nn.Module, *, project: bool) -> None:
    """Tell the batch norms on a cycle's levels what reaches them before any training.

    The statistics of the block's own norms say what reached those. Branch and cycle are both run on
    drawn images, every norm with the statistics of these, as in training. A norm of the cycle is
    then told its mean there, and its variance times the share that the block's statistics are of
    what the branch has there. Nothing is told without values or norms that keep statistics, nor to
    the norms of corrections: many changes are close to zero at first, and would be made large.

    Args:
        cycle: Of images.
        branch: Of the block that it replaces.
        project: Whether the finest level has the block's own weights, and keeps its statistics.
    """
    norms = batch_norms(branch)
    if not norms or any(norm.running_var.is_meta for norm in norms):
        return
    x = draw_images(branch, cycle.levels[0].outer)
    shares = [
        (norm.running_var.mean() + norm.eps) / (drawn.running_var.mean() + norm.eps)
        for norm, drawn in zip(norms, batch_norms(_run(branch, x)), strict=True)
    ]
    drawn: Any = _run(cycle, x)
    for layer, like in list(zip(cycle.layers, drawn.layers, strict=True))[project:]:
        for norm, there, share in zip(batch_norms(layer), batch_norms(like), shares, strict=True):
            norm.running_mean.copy_(there.running_mean)
            norm.running_var.copy_(there.running_var * share)


@torch.no_grad()
def shrink_corrections(cycle: MGICBlock, branch: nn.Module, *, is_image: bool) -> None:
    """Let corrections start at a tenth of what a branch without batch norms adds.

    A layer norm gives a correction the size of its scale, however small the change is; the branch
    of an untrained network may add far less. What it adds is looked at on noise of variance 1, as
    norms in front of it give. Nothing is changed without values.

    Args:
        cycle: Whose corrections end with norms at a tenth of their scale.
        branch: Of the block that it replaces.
        is_image: Whether features are ``(B, C, H, W)``; otherwise the channels are last.
    """
    example, width = next(branch.parameters()), cycle.levels[0].outer
    if example.is_meta or batch_norms(branch):
        return
    x = torch.randn(SAMPLES, SIZE, SIZE, width, device=example.device).to(example.dtype)
    try:
        y = _bare(branch)(x.movedim(-1, 1) if is_image else x)
    except Exception:  # a user's module may take other shapes only
        return
    for norm in cycle.norms:
        weight: Any = norm.weight
        weight.mul_(y.std())


def batch_norms(module: nn.Module) -> list[Any]:
    """Those that keep statistics, outside of squeeze-excite."""
    norms = (leaf for leaf in leaves(module) if isinstance(leaf, _BatchNorm))
    return [norm for norm in norms if norm.running_var is not None]


def _run(module: nn.Module, x: Tensor) -> nn.Module:
    """A copy whose norms have the statistics of what reaches them."""
    module = _bare(module)
    for norm in batch_norms(module):
        norm.register_forward_pre_hook(_look)
    module(x.clone())  # in place, perhaps
    return module


def _bare(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode without the user's hooks."""
    module = copy.deepcopy(module).eval()
    drop_hooks(module)
    return module


def _look(norm: Any, inputs: tuple[Tensor]) -> None:
    values = inputs[0].transpose(0, 1).flatten(1)
    norm.running_mean.copy_(values.mean(1))
    norm.running_var.copy_(values.var(1))


def draw_images(branch: nn.Module, channels: int) -> Tensor:
    """Noise with the means and the variance that a branch's first norm tells of its input.

    Where a convolution stands in front of that norm, ``W m + b = mean`` is solved for the means
    :math:`m`, from one value for all on: those of activations are all of one sign.
    """
    first, *others = (leaf for leaf in leaves(branch) if list(leaf.parameters()))
    norm: Any = next((leaf for leaf in (first, *others[:1]) if isinstance(leaf, _BatchNorm)), None)
    example = next(branch.parameters())
    noise = torch.randn(SAMPLES, channels, SIZE, SIZE, device=example.device)
    if norm is None or norm.running_var is None:
        mean, var = noise.new_zeros(channels), noise.new_ones(channels)
    elif norm is first:
        mean, var = norm.running_mean.float(), norm.running_var.float()
    else:
        mean, var = _before(first, norm)
    return (mean.view(-1, 1, 1) + noise * var.sqrt().view(-1, 1, 1)).to(example.dtype)


def _before(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Mean of every channel, and one variance, of a convolution's input by its output's."""
    weight = conv.weight.float()
    maps = torch.block_diag(*weight.sum((2, 3)).chunk(conv.groups))
    out = norm.running_mean.float() - (0 if conv.bias is None else conv.bias.float())
    rows = maps.sum(1)
    common = rows @ out / rows.square().sum().clamp_min(norm.eps)
    mean = common + torch.linalg.pinv(maps, rtol=LEAST) @ (out - common * rows)
    return mean, norm.running_var.float().mean() / weight.flatten(1).square().sum(1).mean()
