"""Meshes and point clouds from files of many formats, turned so that z is up.

OFF, PLY and OBJ are read here, where polygons are cut into triangles properly; the others, which
hold triangles, by trimesh.
"""

import importlib.util
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh

from datasets.clouds import SUFFIXES as CLOUDS
from datasets.clouds import Cloud, from_columns, parse_cloud
from datasets.obj import parse_obj
from datasets.off import MAX_BYTES, OFFError, complain, cut_polygons, has_area, parse_off, shown
from datasets.ply import Lists, parse_ply

MESHES = (".off", ".ply", ".obj", ".stl", ".glb", ".gltf", ".3mf", ".dae")
SUFFIXES = (*MESHES, *CLOUDS)
Y_UP = (".glb", ".gltf")  # formats whose specification says so

# suffix -> packages that its reader imports
PACKAGES = {
    ".3mf": ("networkx", "lxml"),
    ".dae": ("collada",),
    ".las": ("laspy",),
    ".laz": ("laspy", "lazrs"),
}
ON_PYPI = {"collada": "pycollada"}  # where a package is called otherwise

# axis that is up -> rows are where the new x, y and z come from
_TURNS = {
    "z": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "-z": [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
    "y": [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
    "-y": [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
    "x": [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
    "-x": [[0, 1, 0], [0, 0, -1], [-1, 0, 0]],
}
AXES = tuple(_TURNS)


def read_shape(
    path: str | os.PathLike[str],
    *,
    up: str = "z",
    lenient: bool = False,
    features: Sequence[str] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Read a mesh or a point cloud, which then has no faces; see :func:`parse_shape`."""
    path = Path(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise OFFError(f"{shown(path)}: {size} bytes are more than the {MAX_BYTES} that are read")
    options = {"up": up, "lenient": lenient, "features": features}
    return parse_shape(path.read_bytes(), shown(path), path=path, **options)


def parse_shape(
    data: bytes,
    name: str,
    *,
    path: Path | None = None,
    up: str = "z",
    lenient: bool = False,
    features: Sequence[str] = (),
) -> tuple[np.ndarray, np.ndarray]:
    r"""Read a mesh or a point cloud from the bytes of a file.

    Args:
        data: The bytes.
        name: What to call them in messages; its suffix says what they are.
        path: Where they are from, for formats that name further files.
        up: The axis that is up, one of :data:`AXES`, in formats that do not say. The shape is
            turned so that it becomes z.
        lenient: Warn and go on where a strict reader stops but a shape remains: drop vertices that
            are NaN or infinite, with their faces; accept a mesh without faces or without area.
        features: Of :data:`datasets.clouds.FEATURES`, what a point must have beside coordinates.
            Those of a point cloud are in its file. Of a mesh there are only normals, those of its
            faces; they are not returned but found where a point is drawn.

    Shape:
        - Returns vertices, float64 ``(V, 3)`` in the file's unit, and faces, int64 ``(F, 3)``.
        - For a point cloud these are ``(V, 3 + 3 C)``, with ``C`` features, and ``(0, 3)``.

    Raises:
        OFFError: The file cannot be read, or holds nothing to draw points from, or lacks a feature.
        ValueError: An unknown axis.

    Example:
        >>> parse_shape(b"0 0 1\n0 2 0\n", "two.xyz", up="y")[0].tolist()
        [[0.0, -1.0, 0.0], [0.0, 0.0, 2.0]]
    """
    suffix = Path(name).suffix.lower()
    if suffix == ".off":
        vertices, faces = parse_off(data, name, lenient=lenient)
    else:
        vertices, faces = _parse(data, name, suffix, path, features)
        vertices, faces = _checked(vertices, faces, name, suffix, lenient)
    if features and vertices.shape[1] == 3:
        _check_mesh_features(vertices, faces, name, features)
    width = 6 if "normal" in features and not len(faces) else 3  # normals turn, too
    turned = turn(vertices[:, :width].reshape(-1, 3), "y" if suffix in Y_UP else up)
    return np.concatenate([turned.reshape(-1, width), vertices[:, width:]], axis=1), faces


def turn(vertices: np.ndarray, up: str) -> np.ndarray:
    """Turn coordinates so that the axis that is up becomes z.

    Raises:
        ValueError: An unknown axis.

    Example:
        >>> turn(np.array([[1.0, 2.0, 3.0]]), "y").tolist()
        [[1.0, -3.0, 2.0]]
    """
    if up not in _TURNS:
        raise ValueError(f"up must be one of {', '.join(AXES)}, got {up!r}")
    return vertices if up == "z" else vertices @ np.array(_TURNS[up], float).T


def _parse(
    data: bytes, name: str, suffix: str, path: Path | None, features: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Read what the format holds; errors of readers become ours."""
    if suffix not in SUFFIXES:
        raise OFFError(f"{name}: no format that is read; those are {' '.join(SUFFIXES)}")
    missing = [p for p in PACKAGES.get(suffix, ()) if importlib.util.find_spec(p) is None]
    if missing:
        names = " ".join(ON_PYPI.get(package, package) for package in missing)
        raise OFFError(f"{name}: reading {suffix} needs another package: pip install {names}")
    try:
        if suffix in CLOUDS:
            return parse_cloud(data, suffix).rows(features), np.empty((0, 3), np.int64)
        if suffix == ".ply":
            return _parse_ply(data, features)
        if suffix == ".obj":
            vertices, *polygons = parse_obj(data)
            faces = _cut(vertices, *polygons)
            return vertices if len(faces) else Cloud(vertices).rows(features), faces
        return _parse_mesh(data, suffix, path, features)
    except Exception as error:  # readers raise whatever they do
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OFFError(f"{name}: cannot be read as {suffix[1:].upper()}: {reason}") from error


def _parse_mesh(
    data: bytes, suffix: str, path: Path | None, features: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Read with trimesh and join all that a scene holds, faces before loose points."""
    resolver = None if path is None else trimesh.resolvers.FilePathResolver(str(path))
    loaded = trimesh.load(io.BytesIO(data), file_type=suffix[1:], resolver=resolver, process=False)
    parts = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
    meshes = [part for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if meshes:
        joined = trimesh.util.concatenate(meshes)
        return np.asarray(joined.vertices, np.float64), np.asarray(joined.faces, np.int64)
    kinds = (trimesh.Trimesh, trimesh.PointCloud)
    points = [np.asarray(part.vertices) for part in parts if isinstance(part, kinds)]
    points = np.concatenate([np.empty((0, 3)), *points])
    return Cloud(points).rows(features), np.empty((0, 3), np.int64)


def _parse_ply(data: bytes, features: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read a mesh, or a cloud where there are no faces."""
    elements = parse_ply(data)
    columns = elements.get("vertex", {})
    cloud = from_columns({n: v for n, v in columns.items() if not isinstance(v, Lists)})
    for name in ("vertex_indices", "vertex_index"):
        polygons = elements.get("face", {}).get(name)
        if isinstance(polygons, Lists) and len(polygons.lengths):
            return cloud.points, _cut(cloud.points, *polygons)
    return cloud.rows(features), np.empty((0, 3), np.int64)


def _cut(vertices: np.ndarray, indices: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Cut polygons into triangles, once all of their vertices are there."""
    if len(indices) and not (indices.min() >= 0 and indices.max() < len(vertices)):
        raise ValueError(f"a face names a vertex that is not there, of {len(vertices)}")
    return cut_polygons(vertices, indices.astype(np.int64), corners)


def _check_mesh_features(
    vertices: np.ndarray, faces: np.ndarray, name: str, features: Sequence[str]
) -> None:
    """Refuse a mesh of whose points a feature cannot be told."""
    if missing := sorted({*features} - {"normal"}):
        raise OFFError(f"{name}: no {missing[0]} is read of meshes, only of point clouds")
    if not has_area(vertices, faces):
        raise OFFError(f"{name}: a mesh without area has no normal")


def _checked(
    vertices: np.ndarray, faces: np.ndarray, name: str, suffix: str, lenient: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Refuse, or leave out, what no points can be drawn from."""
    finite = np.isfinite(vertices).all(axis=1)
    if not finite.any():
        what = "not one vertex is finite" if len(finite) else "it holds no vertices"
        raise OFFError(f"{name}: {what}")
    if len(faces) and not (faces.min() >= 0 and faces.max() < len(vertices)):
        raise OFFError(f"{name}: a face names a vertex that is not there, of {len(vertices)}")
    if not finite.all():
        complain(lenient, f"{name}: {(~finite).sum()} vertices are not finite")
        kept = finite[faces].all(axis=1)
        vertices, faces = vertices[finite], (np.cumsum(finite) - 1)[faces[kept]]
    if len(faces) and not has_area(vertices, faces):
        complain(lenient, f"{name}: the mesh has no area, all its faces are degenerate")
    if not len(faces) and suffix not in (".ply", *CLOUDS):
        complain(lenient, f"{name}: it holds no faces")
    return vertices, faces
