"""Batch norm of images, compiled for training on a processor."""

from __future__ import annotations

from torch import Tensor, nn

from mgic_geo.norm_act import normalize_images


class BatchNorm2d(nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d`, faster in training where images are channels-last.

    On a processor, in float32, a C kernel reads the images twice forward and twice backward. In
    evaluation, in other orders of memory, precisions and devices, under ``torch.compile``, autocast
    and ``torch.func`` it is torch's. The values are the same up to rounding, which grows less with
    the number of pixels than torch's.

    Example:
        >>> import torch
        >>> norm, x = BatchNorm2d(8), torch.rand(2, 8, 5, 5).to(memory_format=torch.channels_last)
        >>> torch.testing.assert_close(norm(x), nn.BatchNorm2d(8)(x))
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize every channel over batch and pixels."""
        y = normalize_images(self, input)
        return super().forward(input) if y is None else y
