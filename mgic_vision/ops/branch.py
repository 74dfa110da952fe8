"""What a level of a cycle is made of, where the kernels know its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mgic_geo.levels import Level, Residual
from mgic_geo.ops.batch_norm_act import ACTIVATIONS
from mgic_geo.ops.operator import computes_as, has_own_forward
from mgic_vision.layers import SqueezeExcite
from mgic_vision.norm import BATCH_NORMS
from mgic_vision.ops.kernel import is_pointwise, keeps_size
from mgic_vision.ops.packed import PackedModule


@dataclass(frozen=True)
class Branch:
    """A branch with its norms folded: [norm, activation,] [1x1,] k x k, [squeeze-excite,] 1x1.

    Or, in a basic block, [norm, activation,] k x k, k x k.

    Args:
        norm: In front of everything, where it could not be folded.
        leading: The activation in front of everything.
        first: 1x1, from the outer to the inner width; ``None`` where they agree.
        spatial: Keeps the inner width; depthwise, or in the groups of the level.
        squeeze: On the inner width.
        last: 1x1, back to the outer width; in a basic block as ``spatial``.
        activation: What follows the norm and all but the last convolution, as in activations.h.
    """

    norm: _BatchNorm | None
    leading: bool
    first: nn.Conv2d | None
    spatial: nn.Conv2d
    squeeze: SqueezeExcite | None
    last: nn.Conv2d
    activation: int

    @property
    def depthwise(self) -> bool:
        """Whether the inner convolution has one channel a group."""
        return self.spatial.groups == self.spatial.in_channels

    @property
    def basic(self) -> bool:
        """Whether this is a basic block's, whose two convolutions have several taps."""
        return self.last.kernel_size != (1, 1)


def read_branch(layer: nn.Module, level: Level) -> Branch | None:
    """The parts of a level's layer, or ``None`` where the kernels do not know its kind.

    Example:
        >>> from mgic_vision import dense_level, inverted_residual
        >>> from mgic_vision.folding import fold_norms_
        >>> level = dense_level(24, 72)
        >>> branch = read_branch(fold_norms_(inverted_residual(level).eval()), level)
        >>> branch.spatial.in_channels, branch.depthwise
        (72, True)
    """
    known = isinstance(layer, PackedModule) or computes_as(layer, Residual)
    if not known or any(map(has_own_forward, layer.modules())):
        return None
    modules = _leaves(cast(Residual, layer).branch)
    kinds = {type(module) for module in modules if type(module) in ACTIVATIONS}
    norm = modules.pop(0) if modules and computes_as(modules[0], *BATCH_NORMS) else None
    leading = bool(modules) and type(modules[0]) in ACTIVATIONS
    convs = [module for module in modules if isinstance(module, nn.Conv2d)]
    squeezes = [module for module in modules if type(module) is SqueezeExcite]
    expected: list[nn.Module | None] = [None] if leading else []  # None: the activation
    for conv in convs[:-1]:
        expected += [conv, None]
    expected += [*squeezes, *convs[-1:]]
    found = [None if type(module) in ACTIVATIONS else module for module in modules]
    if found != expected or len(convs) not in (2, 3) or len(kinds) != 1 or len(squeezes) > 1:
        return None
    first, spatial, last = convs if len(convs) == 3 else (None, *convs)
    branch = Branch(
        norm=cast(_BatchNorm | None, norm),
        leading=leading,
        first=first,
        spatial=spatial,
        squeeze=squeezes[0] if squeezes else None,
        last=last,
        activation=ACTIVATIONS[kinds.pop()],
    )
    outer_maps = [conv for conv in (first, last) if conv is not None]
    known = (
        (all(map(is_pointwise, outer_maps)) or _is_basic(branch))
        and all(conv.groups == level.groups for conv in outer_maps)
        and keeps_size(spatial)
        and spatial.in_channels == spatial.out_channels == level.inner
        and (branch.depthwise or spatial.groups == level.groups)
        and (first is not None or level.inner == level.outer)
        and (norm is None or (leading and norm.running_mean is not None))
        and all(map(_is_known_squeeze, squeezes))
    )
    return branch if known else None


def _is_known_squeeze(squeeze: SqueezeExcite) -> bool:
    acts = type(squeeze.act) is nn.ReLU and type(squeeze.gate) is nn.Hardsigmoid
    pools = computes_as(squeeze.pool, nn.AdaptiveAvgPool2d)
    return acts and pools and is_pointwise(squeeze.reduce) and is_pointwise(squeeze.expand)


def _is_basic(branch: Branch) -> bool:
    """Whether there are two convolutions of the same kernel, in the groups of the level."""
    spatial, last = branch.spatial, branch.last
    alike = spatial.kernel_size == last.kernel_size and spatial.dilation == last.dilation
    alone = branch.first is None and branch.squeeze is None
    return alone and alike and keeps_size(last) and spatial.groups == last.groups


def is_nothing(module: nn.Module) -> bool:
    """Whether a module gives what it gets: all that is left of a folded norm."""
    return type(module) is nn.Identity or (type(module) is nn.Sequential and not len(module))


def _leaves(branch: nn.Module) -> list[nn.Module]:
    """The modules of nested sequences, one after another; squeeze-excite counts as one."""
    if type(branch) is nn.Sequential:
        return [leaf for child in branch for leaf in _leaves(child)]
    return [branch]
