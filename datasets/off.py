"""Read and format OFF, the text format of ModelNet's meshes.

The reader is strict: a file that is cut short, points outside its own vertices or holds anything
but a mesh is an error that names the file and, where there is one, the line.
"""

import os
import re
import warnings

import mapbox_earcut
import numpy as np

from datasets.number_lines import NumberLines
from datasets.surface import cumulative_areas, unit_scale

MAX_BYTES = 1 << 30  # ModelNet10's largest file has 17 MB
# ST, C and N in any order: MeshLab has one of its own; ModelNet's `OFF` is also found as `off`
_HEADER = re.compile(rb"\s*((?:ST|C|N)*)(4n|4|n)?(?:OFF|off)(?:[ \t]*BINARY)?")
_COUNTS = re.compile(rb"\s*(\d{1,18})[ \t]+(\d{1,18})(?:[ \t]+\d{1,18})?[ \t]*(?=\n|$)")


class OFFError(ValueError):
    """The file is not an OFF mesh that can be used; the message names it."""


class OFFWarning(UserWarning):
    """Something was left out of a mesh because ``lenient=True`` asked for it."""


def shown(path: str | os.PathLike[str]) -> str:
    r"""Spell a path so that it can be printed, whatever bytes its name holds.

    Example:
        >>> shown("caf\udce9.off") == r"caf\xe9.off"
        True
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def parse_off(data: bytes, name: str, *, lenient: bool = False) -> tuple[np.ndarray, np.ndarray]:
    r"""Read a mesh from the bytes of an OFF file; polygons are cut into triangles.

    Convex ones are cut from their first corner, concave ones by ear clipping in the plane of the
    polygon, so that the triangles cover the polygon and nothing else.

    Accepts what is found in the wild: a header glued to the counts (``OFF123 45 0``), comments,
    blank lines, Windows line ends, no last line end, colors of faces or vertices (``COFF``),
    normals (``NOFF``). Colors, normals and texture coordinates are skipped.

    A file that ends inside its very last number, without a line end, cannot be told from a whole
    one; every other cut is noticed.

    Args:
        data: The bytes.
        name: What to call them in messages.
        lenient: Warn and go on where a strict reader stops but a mesh remains: drop vertices that
            are NaN or infinite (with their faces), faces of one or two corners, and lines past the
            end; accept a mesh without faces or without area.

    Shape:
        - Returns vertices, float64 ``(V, 3)`` in the file's unit, and faces, int64 ``(F, 3)``.

    Raises:
        OFFError: Not an OFF file, or one that breaks its own promises.

    Example:
        >>> square = b"OFF4 1 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n"
        >>> parse_off(square, "square.off")[1].tolist()
        [[0, 1, 2], [0, 2, 3]]
        >>> parse_off(b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "bad.off")
        Traceback (most recent call last):
        ...
        datasets.off.OFFError: bad.off, line 6: a face names vertex 7, there are 3
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    num_vertices, num_faces, extras, start = _read_header(data, name)
    if num_faces == 0:
        complain(lenient, f"{name}: the mesh has no faces")
    body = data[start:]
    if b"#" in body:
        body = re.sub(rb"#[^\n]*", b"", body)
    lines = NumberLines(body, first_line=1 + data.count(b"\n", 0, start))
    wanted = num_vertices + num_faces
    if len(lines) < wanted:
        raise OFFError(
            f"{name}: truncated: the header promises {num_vertices} vertices and {num_faces} "
            f"faces, but only {len(lines)} of {wanted} lines follow"
        )
    if len(lines) > wanted:
        place = f"{name}, line {lines.places[wanted]}"
        complain(lenient, f"{place}: {len(lines) - wanted} lines after the last face")
    vertices = _read_vertices(lines, num_vertices, extras, name)
    polygons = _read_faces(lines, num_vertices, num_faces, name, lenient)
    faces = cut_polygons(vertices, *polygons)
    vertices, faces = _keep_finite(vertices, faces, lines, name, lenient)
    if num_faces and not has_area(vertices, faces):
        complain(lenient, f"{name}: the mesh has no area, all its faces are degenerate")
    return vertices, faces


