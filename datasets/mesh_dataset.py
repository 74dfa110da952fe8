"""Point clouds drawn from a folder of meshes; ModelNet10 and shapes10 are this with a source."""

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from datasets.drawn_shapes import DrawnShapes
from datasets.mesh_cache import open_cache
from datasets.progress import progress
from datasets.shape_files import parse_shape
from datasets.source import FileSource, SourceError, ZipSource

Source = FileSource | ZipSource


class EmptyClassWarning(UserWarning):
    """A class has no shape in a split."""


class MeshDataset(DrawnShapes):
    """Meshes of a split as point clouds of equal size.

    Args:
        source: Where the meshes are.
        split: Name of the folder in each class folder.
        classes: Class names; the label of a shape is the place of its class in sorted order.
        cache: Folder of this split's cache.
        lenient: As in :func:`datasets.shape_files.parse_shape`.
        **options: ``num_points``, ``seed``, ``augment``, ``draws`` and ``features`` of
            :class:`DrawnShapes`.

    Attributes:
        names: ``<class>/<split>/<file>.off`` of each shape, sorted by class and file.

    Raises:
        SourceError: A class folder is missing, the split is empty, a file is in the wrong folder.
        OFFError: A mesh cannot be read, or lacks a feature.
        ValueError: As for :class:`DrawnShapes`.
    """

    up = "z"  # the axis that is up in files that do not say

    def __init__(
        self,
        source: Source,
        split: str,
        *,
        classes: Sequence[str],
        cache: str | os.PathLike[str],
        lenient: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(split, **options)
        self.classes = sorted(set(classes))
        self.names = self._find_files(source)
        self.targets = [self.classes.index(name.split("/")[0]) for name in self.names]
        self._check_files()
        key = {"files": {n: source.files[n] for n in self.names}, "lenient": lenient}
        if self.features:  # a cache of its own: every shape in it has them
            key, cache = key | {"features": self.features}, "-".join([str(cache), *self.features])
        self._meshes = open_cache(
            cache, key | self._reading(), lambda: self._read_all(source, lenient)
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all meshes of the split."""
        return self._meshes.digest

    def _find_files(self, source: Source) -> list[str]:
        """Return the names of the split's files."""
        return select_files(source, self.split, self.classes)

    def _reading(self) -> dict[str, Any]:
        """Return what a cache depends on beside the files and leniency."""
        return {}

    def _read_all(self, source: Source, lenient: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        names = progress(self.names, f"reading {source.label}, {self.split}")
        options = {"up": self.up, "lenient": lenient, "features": self.features}
        for name, content in zip(names, source.read(self.names), strict=True):
            path = source.place_of(name)
            yield parse_shape(content, source.name_of(name), path=path, **options)

    def _check_files(self) -> None:
        """Look at ``names`` before meshes are read, which can take minutes."""
        empty = [c for i, c in enumerate(self.classes) if i not in set(self.targets)]
        if empty:
            message = f"{self!r} has no {', no '.join(empty)}"
            warnings.warn(message, EmptyClassWarning, stacklevel=4)


def select_files(
    source: Source, split: str, classes: Sequence[str], *, by_class: bool = True
) -> list[str]:
    """Return the files of a split, sorted by class and name, after a look for misplaced ones.

    Args:
        source: Where they are.
        split: Name of the folder in each class folder.
        classes: Names of the class folders.
        by_class: Whether files are called after their class, so that others are misplaced.

    Raises:
        SourceError: See :class:`MeshDataset`.
    """
    expected = f"expected are {', '.join(sorted(classes))}"
    missing = sorted(set(classes) - source.folders)
    if missing:
        found = ", ".join(sorted(source.folders)) or "none"
        raise SourceError(
            f"{source.label}: class folders missing: {', '.join(missing)}; {expected}; "
            f"found {found}"
        )
    if source.misplaced:
        raise SourceError(
            f"{source.name_of(source.misplaced[0])}: not in a <class>/<split> folder, "
            f"and {len(source.misplaced) - 1} more like it"
        )
    names = []
    for name in sorted(source.files):
        kind, part, file = name.split("/", 2)
        if part != split or kind not in classes:
            continue
        # night_stand_0001.off is not a misplaced shape of a class called night
        owner = max((c for c in classes if file.startswith(f"{c}_")), key=len, default=kind)
        if by_class and owner != kind:
            raise SourceError(f"{source.name_of(name)}: a {owner} among the shapes of {kind}")
        names.append(name)
    if not names:
        splits = sorted({name.split("/")[1] for name in source.files}) or ["none"]
        raise SourceError(
            f"{source.label}: the split {split!r} is empty; found {', '.join(splits)}; {expected}"
        )
    return names
