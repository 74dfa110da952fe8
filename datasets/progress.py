"""A line on the terminal for what takes a while."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
FIRST, EVERY, LOGGED = 0.5, 0.2, 5.0  # seconds to the line, to the next on a terminal, in a file


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield the items and say how many are done, where it takes a while.

    The line changes on a terminal; in a file there is one every few seconds.

    Example:
        >>> list(progress([1, 2], "counting"))
        [1, 2]
    """
    shown, due = False, time.monotonic() + FIRST
    terminal = sys.stderr.isatty()
    begin, end, every = ("\r", "", EVERY) if terminal else ("", "\n", LOGGED)
    for done, item in enumerate(items):
        if time.monotonic() > due:
            shown, due = True, time.monotonic() + every
            print(f"{begin}{what}: {done} of {len(items)}", end=end, file=sys.stderr, flush=True)
        yield item
    if shown and terminal:
        print(f"\r{what}: {len(items)} of {len(items)}", file=sys.stderr, flush=True)
