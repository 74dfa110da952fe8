"""Folders that appear whole or not at all, written by one process at a time."""

import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def lock_for(path: str | os.PathLike[str], *, shared: bool = False) -> BinaryIO:
    """Wait for the lock beside ``path``, and hold it until the returned file is closed.

    The system gives it back if the process is killed.

    Args:
        path: What is to be written; its folder is created if needed.
        shared: Let others who also ask for a shared lock hold it at the same time.

    Raises:
        OSError: The folder cannot be created or written to.

    Example:
        >>> with tempfile.TemporaryDirectory() as root, lock_for(Path(root, "cache")):
        ...     os.listdir(root)
        ['.cache.lock']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.parent / f".{path.name}.lock", os.O_CREAT | os.O_RDWR, 0o666)
    file = os.fdopen(handle, "rb")
    fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    return file


def sha256_of(path: Path) -> str:
    """Hash a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def replacing(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of ``folder`` if nothing fails.

    To be used with the lock: what a killed process left behind is removed first.

    Example:
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with replacing(Path(root, "new")) as folder:
        ...         _ = (folder / "file").write_text("x")
        ...     os.listdir(root), os.listdir(Path(root, "new"))
        (['new'], ['file'])
    """
    folder = Path(folder)
    prefix = f".{folder.name}-writing-"
    for leftover in folder.parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(leftover)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes folders for their owner only
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
