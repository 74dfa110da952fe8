"""ModelNet40: 12,311 meshes in forty classes, in the layout of ModelNet10."""

import os
import warnings
from functools import partial
from typing import Any

from datasets.download import fetch_zip
from datasets.mesh_folder import MeshFolder
from datasets.modelnet10 import CountsWarning
from datasets.source import find_inside

URL = "https://modelnet.cs.princeton.edu/ModelNet40.zip"
# the hash that other libraries publish for this file
ZIP_SHA256 = "42dc3e656932e387f554e25a4eb2cc0e1a1bd3ab54606e2a9eae444c60e536ac"
TOTALS = {"train": 9843, "test": 2468}


class ModelNet40(MeshFolder):
    """ModelNet40 as point clouds; see :class:`MeshFolder` for arguments, and for errors.

    Args:
        root: Folder with ``ModelNet40`` or ``ModelNet40.zip``, or one of these itself. A zip is
            read without unpacking.
        split: ``train`` or ``test``.
        expected: Shapes of each split; another number is a warning.
        **options: ``classes``, ``up``, ``cache_dir`` and all others of :class:`MeshFolder`.

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
        place = find_inside(root, "ModelNet40", "modelnet40.fetch downloads ModelNet40")
        super().__init__(place, split, **options)
        if len(self) != (wanted := expected.get(split, len(self))):
            message = f"{split} has {len(self)} shapes, not the {wanted} of ModelNet40"
            warnings.warn(message, CountsWarning, stacklevel=2)


# to ``root/ModelNet40.zip``, 2 GB, of a size that the server tells
fetch = partial(fetch_zip, name="ModelNet40", url=URL, sha256=ZIP_SHA256)
