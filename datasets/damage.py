"""What a hasty scan does to a shape: a side is missing, the surface trembles, specks float."""

import numpy as np

from datasets.furniture import Shape
from datasets.solids import subdivide
from datasets.surface import face_areas

KEPT = (0.7, 0.9)  # share of the surface that a partial scan sees
NOISE = (0.001, 0.004)  # standard deviation of vertices, in units of the diagonal
STRAY_AREA = (0.003, 0.01)  # share of the surface that is specks
FINE_EDGE = 0.08  # longest edge before vertices are moved, in units of the diagonal


def damage(
    shape: Shape,
    generator: np.random.Generator,
    *,
    cut: tuple[float, float] | None = KEPT,
    noise: tuple[float, float] | None = NOISE,
    stray: tuple[float, float] | None = STRAY_AREA,
) -> Shape:
    """Cut a side off, move the vertices a little, and scatter specks around.

    Args:
        shape: What to damage; it stays as it is.
        generator: The only source of randomness.
        cut: Range of the share of the surface that stays; ``None`` keeps all of it.
        noise: Range of the standard deviation of vertices, in units of the diagonal.
        stray: Range of the area of the specks, as a share of the surface that stays.

    Returns:
        A new shape, whose specks are the part ``stray``.

    Example:
        >>> from datasets.furniture import make_shape
        >>> generator = np.random.default_rng(0)
        >>> damage(make_shape("table", generator), generator).part_names[-1]
        'stray'
    """
    diagonal = float(np.linalg.norm(np.ptp(shape.vertices, axis=0)))
    vertices, faces, parents = subdivide(shape.vertices, shape.faces, FINE_EDGE * diagonal)
    parts, names = shape.part_of_face[parents], shape.part_names
    if cut is not None:
        seen = _seen(vertices, faces, generator.uniform(*cut), generator)
        faces, parts = faces[seen], parts[seen]
    if noise is not None:
        sigma = generator.uniform(*noise) * diagonal
        vertices = vertices + generator.standard_normal(vertices.shape) * sigma
    if stray is not None:
        area = face_areas(vertices, faces).sum() * generator.uniform(*stray)
        specks = _specks(vertices, area, generator)
        added = np.arange(len(specks)).reshape(-1, 3)
        faces = np.concatenate([faces, added + len(vertices)])
        parts = np.concatenate([parts, np.full(len(added), len(names))])
        vertices, names = np.concatenate([vertices, specks]), (*names, "stray")
    return Shape(vertices, faces, parts, names)


def _seen(
    vertices: np.ndarray, faces: np.ndarray, kept: float, generator: np.random.Generator
) -> np.ndarray:
    """Tell which faces lie on the near side of a plane that leaves the wanted share."""
    angle, lift = generator.uniform(0, 2 * np.pi), generator.uniform(-0.3, 0.6)
    direction = np.array([np.cos(angle), np.sin(angle), lift])
    depth = vertices[faces].mean(axis=1) @ direction
    order = np.argsort(depth, kind="stable")
    share = np.cumsum(face_areas(vertices, faces)[order])
    seen = np.zeros(len(faces), dtype=bool)
    seen[order[share <= kept * share[-1]]] = True
    return seen


def _specks(vertices: np.ndarray, area: float, generator: np.random.Generator) -> np.ndarray:
    """Scatter small triangles of this total area in and around the bounding box."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    count = int(generator.integers(8, 25))
    size = np.sqrt(area / count * 4 / np.sqrt(3))  # side of an equilateral triangle
    middle = (low + high) / 2 + generator.uniform(-0.65, 0.65, (count, 3)) * (high - low)
    first = generator.standard_normal((count, 3))
    second = np.cross(first, generator.standard_normal((count, 3)))
    first, second = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second))
    corners = [
        middle + size / np.sqrt(3) * (np.cos(t) * first + np.sin(t) * second)
        for t in 2 * np.pi / 3 * np.arange(3)
    ]
    return np.stack(corners, axis=1).reshape(-1, 3)
