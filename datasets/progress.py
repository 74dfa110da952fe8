"""A line on the terminal for what takes a while."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
FIRST, EVERY = 0.5, 0.2  # seconds until the line appears, and until it changes


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield the items and say how many are done, where it takes a while.

    The line changes on a terminal; in a file there is one, with how many there are.

    Example:
        >>> list(progress([1, 2], "counting"))
        [1, 2]
    """
    shown, due = False, time.monotonic() + FIRST
    terminal = sys.stderr.isatty()
    for done, item in enumerate(items):
        if time.monotonic() > due and (terminal or not shown):
            shown, due = True, time.monotonic() + EVERY
            line = f"\r{what}: {done} of {len(items)}" if terminal else f"{what}: {len(items)}\n"
            print(line, end="", file=sys.stderr, flush=True)
        yield item
    if shown and terminal:
        print(f"\r{what}: {len(items)} of {len(items)}", file=sys.stderr, flush=True)
