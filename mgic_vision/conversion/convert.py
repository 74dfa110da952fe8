"""Replace the residual blocks of the user's network by cycles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mgic_geo import multiply_adds, transfer
from mgic_geo.conversion import (
    Replacement,
    Report,
    check_convertible,
    drop_hooks,
    require,
    rewrite,
)
from mgic_geo.levels import Level, MGICBlock, Residual, level_plan
from mgic_vision.conversion.joining import join_pairs, part_left
from mgic_vision.conversion.narrow import as_linear, branch_widths, leaves, narrow
from mgic_vision.conversion.parts import CycleBranch, CycleResidual, Parts
from mgic_vision.conversion.settle import settle, shrink_corrections
from mgic_vision.conversion.structure import Split, Splits, find_blocks, nearest
from mgic_vision.cost import HasInputSize, without_values
from mgic_vision.norm import BatchNorm2d
from mgic_vision.transfers import TransferConv2d, make_correction

_log = logging.getLogger(__name__)


def convert(
    model: nn.Module,
    *,
    group_size: int,
    coarse_size: int | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    min_width: int = 64,
    project: bool = False,
    gradual: bool = False,
    cycle: str = "multiplicative",
    blocks: Splits | None = None,
    input_size: tuple[int, ...] | None = None,
) -> tuple[nn.Module, Report]:
    """Rewrite a network: cycles of the same kind of block where a residual block keeps its width.

    A block is known by what it computes, as ``torch.fx`` traces it: ``act(x + f(x))`` with ``f``
    made of convolutions, linear maps, norms, activations, their sums and products, and attention
    over channels (squeeze-excite, ResNeSt's), followed by what scales or drops its result; or a
    feed-forward map, out to a wider layer and back, gated or not, also where its two maps are in
    two modules that follow each other, as in BERT. That is so in ResNet, RegNet, MobileNet,
    EfficientNet, MobileOne, ConvNeXt, transformers and many more, of whatever library. On every
    level of the cycle stands the block's own branch, modules and order as they were, at the widths
    and with the groups of the level; attention over channels is on the finest level only, as
    squeeze-excite in MGIC-MobileNetV3, and what scales, drops or activates the sum stays where it
    was, once. Stem, head, shapes, device, precision and mode stay as they are. Everything that is
    new has to be trained.

    A block that is used at several places stays one block; one whose weights are used outside of
    it, too, is left. Hooks stay on the modules that live on, in the branch of the finest level and
    around the cycle. For those on a block itself, and on the linear maps in it, a warning says that
    they are dropped.

    Args:
        model: The network; it is left as it is, and a copy returned.
        group_size: Channels per group, :math:`s_g`.
        coarse_size: Width of the coarsest level, :math:`s_c`; ``None`` means ``group_size``.
        include: Patterns of block names, such as ``"layer4.*"``; others are left.
        exclude: Patterns of block names that are left.
        min_width: Blocks with fewer channels are left: there a cycle saves nothing.
        project: Whether the finest level starts from the block's own weights, of which the groups
            keep what is within a group, and its norms. Otherwise its maps are drawn anew, as those
            of coarser levels always are, with outputs of the variance that they had in the block.
        gradual: Whether every original stays beside its cycle. The network then begins as the
            original; move its share from 1 to 0 while you train
            (:func:`~mgic_geo.set_blend`), and drop the originals (:func:`~mgic_geo.finish`).
        cycle: ``"multiplicative"`` or ``"additive"``, as :class:`mgic_geo.MGICBlock`.
        blocks: ``block -> Parts`` by class, for blocks that are not known by themselves: what they
            are made of; see :class:`Parts`.
        input_size: Shape of one input, without the batch, to count multiply-adds for; ``None``
            for what the model itself says (``input_size``, timm's ``default_cfg``). Without any
            they are not counted.

    Returns:
        The network and a report that prints as a table.

    Raises:
        ValueError: If a size is below 1, a pattern fits no known block, there is none at all,
            ``blocks`` does not give parts by class, or the model is wrapped (``DataParallel``,
            ``DistributedDataParallel``, compiled).

    References:
        Section 5 ("a universal approach ... suitable for different kinds of CNNs").

    Example:
        >>> import torch
        >>> from torchvision.models import resnet18
        >>> model, report = convert(resnet18(), group_size=32, coarse_size=64, min_width=256)
        >>> model(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 1000])
        >>> [row.name for row in report.changed]
        ['layer3.1', 'layer4.1']
        >>> report.weights_before, report.weights_after
        (11689512, 6722088)
    """
    sizes: dict[str, Any] = {"group_size": group_size, "coarse_size": coarse_size}
    check_convertible(model, **sizes, min_width=min_width, cycle=cycle)
    make = partial(_cycle, sizes=sizes, min_width=min_width, project=project, cycle=cycle)
    splits = blocks or {}
    for kind in splits:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ValueError(f"blocks goes by the class of a module, got {kind!r}")
    joined, pairs = join_pairs(model, splits.keys())
    found = find_blocks(joined, splits)
    makers = {name: partial(make, split=split) for name, split in found.items()}
    new, report = rewrite(
        joined,
        makers,
        include=include,
        exclude=exclude,
        gradual=gradual,
        nearest="" if found else nearest(model),
    )
    part_left(new, pairs)
    before, after = _work(model, new, input_size)
    return new, replace(report, multiply_adds_before=before, multiply_adds_after=after)


def _cycle(
    block: nn.Module,
    *,
    split: Split,
    sizes: dict[str, Any],
    min_width: int,
    project: bool,
    cycle: str,
) -> Replacement:
    parts = split(block)
    if not isinstance(parts, Parts):
        raise ValueError(f"blocks must give Parts of {type(block).__name__}, got {parts!r}")
    outer, inner = branch_widths(parts.branch)
    require(outer >= min_width, f"{outer} channels, below min_width {min_width}")
    own = set(block.modules())
    for module in _all_modules(parts):
        if module not in own:  # those keep their own mode, frozen norms too
            module.training = block.training
    finest = level_plan(outer, inner, **sizes)[0]

    def make_layer(level: Level) -> Residual:
        branch = narrow(parts.branch, level, finest, project=project)
        if parts.branch is block:  # whose hooks want the cycle's output
            drop_hooks(branch, inside=False)
        return Residual(branch)

    made = MGICBlock(
        outer,
        make_layer,
        TransferConv2d if parts.is_image else transfer,
        inner=inner,
        **sizes,
        make_norm=partial(_norm_of, parts),
        make_correction=make_correction,
        cycle=cycle,
    )
    example = next(block.parameters())
    for transfers in (made.restrict, made.corrections):
        transfers.to(example).train(block.training)
    if parts.is_image:
        settle(made, parts.branch, project=project)
    shrink_corrections(made, parts.branch, is_image=parts.is_image)
    new: nn.Module = CycleBranch(made)
    if parts.is_residual:
        new = CycleResidual(made, parts.after, parts.act, parts.shortcut)
    for container in (new, made, made.layers, *made.layers):
        container.training = block.training
    return Replacement(new, made.levels, _kept(block, parts))


def _kept(block: nn.Module, parts: Parts) -> frozenset[nn.Module]:
    """Modules of a block that are in the cycle's finest level or around the cycle."""
    every = leaves(parts.branch)
    made_anew = {leaf for leaf in every if isinstance(as_linear(leaf) or leaf, nn.Linear)}
    return frozenset(_all_modules(parts) - made_anew - {block})


def _all_modules(parts: Parts) -> set[nn.Module]:
    every = (parts.branch, parts.after, parts.act, parts.shortcut)
    return {module for part in every for module in part.modules()}


def _norm_of(parts: Parts, width: int) -> nn.Module:
    """A norm of the kind that the branch has."""
    batch = [leaf for leaf in leaves(parts.branch) if isinstance(leaf, nn.BatchNorm2d)]
    if batch:
        return BatchNorm2d(width, batch[0].eps, batch[0].momentum)
    return ImageLayerNorm(width) if parts.is_image else nn.LayerNorm(width)


class ImageLayerNorm(nn.LayerNorm):
    """A layer norm over the channels of an image.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns the same shape.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the channels at every place."""
        x = x.movedim(1, -1)
        x = functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)


def _work(
    model: nn.Module, new: nn.Module, input_size: tuple[int, ...] | None
) -> tuple[int | None, int | None]:
    """Multiply-adds before and after; none without a size, or where the model's own is wrong."""
    size = input_size or (model.input_size if isinstance(model, HasInputSize) else None)
    size = size or (vars(model).get("default_cfg") or {}).get("input_size")
    if size is None:
        return None, None
    try:
        before = multiply_adds(*without_values(model, size))
    except Exception as error:  # timm's describe the weights, whatever the model was made for
        if input_size is not None:
            raise
        _log.warning(
            "multiply-adds are not counted: %s says that it takes inputs of %s, and fails on one "
            "(%s); give `input_size`",
            type(model).__name__,
            tuple(size),
            error,
        )
        return None, None
    return before, multiply_adds(*without_values(new, size))
