"""ModelNet40: 12,311 meshes in forty classes, in the layout of ModelNet10."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from datasets.download import download as download_file
from datasets.mesh_folder import MeshFolder
from datasets.modelnet10 import CountsWarning
from datasets.off import shown
from datasets.source import SourceError

URL = "https://modelnet.cs.princeton.edu/ModelNet40.zip"
ZIP_SHA256 = "42dc3e656932e387f554e25a4eb2cc0e1a1bd3ab54606e2a9eae444c60e536ac"
TOTALS = {"train": 9843, "test": 2468}


class ModelNet40(MeshFolder):
    """ModelNet40 as point clouds; see :class:`MeshFolder` for arguments, and for errors.

    Args:
        root: Folder with ``ModelNet40`` or ``ModelNet40.zip``, or one of these itself. A zip is
            read without unpacking.
        split: ``train`` or ``test``.
        expected: Shapes of each split; another number is a warning.
        **options: As for :class:`MeshFolder`.

    References:
        Wu et al., 3D ShapeNets: A Deep Representation for Volumetric Shapes, CVPR 2015.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        expected: dict[str, int] = TOTALS,
        **options: Any,
    ) -> None:
        inside = (Path(root, name) for name in ("ModelNet40", "ModelNet40.zip"))
        place = next(filter(Path.exists, inside), Path(root))
        if not place.exists():
            hint = "modelnet40.fetch downloads ModelNet40"
            raise SourceError(f"{shown(root)}: neither a folder nor a zip; {hint}")
        super().__init__(place, split, **options)
        if len(self) != (wanted := expected.get(split, len(self))):
            message = f"{split} has {len(self)} shapes, not the {wanted} of ModelNet40"
            warnings.warn(message, CountsWarning, stacklevel=2)


def fetch(root: str | os.PathLike[str], *, url: str = URL, sha256: str = ZIP_SHA256) -> Path:
    """Return ``root/ModelNet40.zip``, 2 GB, downloaded if it is not there; or what is unpacked.

    Args:
        root: Folder for the zip. If it has the unpacked ``ModelNet40``, that is returned.
        url: Where the zip is, whose size the server tells.
        sha256: Its hash, the one that other libraries publish for this file.

    Raises:
        DownloadError: As in :func:`datasets.download.download`.
    """
    folder = Path(root, "ModelNet40")
    if folder.is_dir():
        return folder
    return download_file(url, Path(root, "ModelNet40.zip"), sha256=sha256)
