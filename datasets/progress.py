"""A line on the terminal for what takes a while."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
FIRST, EVERY = 0.5, 0.2  # seconds until the line appears, and until it changes


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield the items and say how many are done, on a terminal and where it takes a while.

    Example:
        >>> list(progress([1, 2], "counting"))
        [1, 2]
    """
    shown, due = False, time.monotonic() + FIRST
    terminal = sys.stderr.isatty()
    for done, item in enumerate(items):
        if terminal and time.monotonic() > due:
            shown, due = True, time.monotonic() + EVERY
            print(f"\r{what}: {done} of {len(items)}", end="", file=sys.stderr, flush=True)
        yield item
    if shown:
        print(f"\r{what}: {len(items)} of {len(items)}", file=sys.stderr, flush=True)
