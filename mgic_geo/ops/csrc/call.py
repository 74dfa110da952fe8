"""Calls of compiled functions, whose C prototypes are the one description of their arguments.

A prototype such as ``ENTRY mgic_sum(FLOATS(x), INTS(index), OUT_FLOATS(y), int threads)``
says what Python has to pass, in this order: tensors of that type, whole numbers, doubles. ``None``
stands for an array that is not there. The number of threads is added here.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_NUMBERS = {"int64_t": ctypes.c_int64, "double": ctypes.c_double}
_EMPTY = 64  # in place of null, which means that there is no array, for one without numbers
IsInOrder = Callable[[Tensor], bool]
# of arrays: the type, and whether a tensor's numbers are in the order that the kernels read
_ARRAYS: dict[str, tuple[torch.dtype, IsInOrder]] = {
    "FLOATS": (torch.float32, Tensor.is_contiguous),
    "DOUBLES": (torch.float64, Tensor.is_contiguous),
    "INTS": (torch.int64, Tensor.is_contiguous),
    "ROWS": (torch.float32, lambda x: x.dim() == 2 and (x.stride(1) == 1 or x.size(1) <= 1)),
    "IMAGES": (
        torch.float32,
        lambda x: x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last),
    ),
}
_PROTOTYPE = re.compile(r"^ENTRY (mgic_\w+)\(([^{;]*)\)\s*\{", re.MULTILINE)
_PARAMETER = re.compile(r"(?:(OUT_)?([A-Z]+)\((\w+)\)|(int64_t|double) (\w+)|int threads)")


@dataclass(frozen=True)
class Parameter:
    """One argument as Python passes it.

    Args:
        name: As in the prototype.
        kind: ``FLOATS``, ``DOUBLES``, ``INTS``, ``ROWS`` or ``IMAGES`` for tensors, else the C
            type of a number.
    """

    name: str
    kind: str

    @property
    def ctypes(self) -> tuple[Any, ...]:
        """What it is to C."""
        if self.kind in _NUMBERS:
            return (_NUMBERS[self.kind],)
        stride = (ctypes.c_int64,) if self.kind == "ROWS" else ()
        return ctypes.c_void_p, ctypes.c_int64, *stride


def read_prototypes(*sources: Path) -> dict[str, tuple[Parameter, ...]]:
    """Parameters of the entry points in these C files, without the number of threads.

    Raises:
        ValueError: A prototype has something that is not known here.
    """
    found = {}
    for source in sources:
        for name, text in _PROTOTYPE.findall(source.read_text(encoding="utf-8")):
            found[name] = tuple(_parameters(name, " ".join(text.split())))
    return found


def _parameters(name: str, text: str) -> list[Parameter]:
    parameters = []
    parts = text.split(", ")
    if parts[-1] != "int threads":
        raise ValueError(f"{name} must end with int threads, got {parts[-1]}")
    for part in parts[:-1]:
        known = _PARAMETER.fullmatch(part)
        if known is None or (known[2] and known[2] not in _ARRAYS):
            raise ValueError(f"{name} has a parameter that is not known: {part}")
        parameters.append(Parameter(known[3] or known[5], known[2] or known[4]))
    return parameters


def read_constant(header: str, name: str, folder: Path = Path(__file__).parent) -> int:
    """The number that a header of the kernels defines.

    Raises:
        ValueError: It does not define it.

    Example:
        >>> read_constant("norm.h", "STATISTICS")
        5
    """
    text = (folder / header).read_text(encoding="utf-8")
    found = re.search(rf"^#define {name} (-?\d+)", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"{header} must define {name}")
    return int(found[1])


def check_fields(layout: type, header: str, name: str, folder: Path) -> None:
    """Compare the fields of a named tuple with those of a C struct of ``int64_t``.

    Raises:
        ValueError: They differ; the message names the first one that does.
    """
    text = (folder / header).read_text(encoding="utf-8")
    (body,) = re.findall(rf"typedef struct \{{([^}}]*)\}} {name};", text)
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    known = re.findall(r"\w+", body.replace("int64_t", ""))
    for own, other in zip_longest(layout._fields, known):  # type: ignore[attr-defined]
        if own != other:
            raise ValueError(f"{layout.__name__} has {own} where {name} of {header} has {other}")


class Entry:
    """A compiled function.

    Args:
        function: Of the loaded library.
        parameters: Of its prototype.

    Raises:
        TypeError: A tensor has another type, is not on a processor or not dense.
        ValueError: A tensor's numbers are in another order, or what the function reports.
        MemoryError: There was none for its workspace.
    """

    def __init__(self, function: Any, parameters: tuple[Parameter, ...]) -> None:
        kinds = [kind for parameter in parameters for kind in parameter.ctypes]
        function.argtypes, function.restype = [*kinds, ctypes.c_int], ctypes.c_char_p
        self.function = function
        # of each argument: its name, type and order, what stands for None, and whether its stride
        # goes along; called often
        self.plan: list[tuple[str, torch.dtype | None, IsInOrder, tuple[int, ...], bool]] = []
        for each in parameters:
            dtype, is_in_order = _ARRAYS.get(each.kind, (None, Tensor.is_contiguous))
            nothing = (0,) * len(each.ctypes)
            self.plan.append((each.name, dtype, is_in_order, nothing, each.kind == "ROWS"))

    def __call__(self, *arguments: Any) -> None:
        """Call it with tensors and numbers, one a parameter."""
        flat: list[Any] = []
        for argument, x in zip(self.plan, arguments, strict=True):
            name, dtype, is_in_order, nothing, strided = argument
            if dtype is None:
                flat.append(x)
            elif x is None:
                flat += nothing
            elif x.dtype is not dtype or not x.is_cpu or x.layout is not torch.strided:
                raise TypeError(
                    f"{name} must be {dtype} on a processor, got {x.dtype} on {x.device} "
                    f"({x.layout})"
                )
            elif not is_in_order(x) or x.is_neg():
                raise ValueError(f"{name} must be in order, got strides {x.stride()}")
            elif strided:  # from the first number to the last one, gaps between rows included
                reach = (x.size(0) - 1) * x.stride(0) + x.size(1) if x.size(0) else 0
                flat += (x.data_ptr() or _EMPTY, reach, x.stride(0))
            else:
                flat += (x.data_ptr() or _EMPTY, x.numel())
        report = self.function(*flat, torch.get_num_threads())
        if report is not None:
            text = report.decode()
            raise (MemoryError if text == "no memory" else ValueError)(text)
