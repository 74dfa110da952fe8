"""Files that are written whole or not at all, and what tells one set of files from another."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PART = ".part"
MOST_READ = 1000  # files whose content tells whether two processes have the same


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or the next start after a crash, sees old or new content.

    The bytes are on the disk before the name points to them, and the name is before this returns.

    Raises:
        OSError: The disk is full or the folder cannot be written; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}{PART}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write plain values as a JSON file, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read plain values from a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def hash_files(paths: Sequence[str | os.PathLike[str]]) -> str:
    """Hash the sizes of all files, and the content of those that are read in little time.

    A set of at most 1,000 files is read whole, a larger one in as many that lie evenly in it.

    Raises:
        OSError: A file is missing or cannot be read.
    """
    digest = hashlib.sha256(str([os.path.getsize(path) for path in paths]).encode())
    for path in paths[:: -(-len(paths) // MOST_READ) or 1]:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)
