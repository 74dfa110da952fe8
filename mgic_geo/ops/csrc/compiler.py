"""Compile kernels, for this processor or ahead of time.

Needs the standard library only: wheels are built with it, where there may be no torch.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

FLAGS = ("-O3", "-fno-math-errno", "-std=gnu11", "-fPIC", "-shared", "-Wall", "-Wextra")
OPENMP = (("-fopenmp",), ())  # Apple's clang has none
NATIVE = (("-march=native",), ("-mcpu=native",), ())  # the first is unknown to clang on Arm
MORE_FLAGS = "MGIC_CFLAGS"
TIMEOUT = 300  # seconds, of one run of the compiler

# Which flags a compiler accepts is asked with this, not with the kernels, which take seconds.
_PROBE = """
#ifdef _OPENMP
#include <omp.h>
#endif
int mgic_probe(void);
int mgic_probe(void)
{
    int count = 0;
#ifdef _OPENMP
#pragma omp parallel reduction(+ : count)
    count += omp_get_num_threads();
#endif
    return count;
}
"""

# The compiler's input is a pipe that ends when we do, whatever ends us; then its whole process
# group is killed, which is a new one.
_GUARD = 'exec 3<&0; { cat <&3; kill -9 0; } >/dev/null 2>&1 & exec "$@" </dev/null 3<&-'

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)  # looked up with every call, which must not hash all paths
class Kernels:
    """What makes one library of kernels.

    Args:
        package: Whose they are.
        sources: C files, whose prototypes say how they are called: see ``call.py``.
        headers: What these include of the project.
    """

    package: str
    sources: tuple[Path, ...]
    headers: tuple[Path, ...]

    @classmethod
    def of_folder(cls, package: str, folder: Path, *more: Path) -> Kernels:
        """All C files of a folder, and the headers that are there and in more folders."""
        headers = [path for place in (folder, *more) for path in sorted(place.glob("*.h"))]
        return cls(package, tuple(sorted(folder.glob("*.c"))), tuple(headers))

    def digest(self, *settings: str) -> str:
        """Changes with any file, with how libraries are compiled, and with these settings."""
        found = hashlib.sha256()
        for setting in (*FLAGS, *settings):
            found.update(setting.encode(errors="surrogateescape") + b"\0")
        for file in sorted((*self.sources, *self.headers), key=lambda path: path.name):
            found.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        return found.hexdigest()[:16]

    def prebuilt(self, grade: str) -> Path:
        """Where the library of a grade is in a wheel; named by its sources, so never stale."""
        return self.sources[0].parent / "prebuilt" / f"{grade}-{self.digest(grade)}.so"


def settings() -> tuple[str, ...]:
    """What the library of a compiler depends on beside its files, flags and processor.

    That is the name in ``$CC``, not its version: to ask for that takes a compiler, and
    what the old one made stays right. Whoever wants it made anew removes the file.
    """
    libc = "-".join(platform.libc_ver())
    environment = (os.environ.get(name, "") for name in ("CC", MORE_FLAGS))
    return (*environment, sys.platform, platform.machine(), libc)


def compile_library(
    kernels: Kernels, path: Path, targets: Sequence[Sequence[str]] = NATIVE
) -> None:
    """Compile kernels with ``$CC``, ``cc``, ``gcc`` or ``clang``.

    ``MGIC_CFLAGS`` in the environment are more flags, after ours: ``-fsanitize=address -O1 -g``.

    Args:
        kernels: What to compile.
        path: Of the shared library, in a folder of its own, which also gets what is temporary.
        targets: Flags for a processor; the first that the compiler accepts are used.

    Raises:
        OSError: There is no compiler, or it says that all is well and made nothing.
        subprocess.SubprocessError: It refused, or took minutes.
        ValueError: ``$CC`` or ``$MGIC_CFLAGS`` ends inside a quotation.
    """
    command, more = [*find_compiler(), *FLAGS], _split(MORE_FLAGS)
    flags = _accepted(command, more, targets, path.parent)
    folders = dict.fromkeys(f"-I{header.parent}" for header in kernels.headers)
    command += [*flags, *more, *folders, *map(str, kernels.sources), "-o", str(path), "-lm"]
    if said := run(command, path.parent):
        _log.debug("compiling %s: %s", kernels.package, said)
    if not path.exists():
        raise OSError(f"the compiler made no library: {shlex.join(command)}")


def find_compiler() -> list[str]:
    """The command of ``$CC``, or the first of ``cc``, ``gcc`` and ``clang`` on the path."""
    if named := _split("CC"):
        return named
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    raise OSError("no C compiler (cc, gcc or clang) on the path")


def _split(variable: str) -> list[str]:
    try:
        return shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        given = os.environ[variable]
        raise ValueError(f"{variable} must be a command line, got {given!r}: {error}") from error


def _accepted(
    command: list[str], more: list[str], targets: Sequence[Sequence[str]], folder: Path
) -> tuple[str, ...]:
    """The first flags that a compiler takes, for threads and one of these targets."""
    source, made = folder / "probe.c", folder / "probe.so"
    source.write_text(_PROBE, encoding="utf-8")
    refusal = None
    for openmp, target in product(OPENMP, targets):
        try:
            run([*command, *openmp, *target, *more, str(source), "-o", str(made)], folder)
        except subprocess.CalledProcessError as error:
            refusal = refusal or error
        else:
            return (*openmp, *target)
    assert refusal is not None
    raise refusal


def run(command: Sequence[str], folder: Path, timeout: float = TIMEOUT) -> str:
    """Run a compiler, which does not outlive us; temporary files go into the folder.

    Raises:
        subprocess.CalledProcessError: It failed; ``output`` has the end of what it said.
        subprocess.TimeoutExpired: It took too long, and was killed.
    """
    # what is loaded into this process, a sanitizer for one, is not meant for the compiler
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    environment["TMPDIR"] = str(folder)
    ours, theirs = os.pipe()
    with (
        open(ours) as reading,
        open(theirs, "w") as writing,
        subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "sh", *command],
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        try:
            said = process.communicate(timeout=timeout)[0].strip()
        finally:
            writing.close()  # the group ends, before we wait for it
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, shlex.join(command), said[-2000:])
    return said
