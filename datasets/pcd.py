"""Read PCD, the format of the Point Cloud Library."""

import re
from collections.abc import Mapping

import numpy as np

_LINE = re.compile(rb"([A-Z]+)[ \t]+([^\r\n]*)\r?\n")
_TYPES = {"F": "f", "I": "i", "U": "u"}


def parse_pcd(data: bytes) -> dict[str, np.ndarray]:
    r"""Return the fields of a PCD file of version 0.6 or 0.7, of any of its three encodings.

    A color that is packed into one number, ``rgb`` or ``rgba``, becomes ``r``, ``g`` and ``b``.

    Shape:
        - Returns ``(V,)`` each, of fields that have one number a point; NaN where a point has no
          coordinates.

    Raises:
        ValueError: It is no such file, or cut short.

    References:
        https://pointclouds.org/documentation/tutorials/pcd_file_format.html

    Example:
        >>> head = b"VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nPOINTS 1\n"
        >>> parse_pcd(head + b"DATA ascii\n1 2 3\n")["z"].tolist()
        [3.0]
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
        return _unpacked(_read_text(body, fields, num_points))
    row = np.dtype(
        {
            "names": [f"{name}{place}" for place, (name, *_) in enumerate(fields)],
            "formats": [(f"<{kind}{size}", (count,)) for _, kind, size, count in fields],
        }
    )
    if num_points * row.itemsize > 200 * len(body):
        raise ValueError(f"the PCD file is cut short: it promises {num_points} points")
    single = [place for place, (_, _, _, count) in enumerate(fields) if count == 1]
    if head["DATA"] == "binary":
        table = np.frombuffer(body, row, count=min(num_points, len(body) // row.itemsize))
        if len(table) < num_points:
            raise ValueError(f"the PCD file is cut short: {len(table)} of {num_points} points")
        return _unpacked({names[i]: table[row.names[i]][:, 0] for i in single})
    if head["DATA"] != "binary_compressed":
        raise ValueError(f"the PCD file has data of the kind {head['DATA']!r}, which is not known")
    packed, size = np.frombuffer(body, "<u4", count=2).tolist()
    if size != num_points * row.itemsize:
        raise ValueError(f"the PCD file promises {num_points} points and holds {size} bytes")
    unpacked = _decompress(body[8 : 8 + packed], size)
    ends = np.cumsum([0, *(num_points * size * count for _, _, size, count in fields)])
    columns = {
        names[i]: np.frombuffer(unpacked[ends[i] : ends[i + 1]], f"<{fields[i][1]}{fields[i][2]}")
        for i in single
    }
    return _unpacked(columns)


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


def _read_text(
    body: bytes, fields: list[tuple[str, str, int, int]], count: int
) -> dict[str, np.ndarray]:
    """Read one point a line."""
    ends = np.cumsum([0, *(field[3] for field in fields)])
    lines = [line.split() for line in body.splitlines() if line.strip()][:count]
    if len(lines) < count:
        raise ValueError(f"the PCD file is cut short: {len(lines)} of {count} points")
    try:
        return {
            name: np.array([float(words[place]) for words in lines]).astype(f"<{kind}{size}")
            for (name, kind, size, number), place in zip(fields, ends[:-1].tolist(), strict=True)
            if number == 1
        }
    except IndexError:
        raise ValueError(f"a line of the PCD file has fewer than {ends[-1]} numbers") from None


def _unpacked(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Take a color that is packed into one number of four bytes apart."""
    for name in ("rgb", "rgba"):
        packed = columns.get(name)
        if packed is not None and packed.dtype.itemsize == 4:
            bits = np.ascontiguousarray(packed).view("<u4")
            columns |= {"r": bits >> 16 & 255, "g": bits >> 8 & 255, "b": bits & 255}
    return columns


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
