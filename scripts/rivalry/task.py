"""What all tasks share: networks that differ in nothing but their unit, and steps of 1,024 rows."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scripts.rivalry.units import WIDTH

MakeUnit = Callable[[], nn.Module]
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Task:
    """A task of the comparison.

    Args:
        make_network: Builds the network around units.
        draw: ``(generator) -> batch``, one of training: inputs, then the target.
        test: ``() -> batches``, always the same.
        loss: ``(output, target) -> Tensor``, a mean.
        error: ``(output, target) -> Tensor``, a mean, what the table has.
        unit: What the error is in.
        digits: Of the error, after the point.
        about: What it is, in a few words for the page.
    """

    make_network: Callable[[MakeUnit], nn.Module]
    draw: Callable[[torch.Generator], Batch]
    test: Callable[[], list[Batch]]
    loss: Callable[[Tensor, Tensor], Tensor]
    error: Callable[[Tensor, Tensor], Tensor]
    unit: str
    digits: int
    about: str


class Block(nn.Module):
    """``x + unit(mix(x))``; ``mix`` brings together what is not in one row."""

    def __init__(self, unit: nn.Module, mix: nn.Module | None = None) -> None:
        super().__init__()
        self.mix, self.unit = mix, unit

    def forward(self, x: Tensor, *where: Tensor) -> Tensor:
        """Add what the unit gives."""
        return x + self.unit(x if self.mix is None else self.mix(x, *where))


class Network(nn.Module):
    """Stem, two blocks, norm and head, with a pooling before the head where there is one target."""

    def __init__(
        self,
        stem: nn.Module,
        blocks: list[nn.Module],
        outputs: int,
        pool: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        self.stem, self.blocks = stem, nn.ModuleList(blocks)
        self.norm, self.pool, self.head = nn.LayerNorm(WIDTH), pool, nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor, *where: Tensor) -> Tensor:
        """Run the network."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, *where)
        return self.head(self.pool(self.norm(x)))


def percent_wrong(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong classes."""
    return 100 * (output.argmax(-1) != target).float().mean()
