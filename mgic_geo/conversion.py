"""What conversions of graph and image networks share: which blocks, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from mgic_geo.levels import Level


class NotConvertible(ValueError):
    """Why a block is left as it is."""


def require(fits: object, reason: str) -> None:
    """Leave the block where something does not fit.

    Raises:
        NotConvertible: With the reason.
    """
    if not fits:
        raise NotConvertible(reason)


@dataclass(frozen=True)
class Row:
    """One block that is known.

    Args:
        name: In its network.
        kind: Its class.
        before: Its weights.
        after: Weights of what replaced it; ``None`` where it was left.
        levels: Of the cycle, the finest first.
        reason: Why it was left.
    """

    name: str
    kind: str
    before: int
    after: int | None = None
    levels: tuple[Level, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        name = self.name or "the model itself"
        if self.after is None:
            return f"left     {name} ({self.kind}, {self.before:,} weights): {self.reason}"
        widths = " > ".join(f"{x.outer}:{x.inner}/{x.groups}" for x in self.levels)
        return (
            f"changed  {name} ({self.kind}): {self.before:,} to {self.after:,} weights, "
            f"channels:inner/groups {widths}"
        )


@dataclass(frozen=True)
class Report:
    """What became of a network; prints as one line a block.

    Args:
        rows: One for every block that is known, in the order of the network.
        weights_before: Of the network as it was.
        weights_after: Of the new one.
        multiply_adds_before: For one input; ``None`` where they were not counted.
        multiply_adds_after: Likewise.
    """

    rows: tuple[Row, ...]
    weights_before: int
    weights_after: int
    multiply_adds_before: int | None = None
    multiply_adds_after: int | None = None

    @property
    def changed(self) -> tuple[Row, ...]:
        """The blocks that are cycles now."""
        return tuple(row for row in self.rows if row.after is not None)

    @property
    def left(self) -> tuple[Row, ...]:
        """The blocks that are known and were left."""
        return tuple(row for row in self.rows if row.after is None)

    @property
    def unknown_weights(self) -> int:
        """Weights outside the blocks that are known: stem, head, attention and the like."""
        return self.weights_before - sum(row.before for row in self.rows)

    def __str__(self) -> str:
        lines = [*map(str, self.rows)]
        lines.append(f"not in a block that is known: {self.unknown_weights:,} weights")
        lines.append(_change("weights", self.weights_before, self.weights_after))
        if self.multiply_adds_before and self.multiply_adds_after is not None:
            lines.append(
                _change("multiply-adds", self.multiply_adds_before, self.multiply_adds_after)
            )
        return "\n".join(lines)


def _change(what: str, before: int, after: int) -> str:
    share = f" ({after / before:.1%})" if before else ""
    return f"{what}: {before:,} to {after:,}{share}"


def outermost(model: nn.Module, is_block: Callable[[nn.Module], object]) -> list[str]:
    """Names of the modules that are blocks, none inside another; ``""`` is the model itself."""
    names: list[str] = []
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in names)
        if not inside and is_block(module):
            names.append(name)
    return names


def check_patterns(names: Sequence[str], patterns: Sequence[str], model: nn.Module) -> None:
    """Raise where nothing is known, or a pattern fits nothing.

    Raises:
        ValueError: With what there is.
    """
    if not names:
        raise ValueError(f"{type(model).__name__} has no block that is known here")
    for pattern in patterns:
        if not fits(names, [pattern]):
            raise ValueError(f"no known block fits {pattern!r}; there are {', '.join(names)}")


def check_chosen(name: str, include: Sequence[str] | None, exclude: Sequence[str] | None) -> None:
    """Leave a block that is not asked for.

    Raises:
        NotConvertible: With the list that decided.
    """
    require(include is None or fits([name], include), "not in `include`")
    require(not fits([name], exclude or ()), "in `exclude`")


def fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether one of the names fits one of the patterns."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def replace_module(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Put ``new`` where ``name`` is; returns the model, which is ``new`` for the empty name."""
    if not name:
        return new
    model.set_submodule(name, new)
    return model
