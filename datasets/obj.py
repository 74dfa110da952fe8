"""Read the shape in an OBJ file: its vertices and polygons, without what they look like."""

import numpy as np


def parse_obj(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Return vertices, the vertices of all polygons corner by corner, and how many each has.

    Shape:
        - Returns float64 ``(V, 3)``, int64 ``(C,)`` and int64 ``(F,)``.

    Raises:
        ValueError: A line of a vertex or face cannot be read.

    Example:
        >>> parse_obj(b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1/1/1 2//1 -1\n")[1].tolist()
        [0, 1, 2]
    """
    vertices: list[list[bytes]] = []
    indices: list[int] = []
    corners: list[int] = []
    for line in data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").splitlines():
        kind, *words = line.split(b"#")[0].split() or [b""]
        if kind == b"v":
            vertices.append(words[:3])
        elif kind == b"f":
            try:
                named = [int(word.split(b"/")[0]) for word in words]
            except ValueError:
                raise ValueError(f"a face is {line[:80]!r}") from None
            # from the first vertex, 1, or back from the last one so far, -1
            indices += [place - 1 if place > 0 else len(vertices) + place for place in named]
            corners.append(len(named))
    if any(len(words) < 3 for words in vertices):
        raise ValueError("a vertex has fewer than three numbers")
    points = np.array(vertices, dtype=object).reshape(-1, 3).astype(np.float64)
    return points, np.array(indices, np.int64), np.array(corners, np.int64)
