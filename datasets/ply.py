"""Read PLY, in text or binary, with polygons of any number of corners."""

import re
from typing import NamedTuple

import numpy as np

_HEADER = re.compile(rb"ply\s*\n(.*?)\nend_header[ \t]*\r?\n", re.DOTALL)
_CODES = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
_OLD = ("char", "uchar", "short", "ushort", "int", "uint", "float", "double")
_NEW = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
_TYPES = dict(zip((*_OLD, *_NEW), 2 * _CODES, strict=True))
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


class Lists(NamedTuple):
    """Lists of numbers of any lengths, one after the other."""

    values: np.ndarray
    lengths: np.ndarray


class _Property(NamedTuple):
    name: str
    type: str
    counted_in: str | None  # type of the length of a list


class _Element(NamedTuple):
    name: str
    count: int
    properties: list[_Property]


Columns = dict[str, np.ndarray | Lists]


def parse_ply(data: bytes) -> dict[str, Columns]:
    r"""Return the elements of a PLY file, with their properties by name.

    Raises:
        ValueError: It is no such file, or cut short.

    References:
        Turk, The PLY polygon file format, 1994.

    Example:
        >>> head = b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\n"
        >>> head += b"element face 1\nproperty list uchar int vertex_indices\nend_header\n"
        >>> found = parse_ply(head + b"0.5\n2\n3 0 1 0\n")
        >>> found["vertex"]["x"].tolist(), found["face"]["vertex_indices"].values.tolist()
        ([0.5, 2.0], [0, 1, 0])
    """
    header = _HEADER.match(data)
    if header is None:
        raise ValueError("it is no PLY file: there is no header from ply to end_header")
    form, elements = _read_header(header[1].decode("ascii", "replace"))
    if form == "ascii":
        source: _Words | _Bytes = _Words(data[header.end() :].split())
    else:
        source = _Bytes(data[header.end() :], _ORDERS[form])
    return {element.name: source.read(element) for element in elements}


def _read_header(text: str) -> tuple[str, list[_Element]]:
    """Return the format, and what each element consists of."""
    form, elements = "", []
    for line in text.splitlines():
        try:
            match line.split():
                case ["format", form, _]:
                    _ORDERS[form]
                case ["element", name, count]:
                    elements.append(_Element(name, int(count), []))
                case ["property", "list", count, kind, name]:
                    elements[-1].properties.append(_Property(name, _TYPES[kind], _TYPES[count]))
                case ["property", kind, name]:
                    elements[-1].properties.append(_Property(name, _TYPES[kind], None))
                case [word, *_] if word not in ("comment", "obj_info"):
                    raise ValueError
        except (KeyError, ValueError, IndexError):
            raise ValueError(f"the header of the PLY file has the line {line[:80]!r}") from None
    if not form or any(element.count < 0 for element in elements):
        raise ValueError("the header of the PLY file is not complete")
    return form, elements


def _cut_short(element: _Element) -> ValueError:
    return ValueError(f"the PLY file is cut short: it promises {element.count} x {element.name}")


class _Words:
    """The body of a file in text."""

    def __init__(self, words: list[bytes]) -> None:
        self.words, self.place = words, 0

    def read(self, element: _Element) -> Columns:
        """Read what is next."""
        if any(each.counted_in for each in element.properties):
            return self._read_lists(element)
        width = len(element.properties)
        words = self._next(element.count * width, element)
        table = np.array(words, np.float64).reshape(element.count, width)
        return {
            each.name: column.astype(each.type)
            for each, column in zip(element.properties, table.T, strict=True)
        }

    def _read_lists(self, element: _Element) -> Columns:
        found: list[tuple[list[bytes], list[int]]] = [([], []) for _ in element.properties]
        for _ in range(element.count):
            for each, (values, lengths) in zip(element.properties, found, strict=True):
                length = int(self._next(1, element)[0]) if each.counted_in else 1
                values += self._next(length, element)
                lengths.append(length)
        return _columns(
            element, [(np.array(v, np.float64), np.array(n, np.int64)) for v, n in found]
        )

    def _next(self, count: int, element: _Element) -> list[bytes]:
        words = self.words[self.place : self.place + count]
        if count < 0 or len(words) < count:
            raise _cut_short(element)
        self.place += count
        return words


class _Bytes:
    """The body of a binary file."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.place = data, order, 0

    def read(self, element: _Element) -> Columns:
        """Read what is next, at once where all rows are as long as the first."""
        if element.count == 0:
            nothing = np.empty(0), np.empty(0, np.int64)
            return _columns(element, [nothing for _ in element.properties])
        start = self.place
        lengths = [len(self._next(each, element)) for each in element.properties]
        fields = []
        for each, length in zip(element.properties, lengths, strict=True):
            counted = [(f"{each.name} #", self.order + each.counted_in)] if each.counted_in else []
            fields += [*counted, (each.name, self.order + each.type, (length,))]
        row = np.dtype(fields)
        if element.count * row.itemsize <= len(self.data) - start:
            table = np.frombuffer(self.data, row, element.count, start)
            parts = list(zip(element.properties, lengths, strict=True))
            if all((table[f"{each.name} #"] == k).all() for each, k in parts if each.counted_in):
                self.place = start + table.nbytes
                whole = [(table[each.name].ravel(), np.full(len(table), k)) for each, k in parts]
                return _columns(element, whole)
        self.place = start
        found: list[list[np.ndarray]] = [[] for _ in element.properties]
        for _ in range(element.count):
            for each, values in zip(element.properties, found, strict=True):
                values.append(self._next(each, element))
        return _columns(
            element, [(np.concatenate(v), np.array([len(each) for each in v])) for v in found]
        )

    def _next(self, each: _Property, element: _Element) -> np.ndarray:
        """Read a value, or the values of a list."""
        try:
            length = 1
            if each.counted_in:
                counted_in = np.dtype(self.order + each.counted_in)
                length = int(np.frombuffer(self.data, counted_in, 1, self.place)[0])
                self.place += counted_in.itemsize
            values = np.frombuffer(self.data, self.order + each.type, max(length, 0), self.place)
        except ValueError:
            raise _cut_short(element) from None
        self.place += values.nbytes
        return values


def _columns(element: _Element, found: list[tuple[np.ndarray, np.ndarray]]) -> Columns:
    """Name what was read; numbers are of the machine's own order from here on."""
    return {
        each.name: Lists(values.astype(each.type), lengths)
        if each.counted_in
        else values.astype(each.type)
        for each, (values, lengths) in zip(element.properties, found, strict=True)
    }
