"""Points on triangle meshes: areas, sampling, normalization.

Lengths are in whatever unit the mesh has until :func:`normalize` takes the unit away.
"""

import numpy as np


def unit_scale(vertices: np.ndarray) -> np.ndarray:
    """Center the bounding box on the origin and scale it so that no coordinate exceeds 1.

    Done in float64 and before anything is squared, so that a building in micrometers (1e11) and a
    molecule in meters (1e-30) come out alike.

    Args:
        vertices: Coordinates, all finite, in any unit.

    Shape:
        - ``vertices``: ``(V, 3)`` with ``V >= 1``.
        - Returns float64 ``(V, 3)``, without unit.

    Example:
        >>> unit_scale(np.array([[1e11, 0, 0], [2e11, 0, 0], [5e11, 0, 0]]))[:, 0].round(9).tolist()
        [-1.0, -0.5, 1.0]
    """
    vertices = np.asarray(vertices, dtype=np.float64)
    largest = np.abs(vertices).max()
    if largest > 0:
        vertices = vertices / largest  # first, or the box of +-1e308 is infinite
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = vertices - (low + high) / 2
    extent = np.abs(vertices).max()
    return vertices / extent if extent > 0 else vertices


def face_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the area of each triangle, float64 ``(F,)``, in squared units."""
    return np.linalg.norm(_twice_vector_areas(vertices, faces), axis=1) / 2


def cumulative_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Add up the triangle areas, which is all that sampling needs to know about them.

    Args:
        vertices: Coordinates; see :func:`unit_scale` for very large or small ones.
        faces: Corners of each triangle.

    Shape:
        - ``vertices``: ``(V, 3)``; ``faces``: ``(F, 3)``.
        - Returns float64 ``(F,)``, squared units; the last one is the mesh's area.

    Example:
        >>> square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        >>> cumulative_areas(square, np.array([[0, 1, 2], [0, 2, 3]])).tolist()
        [0.5, 1.0]
    """
    return np.cumsum(face_areas(vertices, faces))


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return vectors of length 1 at right angles to triangles, 0 where a triangle has no area.

    They point to the side from which the corners are seen in counterclockwise order. Many meshes,
    those of ModelNet among them, do not keep to the outside.

    Shape:
        - ``vertices``: ``(V, 3 or more)``; ``faces``: ``(F, 3)``. Returns float64 ``(F, 3)``.

    Example:
        >>> corner = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0]])
        >>> face_normals(corner, np.array([[0, 1, 2], [0, 2, 1]])).tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
    """
    vectors = _twice_vector_areas(vertices, faces)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0) + 0.0


def _twice_vector_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = np.asarray(vertices, dtype=np.float64)[:, :3][faces]  # (F, 3 corners, 3)
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def prepare(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Center and scale a mesh, without the vertices of no face, and add up its areas.

    Vertices that no face names would set the scale, and no point ever lies on them.

    Args:
        vertices: Coordinates in any unit, and features of points, which stay as they are.
        faces: Corners of each triangle; none for a point cloud.

    Shape:
        - Returns float32 ``(V', 3 or more)``, coordinates from -1 to 1, int32 ``(F, 3)`` and
          float64 ``(F,)``.

    Example:
        >>> corner = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [9, 9, 9]])
        >>> prepare(corner, np.array([[0, 1, 2]]))[0].tolist()
        [[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]
    """
    if len(faces):
        used = np.zeros(len(vertices), dtype=bool)
        used[faces] = True
        vertices, faces = vertices[used], (np.cumsum(used) - 1)[faces]
    scaled = unit_scale(vertices[:, :3])  # in float64, and only then rounded
    areas = cumulative_areas(scaled, faces)
    rows = np.concatenate([scaled, vertices[:, 3:]], axis=1)
    return rows.astype("<f4"), np.asarray(faces).astype("<i4"), areas


def sample_faces(
    vertices: np.ndarray,
    faces: np.ndarray,
    num_points: int,
    generator: np.random.Generator,
    *,
    cumulative: np.ndarray | None = None,
    normals: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points uniformly from the surface of a mesh, and tell which triangle each is from.

    A triangle is picked in proportion to its area, then a point uniformly inside it. A mesh without
    area (every triangle degenerate, or none) and a point cloud have their vertices drawn instead,
    no vertex twice where there are enough.

    Args:
        vertices: Coordinates, finite; those of a point cloud with the features of its points.
        faces: Corners of each triangle.
        num_points: Points to draw, at least 1.
        generator: The only source of randomness.
        cumulative: What :func:`cumulative_areas` returned for this mesh, to save the time.
        normals: Put the normal of its triangle beside every point of a mesh.

    Shape:
        - ``vertices``: ``(V, 3 + C)``; ``faces``: ``(F, 3)``; ``cumulative``: ``(F,)``.
        - Returns float32 ``(num_points, 3)``, in the unit of the vertices, or ``(num_points, 6)``
          with normals, and int64 ``(num_points,)``: triangles.
        - Where the mesh has no area, ``(num_points, 3 + C)``, and which vertices those are.

    Raises:
        ValueError: ``num_points`` below 1, or a mesh without vertices.

    Example:
        >>> corner = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
        >>> points, _ = sample_faces(corner, np.array([[0, 1, 2]]), 100, np.random.default_rng(0))
        >>> points.shape, bool((points.sum(axis=1) <= 1).all())
        ((100, 3), True)
    """
    if num_points < 1:
        raise ValueError(f"num_points must be at least 1, got {num_points}")
    if len(vertices) == 0:
        raise ValueError("a mesh without vertices cannot be sampled")
    if cumulative is None:
        cumulative = cumulative_areas(vertices, faces)
    if len(cumulative) == 0 or cumulative[-1] <= 0:
        again = len(vertices) < num_points
        drawn = generator.choice(len(vertices), num_points, replace=again)
        return np.asarray(vertices[drawn], np.float32), drawn
    picks = np.searchsorted(cumulative, generator.random(num_points) * cumulative[-1], "right")
    picks = np.minimum(picks, len(faces) - 1)
    corners = np.asarray(vertices)[:, :3][faces[picks]]  # (P, 3 corners, 3)
    u, v = generator.random((2, num_points, 1))
    outside = u + v > 1  # fold the far half of the parallelogram back onto the triangle
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    origin = corners[:, 0].astype(np.float64)
    points = origin + u * (corners[:, 1] - origin) + v * (corners[:, 2] - origin)
    if normals:
        points = np.concatenate([points, face_normals(vertices, faces[picks])], axis=1)
    return points.astype(np.float32), picks


def normalize(points: np.ndarray) -> np.ndarray:
    """Move the mean to the origin and scale the farthest point to distance 1.

    Args:
        points: Coordinates, finite, in any unit, and features of points, which stay as they are.

    Shape:
        - ``points``: ``(P, 3 + C)`` with ``P >= 1``.
        - Returns float32 ``(P, 3 + C)``, coordinates without unit; those are 0 if all coincide.

    Example:
        >>> normalize(np.array([[0, 0, 0], [0, 0, 4e11]])).tolist()
        [[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]]
    """
    features = points[:, 3:]
    points = unit_scale(points[:, :3])
    points = points - points.mean(axis=0)
    radius = np.linalg.norm(points, axis=1).max()
    points = points / radius if radius > 0 else points
    return np.concatenate([points, features], axis=1).astype(np.float32)
