"""Groups of convolutions merged to widths that a runtime's blocks of channels divide."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

BLOCK = 8

Model = TypeVar("Model", bound=nn.Module)


def merge_groups(model: Model, *, block: int = BLOCK) -> Model:
    r"""An equal network whose grouped convolutions fit a runtime's blocks of channels.

    ONNX Runtime keeps channels of an image in blocks, 8 on processors with AVX2 and 16 with
    AVX-512. A grouped convolution stays in that order where the block divides the width of a group
    on both sides; others are slow, and take every sum, norm and activation after them out of that
    order. Here as few groups as make the block divide become one, with zeros between them. In a
    network of MGIC these are above all the depthwise changes of width, of one channel in and
    several out.

    Depthwise convolutions that keep their width, dense ones, and those that no merging makes fit
    are left. Use it after :func:`mgic_vision.fuse` and in front of the export to ONNX;
    PyTorch itself gains nothing.

    Args:
        model: A network with :class:`torch.nn.Conv2d`; it is left as it is.
        block: Channels in a block of the runtime.

    Cost:
        A merged convolution has as many times the weights and multiply-adds as groups became one.

    Raises:
        ValueError: If ``block`` is below 1.

    Example:
        >>> from mgic_vision import create_model, fuse
        >>> model = fuse(create_model("mgic_resnet56", depth=8).eval(), native="never")
        >>> merged, x = merge_groups(model), torch.rand(1, 3, 32, 32)
        >>> torch.testing.assert_close(merged(x), model(x), rtol=1e-4, atol=1e-4)
    """
    if block < 1:
        raise ValueError(f"block must be at least 1 channel, got {block}")
    merged = copy.deepcopy(model)
    for module in merged.modules():
        if isinstance(module, nn.Conv2d):
            _merge_(module, _groups_to_merge(module, block))
    return merged


def _groups_to_merge(conv: nn.Conv2d, block: int) -> int:
    """Fewest groups that have to become one; 1 where none has or none does."""
    inner, outer = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    if inner == outer == 1:
        return 1  # runtimes know depthwise convolutions
    for count in range(1, conv.groups + 1):
        if conv.groups % count == count * inner % block == count * outer % block == 0:
            return count
    return 1


def _merge_(conv: nn.Conv2d, count: int) -> None:
    """Make one group of every ``count``, with zeros where they did not see each other."""
    if count == 1:
        return
    groups = conv.groups // count
    weight = conv.weight.detach().unflatten(0, (groups, count, -1))  # (groups, count, out, in, ...)
    own = torch.eye(count, dtype=weight.dtype, device=weight.device)
    blocks = torch.einsum("gcoihw,cd->gcodihw", weight, own)
    wide = blocks.flatten(3, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
    conv.weight = nn.Parameter(wide, requires_grad=conv.weight.requires_grad)
    conv.groups = groups
