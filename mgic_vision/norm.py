"""Batch norm of images, compiled for training on a processor."""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor, nn

from mgic_geo.ops.batch_norm_act import ACTIVATIONS, takes_batch_statistics, train_batch_norm
from mgic_geo.ops.operator import is_hooked
from mgic_vision.tracing import leaf_of_fx


class BatchNorm2d(nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d`, faster in training where images are channels-last.

    On a processor, in float32, a C kernel reads the images twice forward and twice backward. The
    values are those of PyTorch up to rounding, which grows less with the number of pixels.

    Example:
        >>> import torch
        >>> norm, x = BatchNorm2d(8), torch.rand(2, 8, 5, 5).to(memory_format=torch.channels_last)
        >>> torch.testing.assert_close(norm(x), nn.BatchNorm2d(8)(x))
    """

    @leaf_of_fx
    def forward(self, input: Tensor) -> Tensor:
        """Normalize every channel over batch and pixels."""
        if input.dim() == 4 and takes_batch_statistics(self, input):
            return train_batch_norm(self, None, input)
        return super().forward(input)


#: Classes that normalize over the batch and do nothing else; subclasses may do otherwise.
BATCH_NORMS = (BatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm)


class Chain(nn.Sequential):
    """:class:`torch.nn.Sequential` that trains a :class:`BatchNorm2d` and what activates it as one.

    So it is with ReLU and hard swish. Norm and activation are called one by one where the norm is
    torch's and where a hook watches one of them.

    Example:
        >>> import torch
        >>> chain, x = Chain(nn.Conv2d(3, 8, 1), BatchNorm2d(8), nn.ReLU()), torch.rand(2, 3, 5, 5)
        >>> torch.testing.assert_close(chain(x), nn.Sequential(*chain)(x))
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the modules in order."""
        modules = list(self)
        while modules:
            module = modules.pop(0)
            if modules and _are_one(module, modules[0], input):
                input = train_batch_norm(module, modules.pop(0), input)
            else:
                input = module(input)
        return input


def _are_one(norm: nn.Module, act: nn.Module, x: Tensor) -> TypeGuard[BatchNorm2d]:
    return (
        type(norm) is BatchNorm2d
        and type(act) in ACTIVATIONS
        and not is_hooked(norm, act)
        and isinstance(x, Tensor)  # torch.fx passes something else, and records one by one
        and x.dim() == 4
        and takes_batch_statistics(norm, x)
    )
