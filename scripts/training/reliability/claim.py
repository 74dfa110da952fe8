"""A run folder has one writer at a time, and belongs to one run.

Only the standard library is used: whoever comes second learns it before torch is imported.
"""

import contextlib
import errno
import fcntl
import os
import platform
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import TextIO

from scripts.training.reliability.errors import RunFolderError, TrainingWarning

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
RESULTS = ("checkpoints/*.ckpt", "model.safetensors", "predictions*.npz")  # worth keeping
_held: dict[Path, TextIO] = {}


def launch_rank() -> int:
    """Return the rank that a launcher has given this process, before the processes have met."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def claim(folder: Path) -> None:
    """Take a run folder for this process until :func:`release`, or until it ends, however it ends.

    The lock is a record lock. Unlike those of ``flock``, it is not handed on to the processes that
    load data, which may outlive a killed parent by seconds.

    Raises:
        RunFolderError: Another process holds it, which the message names.
        OSError: The folder cannot be created or written to.
    """
    path = folder.resolve() / LOCK
    if path in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+", encoding="utf-8", errors="backslashreplace")  # as paths may be
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = _read_holder(file)
            file.close()
            raise RunFolderError(
                f"{folder} is in use by {holder}: wait until it ends, or choose another --run_dir"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            message = f"{folder} is on a disk without locks: do not start a second run in it"
            warnings.warn(message, TrainingWarning, stacklevel=2)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break  # and it was not removed by the one before, in between
        file.close()
    file.truncate(0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    command = shlex.join(sys.orig_argv)[:200]
    file.write(f"process {os.getpid()} on {platform.node()} since {since} ({command})")
    file.flush()
    _held[path] = file


def release() -> None:
    """Give back what was claimed; a folder in which nothing was written goes again."""
    while _held:
        path, file = _held.popitem()
        if os.listdir(path.parent) == [LOCK]:
            path.unlink()
            with contextlib.suppress(OSError):  # another process may start here now
                path.parent.rmdir()
        file.close()


def holds_run(folder: Path) -> bool:
    """Whether the folder has anything of a run that is worth keeping."""
    return any(next(folder.glob(pattern), None) for pattern in RESULTS)


def refuse_run(folder: Path) -> None:
    """Refuse to start in the folder of another run.

    Raises:
        RunFolderError: It holds one.
    """
    if holds_run(folder):
        raise RunFolderError(
            f"{folder} already holds a run: continue it with --resume, replace it with "
            "--overwrite, or choose another --run_dir"
        )


def restarted() -> bool:
    """Whether torchrun has started this process again after one has died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _read_holder(file: TextIO) -> str:
    """Return what the holder of a lock says of itself."""
    file.seek(0)
    return file.read().strip() or "another process"
