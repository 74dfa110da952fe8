"""Files that are written whole or not at all."""

import os
from pathlib import Path

PART = ".part"


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


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)
