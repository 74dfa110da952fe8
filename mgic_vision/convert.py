"""Somebody's network with cycles in place of its residual blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from mgic_geo.conversion import (
    NotConvertible,
    Report,
    Row,
    check_chosen,
    check_patterns,
    outermost,
    replace_module,
    require,
)
from mgic_geo.correction_norm import CorrectionNorm
from mgic_geo.cost import multiply_adds, num_weights
from mgic_geo.grouped_linear import transfer
from mgic_geo.levels import Level, MGICBlock, Residual, level_plan
from mgic_vision.conversion import convnext, inverted, resnet, transformer  # noqa: F401, register
from mgic_vision.conversion.narrow import branch_widths, leaves, narrow
from mgic_vision.conversion.parts import (
    CycleBranch,
    CycleResidual,
    Parts,
    find_adapter,
)
from mgic_vision.norm import BatchNorm2d
from mgic_vision.summary import without_values
from mgic_vision.transfers import TransferConv2d


def convert(
    model: nn.Module,
    *,
    group_size: int,
    coarse_size: int,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    min_width: int = 64,
    project: bool = False,
    input_size: tuple[int, ...] | None = None,
) -> tuple[nn.Module, Report]:
    """Rewrite a network: cycles of the same kind of block where a residual block keeps its width.

    Known are the blocks of ResNet and ResNeXt, MobileNetV2 and V3, EfficientNet and ConvNeXt, and
    the feed-forward maps of vision transformers, of torchvision and of timm. On every level of the
    cycle stands the block's own branch, modules and order as they were, at the widths and with the
    groups of the level; squeeze-excite is on the finest level only, as in MGIC-MobileNetV3, and
    what scales, drops or activates the sum stays where it was, once. Stem, head, shapes, device,
    precision and mode stay as they are. Everything that is new has to be trained.

    Args:
        model: The network; it is left as it is, and a copy returned.
        group_size: Channels per group, :math:`s_g`.
        coarse_size: Width of the coarsest level, :math:`s_c`.
        include: Patterns of block names, such as ``"layer4.*"``; others are left.
        exclude: Patterns of block names that are left.
        min_width: Blocks with fewer channels are left: there a cycle saves nothing.
        project: Whether the finest level starts from the block's own weights, of which the groups
            keep what is within a group, and its norms; otherwise it starts anew.
        input_size: Shape of one input, without the batch, to count multiply-adds for; ``None``
            for what the model itself says (``input_size``, timm's ``default_cfg``). Without any
            they are not counted.

    Returns:
        The network and a report that prints as a table.

    Raises:
        ValueError: If a size is below 1, a pattern fits no known block, or there is none at all.

    References:
        Section 5 ("a universal approach ... suitable for different kinds of CNNs").

    Example:
        >>> from torchvision.models import resnet18
        >>> model, report = convert(resnet18(), group_size=32, coarse_size=64, min_width=256)
        >>> model(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 1000])
        >>> [row.name for row in report.changed]
        ['layer3.1', 'layer4.1']
        >>> report.weights_before, report.weights_after
        (11689512, 6722088)
    """
    if min_width < 1:
        raise ValueError(f"min_width must be at least 1, got {min_width}")
    level_plan(1, group_size=group_size, coarse_size=coarse_size)  # checks the sizes
    names = known_blocks(model)
    check_patterns(names, (*(include or ()), *(exclude or ())), model)
    new: nn.Module = copy.deepcopy(model)
    rows = []
    for name in names:
        block = new.get_submodule(name)
        kind, before = type(block).__name__, num_weights(block)
        try:
            check_chosen(name, include, exclude)
            made = _cycle(block, group_size, coarse_size, min_width, project=project)
        except NotConvertible as reason:
            rows.append(Row(name, kind, before, reason=str(reason)))
            continue
        rows.append(Row(name, kind, before, num_weights(made), made.cycle.levels))
        new = replace_module(new, name, made)
    size = _own_input_size(model) if input_size is None else input_size
    work = [None if size is None else _multiply_adds(network, size) for network in (model, new)]
    return new, Report(tuple(rows), num_weights(model), num_weights(new), *work)


def known_blocks(model: nn.Module) -> list[str]:
    """Names of the blocks that :func:`convert` knows how to take apart; none inside another.

    Example:
        >>> from torchvision.models import resnet18
        >>> known_blocks(resnet18())[:3]
        ['layer1.0', 'layer1.1', 'layer2.0']
    """
    return outermost(model, find_adapter)


def _cycle(
    block: nn.Module, group_size: int, coarse_size: int, min_width: int, *, project: bool
) -> CycleResidual | CycleBranch:
    adapter = find_adapter(block)
    assert adapter is not None
    parts = adapter(block)
    parts.branch.training = block.training  # what is inside keeps its own mode, frozen norms too
    parts.after.train(block.training)
    parts.act.train(block.training)
    outer, inner = branch_widths(parts.branch)
    require(outer >= min_width, f"{outer} channels, below min_width {min_width}")
    finest = level_plan(outer, inner, group_size=group_size, coarse_size=coarse_size)[0]

    def make_layer(level: Level) -> Residual:
        return Residual(narrow(parts.branch, level, finest, project=project))

    cycle = MGICBlock(
        outer,
        make_layer,
        TransferConv2d if parts.is_image else transfer,
        inner=inner,
        group_size=group_size,
        coarse_size=coarse_size,
        make_norm=partial(_correction_norm, parts),
    )
    example = next(block.parameters())
    for made in (cycle.restrict, cycle.prolong, cycle.norms):
        made.to(example).train(block.training)
    new = CycleResidual(cycle, parts.after, parts.act) if parts.is_residual else CycleBranch(cycle)
    for container in (new, cycle, cycle.layers, *cycle.layers):
        container.training = block.training
    return new


def _correction_norm(parts: Parts, width: int) -> CorrectionNorm:
    """The kind of norm that the branch has, made to start small."""
    batch = [leaf for _, leaf in leaves(parts.branch) if isinstance(leaf, nn.BatchNorm2d)]
    if batch:
        return CorrectionNorm(BatchNorm2d(width, batch[0].eps, batch[0].momentum))
    return CorrectionNorm(ImageLayerNorm(width) if parts.is_image else nn.LayerNorm(width))


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


def _own_input_size(model: nn.Module) -> tuple[int, ...] | None:
    known = getattr(model, "default_cfg", None) or {}
    size = getattr(model, "input_size", None) or known.get("input_size")
    return None if size is None else tuple(size)


def _multiply_adds(model: nn.Module, input_size: tuple[int, ...]) -> int:
    """For one input, counted on a copy without values."""
    return multiply_adds(without_values(model), torch.empty(1, *input_size, device="meta"))
