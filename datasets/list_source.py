"""Where shapes come from: a list that names the class and the split of every file."""

import csv
import os
from pathlib import Path

from datasets.off import shown
from datasets.source import FileSource, SourceError

COLUMNS = ("file", "class", "split")


class ListSource(FileSource):
    """The files of a table, as CSV with a header: ``file``, ``class``, ``split``, and any others.

    Args:
        path: The table; paths in it are relative to its folder.
        suffixes: Of the files that may be named, in lower case.

    Raises:
        SourceError: No such table, a column or a file is missing, or a file is named twice.
    """

    def __init__(self, path: str | os.PathLike[str], suffixes: tuple[str, ...]) -> None:
        self.path = Path(path).parent
        self.label = shown(path)
        self.misplaced: list[str] = []
        self.files: dict[str, tuple[int, int]] = {}
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                rows = csv.DictReader(file)
                missing = set(COLUMNS) - set(rows.fieldnames or ())
                if missing:
                    raise SourceError(
                        f"{self.label}: no column {', '.join(sorted(missing))}; expected is a "
                        f"header with {', '.join(COLUMNS)}"
                    )
                for row in rows:
                    self._add(row, f"{self.label}, line {rows.line_num}", suffixes)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{self.label}: cannot be read: {error}") from error
        self.folders = {name.split("/")[0] for name in self.files}

    def place_of(self, name: str) -> Path:
        """Return the path of a file."""
        return self.path / name.split("/", 2)[2]

    def _add(self, row: dict[str, str | None], place: str, suffixes: tuple[str, ...]) -> None:
        """Take a line of the table."""
        file, kind, split = (row[column] or "" for column in COLUMNS)
        if not (file and kind and split) or "/" in kind + split:
            raise SourceError(f"{place}: expected a file, a class and a split, got {row}")
        if not file.lower().endswith(suffixes):
            raise SourceError(f"{place}: {file} is no {' '.join(suffixes)}")
        name = f"{kind}/{split}/{file}"
        if name in self.files:
            raise SourceError(f"{place}: {file} is named twice")
        try:
            status = (self.path / file).stat()
        except OSError as error:
            raise SourceError(f"{place}: {error.strerror}: {file}") from error
        self.files[name] = (status.st_size, status.st_mtime_ns)
