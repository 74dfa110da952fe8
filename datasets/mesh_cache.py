"""Meshes parsed once, kept as arrays on disk that are mapped, not loaded.

A cache folder holds four files of plain numbers and ``manifest.json``: the key it was built for,
and size and SHA-256 of each file. Nothing in it is ever unpickled.
"""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np

from datasets.atomic import lock_for, replacing, sha256_of
from datasets.off import shown
from datasets.surface import prepare

FORMAT = 2
_ARRAYS = {"vertices": ("<f4", 3), "faces": ("<i4", 3), "areas": ("<f8", 1), "starts": ("<i8", 2)}


class CacheWarning(UserWarning):
    """A cache was damaged, or made from other files or parameters, and is built again."""


class MeshCache:
    """The meshes of a cache folder, mapped into memory; copies for other processes map it anew."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        layout = _columns(self._manifest["key"])
        arrays = {name: _map(self.folder / f"{name}.bin", *layout[name]) for name in layout}
        self._vertices, self._faces = arrays["vertices"], arrays["faces"]
        self._areas, self._starts = arrays["areas"][:, 0], arrays["starts"]

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def digest(self) -> str:
        """SHA-256 of all meshes, whenever and wherever they were built."""
        files = self._manifest["files"]
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    @property
    def _manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text("ascii"))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a mesh's vertices in [-1, 1], faces, and cumulative areas of these."""
        (v0, f0), (v1, f1) = self._starts[index], self._starts[index + 1]
        return self._vertices[v0:v1], self._faces[f0:f1], self._areas[f0:f1]

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.folder,)


def cache_for(root: Path) -> Path:
    """Return a folder for the caches of a data set that may be read-only."""
    root = root.parent if root.is_file() else root
    if os.access(root, os.W_OK):
        return root / ".mesh-cache"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "mgic" / "meshes" / hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]


def open_cache(
    folder: str | os.PathLike[str],
    key: dict[str, Any],
    read: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]],
) -> MeshCache:
    """Return the cache in ``folder``, built first if there is none that fits ``key``.

    Only one process builds, the others wait for it. The folder appears whole, by a rename; what a
    killed process left behind is removed by the next one.

    Args:
        folder: Where the cache is; its parent is created if needed.
        key: All that the arrays depend on, as JSON would return it. ``columns``, if there, is the
            width of the vertices, 3 coordinates and features; meshes, which have none, get zeros.
        read: Yields vertices and faces of each mesh, in order; called only to build.

    Raises:
        OSError: The cache has to be built and its place cannot be written to.
    """
    folder = Path(folder)
    key = json.loads(json.dumps({"format": FORMAT, **key}))
    try:
        lock = lock_for(folder, shared=True)
    except OSError:
        if _find_fault(folder, key) is None:
            return MeshCache(folder)  # a finished cache on a read-only disk is as good
        raise
    with lock:  # shared: many processes may look at the same time
        if _find_fault(folder, key) is None:
            return MeshCache(folder)
    with lock_for(folder):  # another may have built it in between
        fault = _find_fault(folder, key)
        if fault is not None:
            if folder.exists():
                message = f"{shown(folder)}: {fault}; it is built again"
                warnings.warn(message, CacheWarning, stacklevel=2)
            with replacing(folder) as fresh:
                _write(fresh, key, read())
        return MeshCache(folder)


def _find_fault(folder: Path, key: dict[str, Any]) -> str | None:
    """Say why a cache cannot be used, or return None if it can; hashes at 0.7 to 2 GB/s."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("ascii"))
        stored, files = manifest["key"], manifest["files"]
        changed = sorted(k for k in {*stored, *key} if stored.get(k) != key.get(k))
        if changed:
            return f"it was made with other {', '.join(changed)}"
        for name, (dtype, columns) in _columns(key).items():
            path, promised = folder / f"{name}.bin", files[f"{name}.bin"]
            size = path.stat().st_size
            whole = size == promised["bytes"] and size % (np.dtype(dtype).itemsize * columns) == 0
            if not whole or sha256_of(path) != promised["sha256"]:
                return f"{path.name} is damaged"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"not a whole cache ({type(error).__name__})"
    return None


def _columns(key: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Return type and width of every array of a cache; clouds have features after coordinates."""
    return _ARRAYS | {"vertices": ("<f4", key.get("columns", 3))}


def _write(folder: Path, key: dict[str, Any], meshes: Iterable[tuple[Any, Any]]) -> None:
    """Write arrays, then the manifest that vouches for them."""
    _write_arrays(folder, key.get("columns", 3), meshes)
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in (folder / f"{name}.bin" for name in _ARRAYS)
    }
    manifest = json.dumps({"key": key, "files": files}, indent=1)
    (folder / "manifest.json").write_text(manifest, "ascii")


def _write_arrays(folder: Path, columns: int, meshes: Iterable[tuple[Any, Any]]) -> None:
    """Stream meshes to disk, centered and scaled in float64 before they are rounded to float32."""
    starts = [(0, 0)]
    with contextlib.ExitStack() as stack:
        files = {n: stack.enter_context(open(folder / f"{n}.bin", "wb")) for n in _ARRAYS}
        for vertices, faces in meshes:
            vertices, faces, areas = prepare(vertices, faces)
            missing = ((0, 0), (0, columns - vertices.shape[1]))
            files["vertices"].write(np.pad(vertices, missing).tobytes())
            files["faces"].write(faces.tobytes())
            files["areas"].write(areas.astype("<f8").tobytes())
            starts.append((starts[-1][0] + len(vertices), starts[-1][1] + len(faces)))
        files["starts"].write(np.array(starts, "<i8").tobytes())


def _map(path: Path, dtype: str, columns: int) -> np.ndarray:
    if path.stat().st_size == 0:
        return np.empty((0, columns), dtype)
    return np.asarray(np.memmap(path, dtype, "r")).reshape(-1, columns)
