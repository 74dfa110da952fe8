"""Dividing labeled samples so that every class gets its share."""

from collections.abc import Sequence

import numpy as np


def stratified_split(
    targets: Sequence[int], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Hold out the same fraction of every class, for validation.

    Each class keeps at least one sample on either side if it can.

    Shape:
        - Returns the sorted indices that remain, and those held out.

    Raises:
        ValueError: ``fraction`` not between 0 and 1.

    Example:
        >>> train, held_out = stratified_split([0] * 10 + [1] * 20, 0.2, seed=0)
        >>> len(train), [sum(i < 10 for i in held_out), sum(i >= 10 for i in held_out)]
        (24, [2, 4])
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1, got {fraction}")
    labels = np.asarray(targets)
    generator = np.random.default_rng(seed)
    kept: list[int] = []
    held_out: list[int] = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label)).tolist()
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held_out += members[:count]
        kept += members[count:]
    return sorted(kept), sorted(held_out)


def nested_subset(targets: Sequence[int], count: int, seed: int) -> list[int]:
    """Choose ``count`` samples, as evenly over the classes as can be.

    With the same seed a smaller choice is part of every larger one, so that what is learned from
    more samples is learned from more, and not from others.

    Shape:
        - Returns sorted indices.

    Raises:
        ValueError: ``count`` below 1 or above the number of samples.

    Example:
        >>> targets = [0] * 10 + [1] * 10
        >>> few, more = (nested_subset(targets, count, seed=0) for count in (4, 8))
        >>> sum(i < 10 for i in few), set(few) < set(more)
        (2, True)
    """
    labels = np.asarray(targets)
    if not 1 <= count <= len(labels):
        raise ValueError(
            f"count must be from 1 to {len(labels)}, the samples there are; got {count}"
        )
    generator = np.random.default_rng(seed)
    turn = np.empty(len(labels), np.int64)  # the classes take turns
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        turn[members] = np.arange(len(members))
    order = np.lexsort((labels, turn))
    return sorted(order[:count].tolist())
