"""A line on the terminal for what takes a while."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
FIRST, EVERY, LOGGED = 0.5, 0.2, 5.0  # seconds to the line, to the next on a terminal, in a file


class Counting:
    """Says how many are done of what takes a while, on standard error.

    The line changes on a terminal; in a file there is one every few seconds. The
    ``first`` seconds nothing is said.

    Example:
        >>> Counting(3, "meshes read", first=5.0).show(1)  # not yet
    """

    def __init__(self, total: int, what: str, first: float):
        self.total, self.what = total, what
        self._shown, self._due = False, time.monotonic() + first
        self._terminal = sys.stderr.isatty()

    def show(self, done: int) -> None:
        """Say it, if it is time to."""
        if time.monotonic() > self._due:
            self._due = time.monotonic() + (EVERY if self._terminal else LOGGED)
            self._print(done, "" if self._terminal else "\n")
            self._shown = True

    def close(self) -> None:
        """End the line of a terminal."""
        if self._shown and self._terminal:
            self._print(self.total, "\n")

    def _print(self, done: int, end: str) -> None:
        begin = "\r" if self._terminal else ""
        print(f"{begin}{self.what}: {done} of {self.total}", end=end, file=sys.stderr, flush=True)


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield the items and say how many are done, where it takes a while.

    Example:
        >>> list(progress([1, 2], "counting"))
        [1, 2]
    """
    counting = Counting(len(items), what, FIRST)
    for done, item in enumerate(items):
        counting.show(done)
        yield item
    counting.close()
