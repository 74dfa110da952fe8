"""The blocks of a network by stride, and ways to run them in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Stage(nn.Sequential):
    """The blocks of one stride, one after another.

    Shape:
        - ``input``: ``(B, C, H, W)``, what the first block takes. Returns what the last one gives.
    """

    def forward(
        self, input: Tensor, drop_rates: Sequence[float] = (), run_again: bool = False
    ) -> Tensor:
        """Run the blocks.

        Args:
            input: What the first one takes.
            drop_rates: How often each is left out, see :func:`drop_path`; none for never.
            run_again: Whether each is run again in the backward pass, see :func:`checkpointed`.
        """
        x = input
        for number, block in enumerate(self):
            rate = drop_rates[number] if drop_rates else 0.0
            y = checkpointed(block, x) if run_again else block(x)
            x = drop_path(x, y, rate) if rate else y
        return x


class Stages(nn.ModuleDict):
    """The blocks of a network by stride: ``s4``, ``s8`` and so on.

    Where dilation takes the place of a stride the name stays: weights of a network fit it with
    another output stride, which has as many features.

    Args:
        channels: Channels that the stem gives.
        stride: Stride of the stem.

    Example:
        >>> stages = Stages(16, 2)
        >>> stages.add(nn.MaxPool2d(2), 16, stride=2)
        >>> list(stages), stages.widths
        (['s4'], {'s4': 16})
        >>> stages.add(nn.Conv2d(16, 16, 3, dilation=2), 16, dilation=2)
        >>> stages.strides
        {'s4': 4, 's8': 4}
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        self.widths: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        self.keeps: dict[str, list[bool]] = {}  # whether a block gives the shape that it gets

    def add(self, block: nn.Module, channels: int, *, stride: int = 1, dilation: int = 1) -> None:
        """Append a block.

        Args:
            block: The block.
            channels: Channels that it gives.
            stride: By which it divides the resolution.
            dilation: What stands for strides, up to this block.
        """
        keeps = stride == 1 and channels == self.channels
        self.channels, self.stride = channels, self.stride * stride
        name = self.name(dilation)
        if name not in self:
            self[name], self.keeps[name] = Stage(), []
        cast(Stage, self[name]).append(block)
        self.widths[name], self.strides[name] = channels, self.stride
        self.keeps[name].append(keeps)

    def name(self, dilation: int) -> str:
        """Name of the stage of a block."""
        return f"s{self.stride * dilation}"


class StagesByResolution(Stages):
    """The same by the stride that blocks run at, whatever dilation stands for.

    Example:
        >>> stages = StagesByResolution(16, 16)
        >>> stages.add(nn.Conv2d(16, 16, 3, dilation=2), 16, dilation=2)
        >>> list(stages)
        ['s16']
    """

    def name(self, dilation: int) -> str:
        """Name of the stage of a block."""
        return super().name(1)


class Dilation:
    """Strides beyond a bound turned into dilation of what follows, as rows of a table are read.

    Args:
        output_stride: The bound.

    Raises:
        ValueError: If it is not a power of 2, or below ``least``.

    Example:
        >>> dilation = Dilation(16)
        >>> [dilation.reduce(stride, 2) for stride in (8, 16)], dilation.taps
        ([2, 1], 2)
    """

    def __init__(self, output_stride: int, least: int = 1) -> None:
        if output_stride < least or output_stride & (output_stride - 1):
            raise ValueError(
                f"output_stride must be a power of 2 from {least} on, got {output_stride}"
            )
        self.output_stride, self.taps = output_stride, 1

    def reduce(self, reached: int, stride: int) -> int:
        """The stride of a block where ``reached`` is that in front of it; ``taps`` notes it."""
        if reached * stride <= self.output_stride:
            return stride
        self.taps *= stride
        return 1


def drop_path(x: Tensor, y: Tensor, rate: float) -> Tensor:
    """What a block made of ``x``, or at random for some images ``x`` itself; the mean is ``y``.

    Shape:
        - ``x``, ``y``: ``(B, C, H, W)``. Returns the same.

    Example:
        >>> import torch
        >>> drop_path(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), 0.0)
        tensor([[[[1.]]]])
    """
    kept = x.new_empty((x.size(0), 1, 1, 1)).bernoulli_(1 - rate)
    return x + (y - x) * (kept / (1 - rate))


def checkpointed(block: nn.Module, x: Tensor) -> Any:
    """Run a block, and again in the backward pass."""
    return checkpoint(
        block,
        x,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _frozen_statistics(block)),
    )


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms inside normalize by the batch without taking note of it."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
