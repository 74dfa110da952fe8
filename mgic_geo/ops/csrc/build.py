"""Load the kernels: those that come with a wheel, or compiled at their first use."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from mgic_geo.ops.csrc import cache as libraries
from mgic_geo.ops.csrc import processor
from mgic_geo.ops.csrc.call import Entry, read_prototypes
from mgic_geo.ops.csrc.compiler import (
    MORE_FLAGS,
    Kernels,
    compile_library,
    find_compiler,
    settings,
)

SWITCH = "MGIC_KERNELS"
CHOICES = ("auto", "native", "prebuilt", "reference", "require", "triton")

# no compiler, folder or library; one that refuses; a command that is none, a prototype that is not
# known, no mgic_lanes; no such function
FAILURES = (OSError, subprocess.SubprocessError, ValueError, AttributeError)

_log = logging.getLogger(__name__)
_lock = threading.Lock()


@dataclass(frozen=True)
class Library:
    """Compiled kernels.

    Args:
        entries: Functions by name.
        lanes: How many numbers a vector of theirs has, what weights are packed for.
    """

    entries: dict[str, Entry]
    lanes: int


GRAPHS = Kernels.of_folder("mgic_geo", Path(__file__).parent)


@cache
def library(kernels: Kernels = GRAPHS) -> Library | None:
    """The compiled kernels, or ``None`` where they are switched off or cannot be had.

    ``MGIC_KERNELS`` in the environment says which:

    - ``auto``: those that the wheel has for processors like this one, else ``native``; without a
      word where ``MGIC_KERNELS`` is not set.
    - ``native``: compiled for this very processor at first use, in half a minute, by ``$CC``,
      ``cc``, ``gcc`` or ``clang``, into ``$XDG_CACHE_HOME/mgic`` (by default ``~/.cache/mgic``). A
      file there is named by sources, flags and processor, so that machines may share the folder; to
      load it takes no compiler.
    - ``prebuilt``: those that the wheel has.
    - ``reference``: none. Everything runs in plain PyTorch, slower, as it does with a warning where
      the others cannot be had.
    - ``triton``: as ``auto``, and kernels in Triton on GPUs, which nothing else chooses.
    - ``require``: as ``auto``, with an error in place of that warning, and wherever an operation
      has no kernel for its inputs.

    ``MGIC_CFLAGS`` are more flags for the compiler, for which nothing is prebuilt.

    Raises:
        ValueError: ``MGIC_KERNELS`` is something else.
        RuntimeError: They are required and cannot be had.
    """
    choice = os.environ.get(SWITCH) or CHOICES[0]
    if choice not in CHOICES:
        raise ValueError(f"{SWITCH} must be one of {', '.join(CHOICES)}, got {choice!r}")
    if choice == "reference":
        return None
    try:
        with _lock:
            return _found(kernels, choice)
    except FAILURES as error:
        failed = isinstance(error, subprocess.CalledProcessError | subprocess.TimeoutExpired)
        said = (error.output or "").strip() if failed else ""
        reason = f"{error}\n{said}" if said else f"{error}"
        if choice == "require":
            raise RuntimeError(f"{kernels.package} has no compiled kernels: {reason}") from error
        _log.warning(
            "%s runs without its compiled kernels, slower: %s (%s=reference silences this)",
            *(kernels.package, reason, SWITCH),
        )
        return None


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether there are compiled kernels; a constant to ``torch.compile``."""
    return library() is not None


def loaded() -> Library:
    """The compiled kernels, where it is known that they are there."""
    found = library()
    assert found is not None
    return found


def lanes() -> int:
    """How many numbers a vector of the kernels has, what weights are packed for."""
    return loaded().lanes


def run(name: str, *arguments: object) -> None:
    """Call a compiled function of graphs: see :class:`~mgic_geo.ops.csrc.call.Entry`."""
    loaded().entries[name](*arguments)


def _found(kernels: Kernels, choice: str) -> Library:
    """Kernels of a wheel where these are wanted and there, else compiled ones."""
    if choice == "prebuilt" or (choice != "native" and not os.environ.get(MORE_FLAGS)):
        grades = [grade.name for grade in processor.supported()]
        for path in filter(Path.exists, map(kernels.prebuilt, grades)):
            try:
                return _load(path, kernels)
            except FAILURES as error:
                _log.warning("%s cannot be loaded: %s", path, error)
        if choice == "prebuilt":
            raise OSError(f"nothing prebuilt for {', '.join(grades) or 'this kind of machine'}")
    return _load(_compiled(kernels), kernels)


def _compiled(kernels: Kernels) -> Path:
    """Path of the library for this very processor, compiled if it is not there."""
    key = f"{kernels.package}-{kernels.digest(*settings(), processor.describe())}"

    def make(path: Path) -> None:
        find_compiler()  # where there is none, nothing is announced
        # a warning, since messages of lower levels are not shown by default
        _log.warning(
            "%s: compiling its kernels for this processor (once, half a minute)", kernels.package
        )
        compile_library(kernels, path)
        _load(path, kernels)  # what lacks something is not kept

    return libraries.find(key) or libraries.store(key, make)


def _load(path: Path, kernels: Kernels) -> Library:
    found, prototypes = ctypes.CDLL(str(path)), read_prototypes(*kernels.sources)
    entries = {name: Entry(found[name], parameters) for name, parameters in prototypes.items()}
    return Library(entries, ctypes.c_int64.in_dll(found, "mgic_lanes").value)


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


# a process that is forked while another thread compiles has the lock of a thread that it has not
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_renew_lock)
