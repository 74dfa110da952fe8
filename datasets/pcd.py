"""Read PCD, the format of the Point Cloud Library: coordinates only."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

_LINE = re.compile(rb"([A-Z]+)[ \t]+([^\r\n]*)\r?\n")
_TYPES = {"F": "f", "I": "i", "U": "u"}


def parse_pcd(data: bytes) -> np.ndarray:
    r"""Return the coordinates in a PCD file of version 0.6 or 0.7, of any of its three encodings.

    Shape:
        - Returns float64 ``(V, 3)``, points without coordinates (NaN) among them.

    Raises:
        ValueError: It is no such file, or cut short.

    References:
        https://pointclouds.org/documentation/tutorials/pcd_file_format.html

    Example:
        >>> head = b"VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nPOINTS 1\n"
        >>> parse_pcd(head + b"DATA ascii\n1 2 3\n").tolist()
        [[1.0, 2.0, 3.0]]
    """
    head, start = _read_header(data)
    try:
        names = head["FIELDS"].split()
        sizes = [int(size) for size in head["SIZE"].split()]
        kinds = [_TYPES[kind] for kind in head["TYPE"].split()]
        counts = [int(n) for n in head.get("COUNT", " ".join("1" for _ in names)).split()]
        num_points = int(head["POINTS"])
        fields = list(zip(names, kinds, sizes, counts, strict=True))
    except (KeyError, ValueError) as error:
        raise ValueError(f"the header of the PCD file is not complete: {error}") from None
    if not {"x", "y", "z"} <= set(names) or num_points < 1:
        raise ValueError(f"the PCD file holds no points with x, y and z, but {', '.join(names)}")
    body = data[start:]
    if head["DATA"] == "ascii":
        return _read_text(body, fields, num_points)
    row = np.dtype(
        {
            "names": [f"{name}{place}" for place, (name, *_) in enumerate(fields)],
            "formats": [(f"<{kind}{size}", (count,)) for _, kind, size, count in fields],
        }
    )
    if num_points * row.itemsize > 200 * len(body):
        raise ValueError(f"the PCD file is cut short: it promises {num_points} points")
    columns = [names.index(axis) for axis in "xyz"]
    if head["DATA"] == "binary":
        table = np.frombuffer(body, row, count=min(num_points, len(body) // row.itemsize))
        if len(table) < num_points:
            raise ValueError(f"the PCD file is cut short: {len(table)} of {num_points} points")
        return np.stack([table[row.names[i]][:, 0] for i in columns], axis=1).astype(np.float64)
    if head["DATA"] != "binary_compressed":
        raise ValueError(f"the PCD file has data of the kind {head['DATA']!r}, which is not known")
    packed, size = np.frombuffer(body, "<u4", count=2).tolist()
    if size != num_points * row.itemsize:
        raise ValueError(f"the PCD file promises {num_points} points and holds {size} bytes")
    unpacked = _decompress(body[8 : 8 + packed], size)
    ends = np.cumsum([0, *(num_points * size * count for _, _, size, count in fields)])
    columns_of = (
        np.frombuffer(unpacked[ends[i] : ends[i + 1]], f"<{fields[i][1]}{fields[i][2]}")
        for i in columns
    )
    return np.stack([column[:num_points] for column in columns_of], axis=1).astype(np.float64)


def _read_header(data: bytes) -> tuple[Mapping[str, str], int]:
    """Return the entries of the header, and where the body begins."""
    head: dict[str, str] = {}
    place = 0
    while "DATA" not in head:
        if data[place : place + 1] == b"#":
            place = data.find(b"\n", place) + 1
            continue
        line = _LINE.match(data, place)
        if line is None:
            raise ValueError("it is no PCD file: the header has no line DATA")
        head[line[1].decode()] = line[2].decode("ascii", "replace").strip()
        place = line.end()
    return head, place


def _read_text(body: bytes, fields: list[tuple[str, str, int, int]], count: int) -> np.ndarray:
    """Read one point a line."""
    ends = np.cumsum([0, *(field[3] for field in fields)])
    columns = [int(ends[[field[0] for field in fields].index(axis)]) for axis in "xyz"]
    lines = [line.split() for line in body.splitlines() if line.strip()][:count]
    if len(lines) < count:
        raise ValueError(f"the PCD file is cut short: {len(lines)} of {count} points")
    try:
        return np.array([[float(words[i]) for i in columns] for words in lines])
    except IndexError:
        raise ValueError(f"a line of the PCD file has fewer than {ends[-1]} numbers") from None


def _decompress(packed: bytes, size: int) -> bytes:
    """Undo LZF: runs of literal bytes, and copies of what came before.

    Example:
        >>> _decompress(bytes([1, 97, 98, 0x20 | 0x40, 1]), 7)
        b'abababa'
    """
    out = bytearray()
    place = 0
    while place < len(packed) and len(out) < size:
        control = packed[place]
        place += 1
        if control < 32:
            out += packed[place : place + control + 1]
            place += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += packed[place]
            place += 1
        begin = len(out) - ((control & 31) << 8) - packed[place] - 1
        place += 1
        if begin < 0:
            raise ValueError("the compressed data of the PCD file are damaged")
        for i in range(length + 2):  # byte by byte: a copy may reach into itself
            out.append(out[begin + i])
    if len(out) != size:
        raise ValueError(f"the PCD file is cut short: {len(out)} of {size} bytes")
    return bytes(out)
