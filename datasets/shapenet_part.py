"""ShapeNet Part: 16,881 point clouds of sixteen kinds of things, whose points have parts."""

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.drawn_parts import DrawnParts
from datasets.mesh_cache import cache_for, open_cache
from datasets.off import shown
from datasets.progress import progress
from datasets.shape_files import turn
from datasets.source import SourceError

# kind of thing -> its folder, and how many parts it has; all parts are numbered in this order
KINDS: Mapping[str, tuple[str, int]] = {
    "airplane": ("02691156", 4),
    "bag": ("02773838", 2),
    "cap": ("02954340", 2),
    "car": ("02958343", 4),
    "chair": ("03001627", 4),
    "earphone": ("03261776", 3),
    "guitar": ("03467517", 3),
    "knife": ("03624134", 2),
    "lamp": ("03636649", 4),
    "laptop": ("03642806", 2),
    "motorbike": ("03790512", 6),
    "mug": ("03797390", 2),
    "pistol": ("03948459", 3),
    "rocket": ("04099429", 3),
    "skateboard": ("04225987", 3),
    "table": ("04379243", 3),
}
PARTS = tuple(f"{kind}-{part}" for kind, (_, count) in KINDS.items() for part in range(count))
LISTS = ("train", "val", "test")
SPLITS = (*LISTS, "trainval")
FOLDERS = (".", "raw", "shapenetcore_partanno_segmentation_benchmark_v0_normal")  # PyG's is raw
_COLUMNS = 7  # of a file: coordinates, a normal, a part


class ShapeNetPart(DrawnParts):
    """ShapeNet Part from the authors' files with normals; see :class:`DrawnParts` for items.

    The files are read once, into a cache that later runs map into memory.

    Args:
        root: Folder with ``<synset>/*.txt`` and ``train_test_split/shuffled_*_file_list.json``, or
            the one that it is in, also as ``torch_geometric.datasets.ShapeNet`` leaves it.
        split: ``train``, ``val``, both as ``trainval``, or ``test``: the authors' lists.
        up: The axis that is up in the files.
        features: ``("normal",)``, or nothing.
        **options: As for :class:`DrawnParts`; points are drawn from those of a file.

    Attributes:
        held_out: Places of the shapes that are in the list ``val``.

    Raises:
        SourceError: A list or a file is missing, or holds something else.
        ValueError: Another split or feature, or what :class:`DrawnParts` refuses.

    References:
        Yi et al., A scalable active framework for region annotation in 3D shape collections, 2016.
    """

    classes = PARTS

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "trainval",
        *,
        up: str = "y",
        features: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(split, features=features, **options)
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if others := sorted({*features} - {"normal"}):
            raise ValueError(f"features can be normal, got {', '.join(others)}")
        folder = _find_folder(Path(root))
        lists = LISTS[:2] if split == "trainval" else (split,)
        named = [(each, name) for each in lists for name in _read_list(folder, each)]
        self.held_out = [place for place, (each, _) in enumerate(named) if each == "val"]
        self.names = [f"{kind}/{each}/{path.stem}" for each, (kind, path) in named]
        self.targets = [list(KINDS).index(kind) for _, (kind, _) in named]
        paths = [folder / path for _, (_, path) in named]
        files = {shown(path.relative_to(folder)): _state(path) for path in paths}
        key = {"files": files, "up": up, "columns": _COLUMNS}
        self._clouds = open_cache(
            cache_for(folder) / f"shapenet_part-{split}", key, lambda: _read_all(paths, up)
        )

    def _labeled(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        rows, faces, areas = self._clouds[index]
        return rows[:, : 3 + 3 * len(self.features)], faces, areas, rows[:, -1].astype(np.int64)


def _find_folder(root: Path) -> Path:
    for name in FOLDERS:
        if (root / name / "train_test_split").is_dir():
            return root / name
    raise SourceError(
        f"{shown(root)}: no folder train_test_split in it, beside those of the shapes; it is part "
        "of shapenetcore_partanno_segmentation_benchmark_v0_normal.zip"
    )


def _read_list(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Yield kind and file of each shape of one of the authors' lists."""
    path = folder / "train_test_split" / f"shuffled_{name}_file_list.json"
    kinds = {synset: kind for kind, (synset, _) in KINDS.items()}
    try:
        for entry in json.loads(path.read_text("ascii")):
            synset, shape = entry.split("/")[-2:]  # after "shape_data"
            yield kinds[synset], Path(synset, f"{shape}.txt")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise SourceError(
            f"{shown(path)}: cannot be read as a list of shape_data/<synset>/<shape>: {error!r}"
        ) from error


def _state(path: Path) -> tuple[int, int]:
    """Return what changes with a file."""
    try:
        status = path.stat()
    except OSError as error:
        raise SourceError(f"{shown(path)}: a list names it, but {error.strerror}") from error
    return status.st_size, status.st_mtime_ns


def _read_all(paths: Sequence[Path], up: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    none = np.empty((0, 3), np.int64)
    for path in progress(paths, "reading ShapeNet Part"):
        yield _read_cloud(path, up), none


def _read_cloud(path: Path, up: str) -> np.ndarray:
    """Read coordinates, normals and parts, with z up."""
    expected = f"lines of {_COLUMNS} numbers: x y z nx ny nz part"
    try:
        table = np.loadtxt(io.BytesIO(path.read_bytes()), ndmin=2)
    except (OSError, ValueError) as error:
        raise SourceError(f"{shown(path)}: expected {expected}: {error}") from error
    if not len(table) or table.shape[1] != _COLUMNS or not np.isfinite(table).all():
        raise SourceError(f"{shown(path)}: expected finite {expected}, got {table.shape}")
    parts = table[:, -1]
    if not np.isin(parts, range(len(PARTS))).all():
        raise SourceError(f"{shown(path)}: parts must be from 0 to {len(PARTS) - 1}")
    turned = turn(table[:, :6].reshape(-1, 3), up).reshape(-1, 6)
    return np.column_stack([turned, parts])
