"""A network up to its head: features by the name of their stride, and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@fx.wrap
def check_images(x: Tensor, in_chans: int, dims: int) -> Tensor:
    """Return the input of a network, if it is one; ``torch.fx`` records one call.

    Args:
        x: The input.
        in_chans: Channels it must have.
        dims: Its axes beside that of the batch.

    Raises:
        ValueError: It has another number of axes or channels or is not floating point.
    """
    if x.dim() != dims + 1 or x.size(1) != in_chans:
        expected = ", ".join(["B", str(in_chans), *"HW"[: dims - 1]])
        raise ValueError(f"input must be ({expected}), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"input must be floating point, got {x.dtype}")
    return x


class Stages(nn.ModuleDict):
    """The blocks of a network, by the stride they run at: ``s4``, ``s8`` and so on.

    Args:
        channels: Channels that the stem gives.
        stride: Stride of the stem.

    Example:
        >>> stages = Stages(16, 2)
        >>> stages.add(nn.MaxPool2d(2), 16, stride=2)
        >>> list(stages), stages.widths
        (['s4'], {'s4': 16})
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        self.widths: dict[str, int] = {}

    def add(self, block: nn.Module, channels: int, *, stride: int = 1) -> None:
        """Append a block that gives ``channels`` and divides the resolution by ``stride``."""
        self.channels, self.stride = channels, self.stride * stride
        name = f"s{self.stride}"
        if name not in self:
            self[name] = nn.Sequential()
        cast(nn.Sequential, self[name]).append(block)
        self.widths[name] = channels


class Backbone(nn.Module):
    """A network without its head; gives the features of every stride by name.

    Weights lie in channels-last order, in which grouped convolutions are fast on a CPU, and the
    features follow them whatever the order of the input; ``.to(memory_format=...)`` changes that.

    Args:
        stem: From the input to the first stage.
        stages: The blocks.
        final: Follows the last stage; its result stands for that stage's features.
        num_features: Channels that ``final`` gives; ``None`` where it does not change them.
        input_size: Shape of one input in the paper; only its number of channels binds.

    Shape:
        - ``x``: ``(B, *input_size)``, or any other height and width.
        - Returns ``{"s4": (B, C_4, H / 4, W / 4), ...}``, from the finest to the coarsest.

    Raises:
        ValueError: When called, if the input has another number of axes or channels or is not
            floating point.

    Example:
        >>> from mgic_vision import create_model
        >>> backbone = create_model("mgic_mobilenetv3", features_only=True).eval()
        >>> for name, x in backbone(torch.rand(1, 3, 64, 96)).items():
        ...     print(name, tuple(x.shape))
        s2 (1, 16, 32, 48)
        s4 (1, 24, 16, 24)
        s8 (1, 40, 8, 12)
        s16 (1, 112, 4, 6)
        s32 (1, 960, 2, 3)
        >>> backbone.feature_info[0]
        {'name': 's2', 'num_chs': 16, 'reduction': 2, 'module': 'stages.s2'}
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Stages,
        final: nn.Module | None = None,
        *,
        num_features: int | None = None,
        input_size: tuple[int, ...] = (3, 224, 224),
    ) -> None:
        super().__init__()
        self.stem, self.stages = stem, stages
        self.final = nn.Identity() if final is None else final
        self.num_features = stages.channels if num_features is None else num_features
        self.input_size, self.in_chans = input_size, input_size[0]
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = [
            {"name": name, "num_chs": width, "reduction": int(name[1:]), "module": f"stages.{name}"}
            for name, width in stages.widths.items()
        ]
        self.feature_info[-1] |= {"num_chs": self.num_features, "module": "final"}
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of the blocks for the backward pass and run each block again.

        A cycle keeps about twice the activations of one block (section 3.4). Running a block again
        leaves the running statistics of its norms alone: training gives the same weights.
        """
        self.grad_checkpointing = enable

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Features at every stride, by name; the last ones are those of :meth:`forward_features`.

        Shape:
            - As the class.
        """
        x, features = self._stem(x), {}
        for name, stage in self.stages.items():
            x = features[name] = self._run(cast(nn.Sequential, stage), x)
        features[self.feature_info[-1]["name"]] = self.final(x)
        return features

    def forward_features(self, x: Tensor) -> Tensor:
        """Features in front of the head.

        Shape:
            - ``x``: ``(B, *input_size)``. Returns ``(B, num_features, H / 32, W / 32)``, or what
              the last stride is.
        """
        x = self._stem(x)
        for stage in self.stages.values():
            x = self._run(cast(nn.Sequential, stage), x)
        return self.final(x)

    def forward(self, x: Tensor) -> Any:
        """Return :meth:`features`."""
        return self.features(x)

    def _stem(self, x: Tensor) -> Tensor:
        return self.stem(check_images(x, self.in_chans, len(self.input_size)))

    def _run(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return stage(x)
        for block in stage:
            x = checkpoint(
                block,
                x,
                use_reentrant=False,
                context_fn=lambda block=block: (nullcontext(), _frozen_statistics(block)),
            )
        return x


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
