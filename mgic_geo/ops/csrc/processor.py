"""What this processor can do, and which of the kernels in a wheel suit it.

Needs the standard library only: wheels are built with it, where there may be no torch.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

_SECOND = "cx16 lahf_lm pni popcnt sse4_1 sse4_2 ssse3"
_THIRD = f"{_SECOND} abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
_FOURTH = f"{_THIRD} avx512bw avx512cd avx512dq avx512f avx512vl"
_KIND = ("CPU implementer", "CPU part", "CPU variant", "model name")
_FEATURES = ("Features", "flags")


@dataclass(frozen=True)
class Grade:
    """A class of processors that kernels are built for ahead of time.

    Args:
        name: As compilers call it.
        features: What a processor must have, as Linux calls it.
    """

    name: str
    features: frozenset[str] = frozenset()


_ARM = (Grade("armv8-a"),)
_GRADES = {
    "x86_64": (
        Grade("x86-64-v4", frozenset(_FOURTH.split())),
        Grade("x86-64-v3", frozenset(_THIRD.split())),
        Grade("x86-64"),
    ),
    "aarch64": _ARM,
    "arm64": _ARM,
}


def grades() -> tuple[Grade, ...]:
    """The grades of this kind of machine, best first; none where it is not known."""
    return _GRADES.get(platform.machine(), ())


def supported() -> list[Grade]:
    """Those that this processor has, best first."""
    found = features()
    return [grade for grade in grades() if grade.features <= found]


def features() -> frozenset[str]:
    """What every core can do, as far as the system tells."""
    lines = [line.partition(":")[2].split() for line in _lines(_FEATURES)]
    return frozenset(lines[0]).intersection(*lines) if lines else frozenset()


def describe() -> str:
    """Everything that the code a compiler makes for this very processor depends on."""
    return "\n".join(sorted(set(_lines((*_KIND, *_FEATURES))))) or platform.processor()


def _lines(starts: tuple[str, ...]) -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.startswith(starts)]
