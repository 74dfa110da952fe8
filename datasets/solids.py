"""Small closed meshes to build furniture from, and the damage that a scan does to them.

Coordinates are in meters, z is up. A solid is a pair of vertices, float64 ``(V, 3)``, and faces,
int64 ``(F, 3)``.
"""

from collections.abc import Sequence

import numpy as np

Solid = tuple[np.ndarray, np.ndarray]


def outline(width: float, depth: float, *, corners: int = 4, squareness: float = 2.0) -> np.ndarray:
    """Return a closed curve around the origin of the xy plane.

    Args:
        width: Extent along x, in meters.
        depth: Extent along y.
        corners: Points of the curve; 4 is the rectangle itself.
        squareness: Exponent of the superellipse: 2 is an ellipse, 8 nearly the rectangle.

    Shape:
        - Returns ``(corners, 2)``, counterclockwise.

    Example:
        >>> outline(2, 4).tolist()
        [[1.0, 2.0], [-1.0, 2.0], [-1.0, -2.0], [1.0, -2.0]]
    """
    half = np.array([width, depth]) / 2
    if corners == 4:
        return np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * half
    angle = 2 * np.pi * (np.arange(corners) + 0.5) / corners
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.sign(circle) * np.abs(circle) ** (2 / squareness) * half


def loft(rings: Sequence[np.ndarray]) -> Solid:
    """Join rings of equally many points by walls, and close the first and the last with a lid.

    Two rectangles make a box, two circles a cylinder; going up outside and down inside makes a tub.

    Args:
        rings: Curves in space, in order, all counterclockwise seen from the last one's side.

    Shape:
        - ``rings``: ``(R, 3)`` each; returns ``len(rings) * R`` vertices.

    Example:
        >>> square = np.hstack([outline(1, 1), np.zeros((4, 1))])
        >>> vertices, faces = loft([square, square + [0, 0, 1]])
        >>> len(vertices), len(faces)
        (8, 12)
    """
    size = len(rings[0])
    here = np.arange(size)
    there = (here + 1) % size
    faces = []
    for i in range(len(rings) - 1):
        low, high = i * size, (i + 1) * size
        faces.append(np.stack([low + here, low + there, high + there], axis=1))
        faces.append(np.stack([low + here, high + there, high + here], axis=1))
    fan = np.stack([np.zeros(size - 2, int), here[1:-1], here[2:]], axis=1)
    faces.append(fan[:, ::-1])
    faces.append(fan + (len(rings) - 1) * size)
    return np.concatenate(rings), np.concatenate(faces)


def stack(shape: np.ndarray, levels: Sequence[tuple[float, float]]) -> Solid:
    """Loft one curve through heights, each with a factor for its size.

    Args:
        shape: A curve in the xy plane.
        levels: Height in meters and factor of each ring.

    Shape:
        - ``shape``: ``(R, 2)``.

    Example:
        >>> stack(outline(1, 1), [(0, 1), (2, 0.5)])[0][-1].tolist()
        [0.25, -0.25, 2.0]
    """
    return loft([np.column_stack([shape * k, np.full(len(shape), z)]) for z, k in levels])


def box(low: Sequence[float], high: Sequence[float]) -> Solid:
    """Return the box between two corners, in meters.

    Example:
        >>> box((0, 0, 0), (1, 2, 3))[0].max(axis=0).tolist()
        [1.0, 2.0, 3.0]
    """
    start, end = np.asarray(low, float), np.asarray(high, float)
    vertices, faces = stack(outline(1, 1), [(-0.5, 1), (0.5, 1)])
    return vertices * (end - start) + (start + end) / 2, faces


def moved(solid: Solid, offset: Sequence[float]) -> Solid:
    """Return the solid shifted by ``offset``, in meters.

    Example:
        >>> moved(box((0, 0, 0), (1, 1, 1)), (5, 0, 0))[0].max(axis=0).tolist()
        [6.0, 1.0, 1.0]
    """
    return solid[0] + np.asarray(offset, float), solid[1]


def subdivide(
    vertices: np.ndarray, faces: np.ndarray, longest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Halve edges until none is longer than ``longest``; neighbors keep sharing their edges.

    Args:
        vertices: Coordinates in meters.
        faces: Corners of each triangle.
        longest: Edge length to reach, in meters.

    Shape:
        - Returns vertices, faces, and for each face the one it came from, ``(F',)``.

    Example:
        >>> vertices, faces, parents = subdivide(*box((0, 0, 0), (1, 1, 1)), longest=1.1)
        >>> len(faces), np.bincount(parents).tolist()
        (24, [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    parents = np.arange(len(faces))
    while True:
        sides = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=2), axis=2)  # (F, 3, 2)
        # one number an edge: np.unique sorts those fifty times faster than pairs
        keys, place = np.unique(sides[..., 0] * len(vertices) + sides[..., 1], return_inverse=True)
        edges = np.stack(np.divmod(keys, len(vertices)), axis=1)
        ends = vertices[edges]
        long = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1) > longest
        if not long.any():
            return vertices, faces, parents
        middle = np.cumsum(long) - 1 + len(vertices)
        vertices = np.concatenate([vertices, ends[long].mean(axis=1)])
        place = place.reshape(-1, 3)
        faces, origin = _split(faces, np.where(long[place], middle[place], -1))
        parents = parents[origin]


def _split(faces: np.ndarray, middles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut triangles at the middles of their edges ab, bc, ca; -1 is an edge that stays whole."""
    count = (middles >= 0).sum(axis=1)
    # turn each triangle so that its cut edges come first, its whole ones last
    turn = np.where(count == 1, np.argmax(middles >= 0, axis=1), 0)
    turn = np.where(count == 2, (np.argmin(middles, axis=1) + 1) % 3, turn)
    order = (np.arange(3) + turn[:, None]) % 3
    a, b, c = np.take_along_axis(faces, order, axis=1).T
    p, q, r = np.take_along_axis(middles, order, axis=1).T
    patterns = {
        0: [(a, b, c)],
        1: [(a, p, c), (p, b, c)],
        2: [(p, b, q), (a, p, q), (a, q, c)],
        3: [(a, p, r), (p, b, q), (r, q, c), (p, q, r)],
    }
    pieces, origins = [], []
    for cuts, triangles in patterns.items():
        chosen = np.flatnonzero(count == cuts)
        for triangle in triangles:
            pieces.append(np.stack(triangle, axis=1)[chosen])
            origins.append(chosen)
    return np.concatenate(pieces), np.concatenate(origins)
