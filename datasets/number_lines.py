"""Lines of numbers, found and parsed without a Python loop over lines."""

import warnings

import numpy as np


class NumberLines:
    r"""The lines of a text that hold anything, and the numbers on them.

    Attributes:
        places: Line number of each of these lines in the file, from 1.
        first: Index of each line's first word among all words, and the count of all at the end.

    Args:
        text: ASCII text; words are separated by blanks.
        first_line: Number of its first line in the file.

    Shape:
        - ``places``: ``(L,)``; ``first``: ``(L + 1,)``.

    Example:
        >>> lines = NumberLines(b"1 2 3\n\n  4.5 x\n", first_line=7)
        >>> lines.places.tolist(), lines.widths(0, 2).tolist()
        ([7, 9], [3, 2])
        >>> lines.parse(0, 1, np.int64), lines.parse(0, 2, np.float64), lines.bad_word(0, 2)
        (array([1, 2, 3]), None, (9, 'x'))
    """

    def __init__(self, text: bytes, first_line: int) -> None:
        self._text = text
        codes = np.frombuffer(b"\n" + text, dtype=np.uint8)
        blank = codes <= ord(" ")
        self._words = np.flatnonzero(blank[:-1] & ~blank[1:])  # byte offset of each in text
        line_ends = np.append(np.flatnonzero(codes[1:] == ord("\n")), len(text))
        past = np.searchsorted(self._words, line_ends)  # words up to the end of each line
        before = np.concatenate([[0], past[:-1]])
        used = np.flatnonzero(past > before)
        self.places = first_line + used
        self.first = np.append(before[used], len(self._words))

    def __len__(self) -> int:
        return len(self.places)

    def widths(self, start: int, stop: int) -> np.ndarray:
        """Count the words on lines ``start`` to ``stop - 1``."""
        return np.diff(self.first[start : stop + 1])

    def parse(self, start: int, stop: int, dtype: type) -> np.ndarray | None:
        """Turn all words of lines ``start`` to ``stop - 1`` into numbers, or None if some are not.

        Shape:
            - Returns ``(W,)``, the words in order.
        """
        if start == stop:
            return np.empty(0, dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # what numpy 1 has for bad words
            try:
                numbers = np.fromstring(self._between(start, stop), dtype, sep=" ")
            except (ValueError, DeprecationWarning):
                return None
        return numbers if len(numbers) == self.first[stop] - self.first[start] else None

    def bad_word(self, start: int, stop: int) -> tuple[int, str]:
        """Return place and spelling of the first word there that is not a number."""
        words = self._between(start, stop).split()
        for i, word in enumerate(words, start=int(self.first[start])):
            try:
                float(word.replace(b"_", b"?"))  # Python reads 1_000, C does not
            except ValueError:
                line = np.searchsorted(self.first, i, "right") - 1
                return int(self.places[line]), word[:20].decode("ascii", "backslashreplace")
        return int(self.places[start]), "something from here on"

    def _between(self, start: int, stop: int) -> bytes:
        low, high = np.append(self._words, len(self._text))[self.first[[start, stop]]]
        return self._text[low:high]