def format_off(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    r"""Return the bytes of a triangle mesh, of which :func:`parse_off` makes the same numbers.

    Shape:
        - ``vertices``: ``(V, 3)``, in any unit; ``faces``: ``(F, 3)``.

    Raises:
        ValueError: Arrays of another shape, coordinates that are not finite, or faces that name
            vertices which do not exist.

    Example:
        >>> format_off(np.eye(3), np.array([[0, 1, 2]])).split(b"\n")[:3]
        [b'OFF', b'3 1 0', b'1.0 0.0 0.0']
    """
    vertices, faces = np.asarray(vertices, dtype=np.float64), np.asarray(faces)
    for name, array in (("vertices", vertices), ("faces", faces)):
        if array.ndim != 2 or array.shape[1] != 3:
            raise ValueError(f"{name} must have the shape (N, 3), got {array.shape}")
    if not np.isfinite(vertices).all():
        raise ValueError("vertices must be finite")
    if len(faces) and not (faces.min() >= 0 and faces.max() < len(vertices)):
        spread = f"{faces.min()} to {faces.max()}"
        raise ValueError(f"faces must name vertices 0 to {len(vertices) - 1}, got {spread}")
    rows = [f"{x!r} {y!r} {z!r}" for x, y, z in vertices.tolist()]
    rows += [f"3 {a} {b} {c}" for a, b, c in faces.astype(np.int64).tolist()]
    return "\n".join(["OFF", f"{len(vertices)} {len(faces)} 0", *rows, ""]).encode("ascii")


def has_area(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """Whether there is a surface to draw points from."""
    return len(faces) > 0 and cumulative_areas(unit_scale(vertices), faces)[-1] > 0


def complain(lenient: bool, message: str) -> None:
    """Stop, or warn and go on."""
    if not lenient:
        raise OFFError(message)
    warnings.warn(message, OFFWarning, stacklevel=4)


def _read_header(data: bytes, name: str) -> tuple[int, int, int, int]:
    """Return the counts of vertices and faces, further numbers a vertex, and where the body is."""
    if not data.strip():
        raise OFFError(f"{name}: not an OFF file: it is empty")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise OFFError(f"{name}: not an OFF file: it is UTF-16, not ASCII, text")
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    # comments may stand before the header; blanks in their place keep every offset
    head = re.sub(rb"#[^\n]*", lambda hit: b" " * len(hit[0]), data[: start + 65536])
    header = _HEADER.match(head, start)
    if header is None:
        raise OFFError(f"{name}: not an OFF file: it starts with {data[:20]!r}")
    prefix, dimension = header.groups()
    texture, normals = b"ST" in prefix, b"N" in prefix
    if dimension or header[0].endswith(b"BINARY") or b"\0" in data:
        kind = "four or n dimensions" if dimension else "binary data"
        raise OFFError(f"{name}: not an OFF file that can be read: it has {kind}")
    counts = _COUNTS.match(head, header.end())
    if counts is None:
        line = head[header.end() :].lstrip().split(b"\n")[0][:40]
        raise OFFError(f"{name}: the counts of vertices and faces are missing, found {line!r}")
    num_vertices, num_faces = int(counts[1]), int(counts[2])
    if num_vertices == 0:
        raise OFFError(f"{name}: the mesh has no vertices")
    # the shortest lines are "0 0 0" and "1 0"; nothing is allocated for a claim beyond that
    if 6 * num_vertices + 4 * num_faces > len(data) - counts.end() + 1:
        raise OFFError(
            f"{name}: truncated or corrupt: the header promises {num_vertices} vertices and "
            f"{num_faces} faces, more than its {len(data)} bytes can hold"
        )
    return num_vertices, num_faces, 3 * normals + 2 * texture, counts.end()


def _parse(lines: NumberLines, start: int, stop: int, name: str, *dtypes: type) -> np.ndarray:
    """Parse lines as the first of these types that fits all their words."""
    for dtype in dtypes:
        numbers = lines.parse(start, stop, dtype)
        if numbers is not None:
            return numbers
    place, word = lines.bad_word(start, stop)
    raise OFFError(f"{name}, line {place}: {word!r} is not a number")


def _read_vertices(lines: NumberLines, count: int, extras: int, name: str) -> np.ndarray:
    """Parse the first ``count`` lines and keep three numbers of each."""
    widths = lines.widths(0, count)
    fits = np.isin(widths - 3 - extras, (0, 3, 4))  # nothing, RGB or RGBA
    if not fits.all():
        bad = np.argmin(fits)
        place = f"{name}, line {lines.places[bad]}"
        raise OFFError(f"{place}: a vertex cannot have {widths[bad]} numbers")
    numbers = _parse(lines, 0, count, name, np.float64)
    return numbers[lines.first[:count, None] + np.arange(3)]


def _read_faces(
    lines: NumberLines, start: int, count: int, name: str, lenient: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Parse ``count`` lines from ``start`` on: vertices corner by corner, and how many corners."""
    numbers = _parse(lines, start, start + count, name, np.int64, np.float64)  # colors: fractions
    first = lines.first[start : start + count] - lines.first[start]
    corners = numbers[first]
    # a color index, RGB or RGBA may follow; a count that is a fraction leaves a fraction here
    after = lines.widths(start, start + count) - 1 - corners
    fits = (corners >= 1) & np.isin(after, (0, 1, 3, 4))
    if not fits.all():
        bad = np.argmin(fits)
        raise OFFError(
            f"{name}, line {lines.places[start + bad]}: a face of {corners[bad]:g} corners "
            f"cannot have {after[bad] + corners[bad]:g} further numbers"
        )
    corners = corners.astype(np.int64)
    if (corners < 3).any():
        bad = np.argmax(corners < 3)
        place = f"{name}, line {lines.places[start + bad]}"
        complain(lenient, f"{place}: a face needs 3 corners, this one has {corners[bad]}")
    indices = numbers[np.repeat(first + 1, corners) + _within(corners)]
    fits = (indices >= 0) & (indices < start) & (indices == np.floor(indices))
    if not fits.all():
        bad = np.argmin(fits)
        place = lines.places[start + np.searchsorted(np.cumsum(corners), bad, "right")]
        message = f"a face names vertex {indices[bad]:.17g}, there are {start}"
        raise OFFError(f"{name}, line {place}: {message}")
    return indices.astype(np.int64), corners


def _within(counts: np.ndarray) -> np.ndarray:
    """Number the members of each group: counts ``[2, 3]`` give ``[0, 1, 0, 1, 2]``."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def cut_polygons(vertices: np.ndarray, indices: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Cut planar polygons into triangles of their own corners.

    Args:
        vertices: Coordinates.
        indices: Vertices of all polygons, corner by corner.
        corners: How many corners each polygon has; those of fewer than three give nothing.

    Shape:
        - ``vertices``: ``(V, 3)``. Returns ``(F, 3)``, in the order of the polygons.

    Example:
        >>> corner = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [1.5, 0.5, 0]], float)
        >>> cut_polygons(corner, np.array([0, 1, 2, 3]), np.array([4])).tolist()  # 3 is inside
        [[3, 0, 1], [3, 1, 2]]
    """
    faces = _fan(indices, corners)
    first_face = np.cumsum(np.maximum(corners - 2, 0)) - np.maximum(corners - 2, 0)
    first_corner = np.cumsum(corners) - corners
    for size in np.unique(corners[corners > 3]):
        polygons = np.flatnonzero(corners == size)
        named = indices[first_corner[polygons, None] + np.arange(size)]
        points = vertices[named]  # (polygons, size, 3)
        edges = np.roll(points, -1, axis=1) - points
        turns = np.cross(edges, np.roll(edges, -1, axis=1))
        normals = np.cross(points - points[:, :1], edges).sum(1, keepdims=True)  # Newell's
        concave = ((turns * normals).sum(2) < 0).any(1)
        for place, normal in zip(np.flatnonzero(concave), normals[concave, 0], strict=True):
            seen = np.delete(points[place], np.abs(normal).argmax(), axis=1)
            ends = np.array([size], np.uint32)
            cut = mapbox_earcut.triangulate_float64(np.ascontiguousarray(seen), ends)
            if len(cut) != 3 * (size - 2):  # the polygon crosses itself
                continue
            cut = cut.reshape(-1, 3)
            one, two, three = points[place][cut].swapaxes(0, 1)
            flipped = np.cross(two - one, three - one) @ normal < 0
            cut[flipped] = cut[flipped, ::-1]
            faces[first_face[polygons[place]] + np.arange(size - 2)] = named[place][cut]
    return faces


def _fan(indices: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Cut polygons, listed corner by corner, into triangles around their first corners."""
    triangles = np.maximum(corners - 2, 0)
    first = np.repeat(np.cumsum(corners) - corners, triangles)
    second = first + 1 + _within(triangles)
    return indices[np.stack([first, second, second + 1], axis=1)]


def _keep_finite(
    vertices: np.ndarray, faces: np.ndarray, lines: NumberLines, name: str, lenient: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Refuse vertices that are NaN or infinite, or drop them with their faces."""
    finite = np.asarray(np.isfinite(vertices).all(axis=1))
    if finite.all():
        return vertices, faces
    bad = np.argmin(finite)
    kept = finite[faces].all(axis=1)
    dropped = f"{(~finite).sum()} vertices, in {(~kept).sum()} triangles, are like it"
    place = f"{name}, line {lines.places[bad]}"
    complain(lenient, f"{place}: a vertex is {vertices[bad].tolist()}; {dropped}")
    if not finite.any():
        raise OFFError(f"{name}: not one vertex is finite")
    return vertices[finite], (np.cumsum(finite) - 1)[faces[kept]]
