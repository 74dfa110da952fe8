"""Where compiled libraries are kept: only where nobody else can put one.

Loading a library runs what is in it. So a folder counts only if it and all above it belong to this
user or to root and nobody else can write there, and a file only if the hash in its name is its own:
what was cut short or damaged is made again.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import platform
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOM = 16 << 20  # bytes that a disk must have left
STALE = 3600  # seconds after which nobody is still at work on a part

_log = logging.getLogger(__name__)


def find(key: str) -> Path | None:
    """The library of this key, whole and from us; what killed processes left is removed."""
    for folder in _places():
        if _doubt(folder):
            continue  # it is said where something is to be stored
        for part in folder.glob("*.part"):
            if _abandoned(part):
                _remove(part)
        for path in sorted(folder.glob(f"{key}-*.so")):
            if not (fault := _fault(path)):
                return path
            _log.warning("compiled kernels are made again: %s", fault)
            _remove(path)
    return None


def store(key: str, make: Callable[[Path], None]) -> Path:
    """Keep a library, whole or not at all; several processes may do so at once.

    Args:
        key: Its name.
        make: ``(path)``, writes it; the folder is for what is temporary and is removed.

    Returns:
        Where it is now: in ``$XDG_CACHE_HOME/mgic`` (by default ``~/.cache/mgic``), in a folder of
        this user for temporary files, or in a fresh one that is removed in the end.
    """
    part = _part(key)
    try:
        made = part / "library.so"
        make(made)
        made.chmod(0o644)
        path = part.parent / f"{key}-{_hash(made)}.so"
        made.replace(path)
        return path
    finally:
        _remove(part)


def _places() -> list[Path]:
    """Where libraries are kept over the end of a process, best first."""
    found = []
    named = os.environ.get("XDG_CACHE_HOME", "")
    with suppress(RuntimeError):  # there is no HOME, and the user has no name
        found.append((Path(named) if os.path.isabs(named) else Path.home() / ".cache") / "mgic")
    if sys.platform != "win32":
        with suppress(FileNotFoundError):  # no folder for temporary files can be written
            found.append(Path(tempfile.gettempdir()) / f"mgic-{os.geteuid()}")
    return found


def _part(key: str) -> Path:
    """A new folder for what is not done yet, in the first place that is ours and takes it."""
    prefix = f"{key}.{_host()}.{os.getpid()}."
    for folder in _places():
        try:
            for place in (*reversed(folder.parents), folder):
                place.mkdir(mode=0o755, exist_ok=True)
            if doubt := _doubt(folder):
                raise PermissionError(doubt)
            if shutil.disk_usage(folder).free < ROOM:
                raise OSError(f"the disk of {folder} is full")
            return Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=folder))
        except OSError as error:
            _log.warning("compiled kernels are not kept in %s: %s", folder, error)
    fresh = tempfile.mkdtemp(prefix="mgic-")
    atexit.register(shutil.rmtree, fresh, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=fresh))


def _doubt(path: Path) -> str:
    """Who else may have written a folder or a file, or why it is none; empty if nobody has."""
    if sys.platform == "win32":
        return ""
    try:
        kind = path.lstat().st_mode
        if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
            return f"{path} is a link or a device"
        for place in (path, *path.resolve().parents):
            found = place.lstat()
            if found.st_uid not in (0, os.geteuid()):
                return f"{place} belongs to user {found.st_uid}"
            # in a folder like /tmp others write, but do not touch what is ours
            sticky = place != path and found.st_mode & stat.S_ISVTX
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
                return f"others can write to {place}"
    except OSError as error:
        return str(error)
    return ""


def _fault(path: Path) -> str:
    """Why a library is not to be loaded; empty if it is ours and as it was made."""
    try:
        whole = path.stem.endswith(f"-{_hash(path)}")
    except OSError as error:
        return str(error)
    return _doubt(path) if whole else f"{path} is damaged"


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _host() -> str:
    """Where a number means the same process."""
    name = platform.node()
    with suppress(OSError):
        name += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _abandoned(part: Path) -> bool:
    """Whether nobody is at work on it: its process is gone, or it is too old for one elsewhere."""
    host, process = (*part.name.split("."), "", "")[1:3]
    try:
        if time.time() - part.lstat().st_mtime > STALE:
            return True
        if host != _host() or not process.isdecimal():
            return False
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's, or it has just gone
        return False
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
