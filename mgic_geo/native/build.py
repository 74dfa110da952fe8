"""Compile the kernels at their first use, once for every machine, and load them."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-std=gnu11", "-fPIC", "-shared", "-w")
OPENMP = "-fopenmp"
SWITCH = "MGIC_NATIVE"

_log = logging.getLogger(__name__)
_here = Path(__file__).parent


@dataclass(frozen=True)
class Kernels:
    """What makes one library of kernels.

    Args:
        package: Whose they are.
        sources: C files.
        headers: What these include of the project.
        arguments: Functions by name; ``p`` is an address or array, ``n`` a whole number, ``d`` a
            double, and the number of threads follows as an int.
        status: Functions that return a number.
    """

    package: str
    sources: tuple[Path, ...]
    headers: tuple[Path, ...]
    arguments: dict[str, str] = field(hash=False)
    status: tuple[str, ...] = ()


GRAPHS = Kernels(
    "mgic_geo",
    tuple(
        _here / name
        for name in (
            *("derivatives.c", "edge_gradients.c", "grouped_linear.c", "knn.c"),
            *("neighbor_max.c", "norm.c", "normalized_linear.c"),
        )
    ),
    tuple(_here / name for name in ("activations.h", "kernels.h", "pieces.h")),
    {
        "mgic_add_normalized_linear": "ppnnnnpppdpppppppn",
        "mgic_add_normalized_linear_backward": "ppnnnnpppppdpppppppn",
        "mgic_derivative_operators": "pnppppppppp",
        "mgic_edge_gradients": "pnpppndppp",
        "mgic_grouped_linear": "pnnpnnnpppp",
        "mgic_grouped_linear_weight": "pnnpnnnppn",
        "mgic_knn": "ppnnnpp",
        "mgic_pack": "pnpnp",
        "mgic_unpack": "pnnpnp",
        "mgic_mix_derivatives": "pnnpppppnnnnppnpppnpnnppn",
        "mgic_neighbor_max": "pnnppnpp",
        "mgic_neighbor_max_backward": "ppnnnp",
        "mgic_norm": "pnnppdnpppn",
        "mgic_norm_backward": "ppnnppdnpppppn",
    },
    (
        "mgic_add_normalized_linear",
        "mgic_add_normalized_linear_backward",
        "mgic_derivative_operators",
        "mgic_edge_gradients",
        "mgic_knn",
        "mgic_mix_derivatives",
    ),
)


@cache
def library(kernels: Kernels = GRAPHS) -> ctypes.CDLL | None:
    """The compiled kernels, or ``None`` where they are switched off or cannot be compiled.

    They are compiled with ``$CC``, ``cc``, ``gcc`` or ``clang``, in a few seconds, into the user's
    cache folder (``$XDG_CACHE_HOME/mgic``, by default ``~/.cache/mgic``). A file there is named by
    sources, compiler and processor, so that machines may share the folder. ``MGIC_NATIVE=0`` in the
    environment switches the kernels off: everything then runs in plain PyTorch, slower.
    """
    if os.environ.get(SWITCH, "1") == "0":
        return None
    try:
        return _declared(ctypes.CDLL(str(_compiled(kernels))), kernels)
    except (OSError, subprocess.SubprocessError) as error:
        detail = (getattr(error, "stderr", "") or "").strip()
        _log.warning(
            "%s runs without its compiled kernels, slower: %s%s (%s=0 silences this)",
            kernels.package,
            error,
            f"\n{detail}" if detail else "",
            SWITCH,
        )
        return None


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether there are compiled kernels; a constant to ``torch.compile``."""
    return library() is not None


def loaded() -> ctypes.CDLL:
    """The compiled kernels, where it is known that they are there."""
    found = library()
    assert found is not None
    return found


@cache
def lanes() -> int:
    """How many numbers a vector of the kernels has, what weights are packed for."""
    return ctypes.c_int64.in_dll(loaded(), "mgic_lanes").value


def _declared(found: ctypes.CDLL, kernels: Kernels) -> ctypes.CDLL:
    """Say what the functions take and return."""
    kinds = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "d": ctypes.c_double}
    for name, arguments in kernels.arguments.items():
        function = getattr(found, name)
        function.argtypes = [*(kinds[kind] for kind in arguments), ctypes.c_int]
        function.restype = ctypes.c_int64 if name in kernels.status else None
    return found


def _compiled(kernels: Kernels) -> Path:
    """Path of the shared library, compiled if it is not there."""
    compiler = _compiler()
    version = subprocess.run(
        [*compiler, "--version"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    digest = hashlib.sha256()
    for part in (*compiler, version, *FLAGS, platform.machine(), _processor()):
        digest.update(part.encode() + b"\0")
    for file in (*kernels.sources, *kernels.headers):
        digest.update(file.read_bytes())
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgic"
    path = folder / f"kernels-{digest.hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _log.info("compiling kernels of %s (once, a few seconds): %s", kernels.package, path)
        _compile(compiler, kernels, path)
    return path


def _compiler() -> list[str]:
    if named := os.environ.get("CC"):
        return shlex.split(named)
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    raise OSError("no C compiler (cc, gcc or clang) on the path")


def _processor() -> str:
    """What ``-march=native`` depends on, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _compile(compiler: list[str], kernels: Kernels, path: Path) -> None:
    """Write the library whole or not at all; several processes may do so at once."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    os.close(handle)
    sources = [f"-I{_here}", *map(str, kernels.sources)]
    try:
        for openmp in ([OPENMP], []):  # Apple's clang has none
            command = [*compiler, *FLAGS, *openmp, *sources, "-o", name, "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if done.returncode == 0:
                os.chmod(name, 0o644)
                os.replace(name, path)
                return
        raise subprocess.CalledProcessError(
            done.returncode, shlex.join(command), stderr=done.stderr[-2000:]
        )
    finally:
        Path(name).unlink(missing_ok=True)
