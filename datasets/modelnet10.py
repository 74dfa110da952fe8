"""ModelNet10: 4,899 furniture meshes in ten classes, as point clouds."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets.download import fetch_zip
from datasets.mesh_dataset import MeshDataset
from datasets.source import FolderSource, SourceError, ZipSource, find_inside

URL = "https://3dvision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip"
ZIP_BYTES = 473_402_300
# the hash that other libraries publish for this file
ZIP_SHA256 = "9d8679435fc07d1d26f13009878db164a7aa8ea5e7ea3c8880e42794b7307d51"

COUNTS: Mapping[str, tuple[int, int]] = {
    "bathtub": (106, 50),
    "bed": (515, 100),
    "chair": (889, 100),
    "desk": (200, 86),
    "dresser": (200, 86),
    "monitor": (465, 100),
    "night_stand": (200, 86),
    "sofa": (680, 100),
    "table": (392, 100),
    "toilet": (344, 100),
}
"""Shapes of each class in train and test, 3,991 and 908 in all; file numbers run on from train."""

CLASSES = tuple(COUNTS)
SPLITS = ("train", "test")


class CountsWarning(UserWarning):
    """The number of shapes is not that of the published data set."""


class ModelNet10(MeshDataset):
    """ModelNet10 as point clouds; see :class:`MeshDataset` for its items and attributes.

    Meshes are parsed once, into a cache that later runs map into memory.

    Args:
        root: Folder with ``ModelNet10/<class>/{train,test}/*.off``, or that folder itself. The
            cache goes into its ``.mesh-cache`` unless ``cache_dir`` is given.
        split: ``train`` or ``test``.
        source: The folder or the zip to read instead of ``root``. A zip is read without unpacking.
        download: Fetch the zip to ``root`` from its publisher, checked by size and SHA-256.
        classes: Classes to use; labels count within these. Folders of other names are an error
            when this is not given.
        expected_counts: Shapes a class should have in train and test; others are a warning, and
            misplaced file numbers an error. ``None`` for data in the same layout that is not
            ModelNet10, where a class may also be empty, with a warning.
        cache_dir: Folder for the caches of both splits.
        **options: ``num_points``, ``seed``, ``augment``, ``draws`` and ``features`` of
            :class:`DrawnShapes`, of which meshes have ``normal``, and
            ``lenient`` of :class:`MeshDataset`.

    Raises:
        SourceError: Folders or files that are missing, left over or misplaced; a bad archive.
        OFFError: A mesh cannot be read.
        DownloadError: The zip cannot be had, or is not the published one.
        ValueError: Another split, a root that is a file, ``source`` together with ``download``.

    References:
        Wu et al., 3D ShapeNets: A Deep Representation for Volumetric Shapes, CVPR 2015.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        source: str | os.PathLike[str] | None = None,
        download: bool = False,
        classes: Sequence[str] | None = None,
        expected_counts: Mapping[str, tuple[int, int]] | None = COUNTS,
        cache_dir: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if Path(root).is_file():
            raise ValueError(f"root must be a folder, got {root!r}; a zip goes to source=")
        if download and source is not None:
            raise ValueError(f"download=True fetches the source, but source={source!r} is given")
        if download:
            source = fetch(root)
        self.expected_counts = expected_counts
        chosen = CLASSES if classes is None else classes
        meshes = open_source(root if source is None else source, chosen)
        strangers = meshes.folders - set(CLASSES) if classes is None else ()
        if strangers:
            raise SourceError(
                f"{meshes.label}: folders that are no class: {', '.join(sorted(strangers))}; "
                f"expected are {', '.join(CLASSES)}, or name those to use as classes="
            )
        cache_dir = Path(root, ".mesh-cache") if cache_dir is None else Path(cache_dir)
        super().__init__(
            meshes,
            split,
            classes=chosen,
            cache=cache_dir / f"modelnet10-{split}",
            **options,
        )

    def _check_files(self) -> None:
        if self.expected_counts is None:
            super()._check_files()
            return
        place = SPLITS.index(self.split)
        expected = {c: self.expected_counts[c] for c in self.classes if c in self.expected_counts}
        for name in self.names:
            kind, _, file = name.split("/")
            number = re.fullmatch(rf"{re.escape(kind)}_(\d{{4}})\.off", file)
            if number and kind in expected and (int(number[1]) > expected[kind][0]) != place:
                other = SPLITS[1 - place]
                raise SourceError(f"{name} belongs to {other}: train has 1 to {expected[kind][0]}")
        found = Counter(name.split("/")[0] for name in self.names)
        table = "\n".join(f"{c:12} {found[c]:6} {n[place]:9}" for c, n in expected.items())
        table = f"{'class':12} {'found':>6} {'expected':>9}\n{table}"
        hint = "expected_counts=None is for other data in this layout"
        if not all(found[c] for c in expected):
            raise SourceError(f"classes without a shape in {self.split}; {hint}\n{table}")
        if any(found[c] != n[place] for c, n in expected.items()):
            wanted = sum(n[place] for n in expected.values())
            message = f"{self.split} has {len(self)} shapes, not {wanted}; {hint}\n{table}"
            warnings.warn(message, CountsWarning, stacklevel=4)


# to ``root/ModelNet10.zip``, 473 MB
fetch = partial(fetch_zip, name="ModelNet10", url=URL, size=ZIP_BYTES, sha256=ZIP_SHA256)


def open_source(
    path: str | os.PathLike[str], classes: Sequence[str] = CLASSES
) -> FolderSource | ZipSource:
    """Find the class folders: in a zip, in ``path/ModelNet10``, its zip, or ``path`` itself.

    Raises:
        SourceError: There is no such path, or not a data set in it.
    """
    place = find_inside(path, "ModelNet10", "download=True fetches ModelNet10")
    return ZipSource(place, classes) if place.is_file() else FolderSource(place)
