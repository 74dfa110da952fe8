"""Any folder of meshes or point clouds, ``<class>/{train,test}/*``, with its own classes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.list_source import ListSource
from datasets.mesh_cache import cache_for
from datasets.mesh_dataset import MeshDataset, Source, select_files
from datasets.off import shown
from datasets.shape_files import SUFFIXES
from datasets.source import SPLITS, FolderSource, SourceError, ZipSource

_IN_FOLDERS = tuple(suffix for suffix in SUFFIXES if suffix != ".txt")  # there it may be a README


class MeshFolder(MeshDataset):
    """Shapes from files of any format that is read; see :class:`MeshDataset` for items.

    Args:
        root: Folder with ``<class>/{train,test}/*``, or with one folder that has; or a zip of
            it, which is read without unpacking; or a CSV file as :class:`ListSource` reads it.
        split: ``train`` or ``test``, or another folder within those of the classes.
        classes: Names of the classes, of which some may be missing; all that are there by default.
        up: The axis that is up in files that do not say, see :func:`datasets.shape_files.turn`.
        cache_dir: Folder for the caches; by default ``.mesh-cache`` in the root, or where nothing
            can be written there, a folder of the user's cache.
        **options: ``num_points``, ``seed``, ``augment``, ``draws`` and ``features`` of
            :class:`DrawnShapes`, ``lenient`` of :class:`MeshDataset`.

    Raises:
        SourceError: No such folder, or none of the classes in it, or others.
        OFFError: A shape cannot be read.
        ValueError: Counts, seeds or an axis that make no sense.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        classes: Sequence[str] | None = None,
        up: str = "z",
        cache_dir: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self.up = up
        source = open_folder(root)
        found = {name.split("/")[0] for name in source.files}
        if classes is not None and (strangers := sorted(found - set(classes))):
            raise SourceError(
                f"{source.label}: folders that are no class: {', '.join(strangers)}; the classes "
                f"are {', '.join(classes)}"
            )
        if not found:
            raise SourceError(
                f"{source.label}: no <class>/train and <class>/test with files of "
                f"{' '.join(_IN_FOLDERS)} in it"
            )
        cache_dir = cache_for(Path(root)) if cache_dir is None else Path(cache_dir)
        super().__init__(
            source,
            split,
            classes=sorted(found) if classes is None else classes,
            cache=cache_dir / f"folder-{split}",
            **options,
        )

    def _find_files(self, source: Source) -> list[str]:
        present = sorted({name.split("/")[0] for name in source.files})
        return select_files(source, self.split, present, by_class=False)

    def _reading(self) -> dict[str, Any]:
        columns = {"columns": 3 + 3 * len(self.features)} if self.features else {}
        return {"up": self.up, **columns}


def open_folder(root: str | os.PathLike[str]) -> Source:
    """Find the files: of a list, a zip, the root, or the only folder in it that has classes.

    Raises:
        SourceError: There is no such path.
    """
    root = Path(root)
    if root.suffix.lower() == ".csv":
        return ListSource(root, SUFFIXES)
    if root.is_file():
        return ZipSource(root, None, _IN_FOLDERS)
    if not root.is_dir():
        raise SourceError(f"{shown(root)}: neither a folder nor a zip")
    if not _has_classes(root):
        inner = [path for path in root.iterdir() if path.is_dir() and _has_classes(path)]
        root = inner[0] if len(inner) == 1 else root
    return FolderSource(root, _IN_FOLDERS)


def _has_classes(folder: Path) -> bool:
    """Whether the folder is one of class folders."""
    return any(next(folder.glob(f"[!.]*/{split}"), None) for split in SPLITS)
