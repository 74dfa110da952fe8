"""ScanObjectNN: objects cut out of scans of rooms, with and without what stood around them."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from datasets.drawn_shapes import DrawnShapes
from datasets.off import shown
from datasets.shape_files import turn
from datasets.source import SPLITS, SourceError
from datasets.surface import prepare

# the order of the labels in the files
CLASSES = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table"),
    *("bed", "pillow", "sink", "sofa", "toilet"),
)
PREFIXES = dict(zip(SPLITS, ("training", "test"), strict=True))
VARIANTS = (
    *("augmentedrot_scale75", "augmentedrot", "augmented25rot", "augmented25_norot"),
    "",  # the objects as they were found
)


class ScanObjectNN(DrawnShapes):
    """ScanObjectNN from the authors' HDF5 files; see :class:`DrawnShapes` for items.

    Args:
        root: Folder with ``training_objectdataset*.h5`` and ``test_objectdataset*.h5``, such as
            ``h5_files/main_split``, or ``main_split_nobg`` for objects without background.
        split: ``train`` or ``test``.
        variant: Which of the files, by what their names end in; ``augmentedrot_scale75`` is the
            hardest one (PB_T50_RS).
        up: The axis that is up in the files.
        **options: As for :class:`DrawnShapes`, without features; points are drawn from the 2,048
            that there are.

    Raises:
        SourceError: A file is missing, or holds something else.
        ImportError: h5py is missing.
        ValueError: Another split or variant, or what :class:`DrawnShapes` refuses.

    References:
        Uy et al., Revisiting point cloud classification: a new benchmark dataset and
        classification model on real-world data, ICCV 2019.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        variant: str = "augmentedrot_scale75",
        up: str = "y",
        **options: Any,
    ) -> None:
        super().__init__(split, features=(), **options)
        for name, value, known in (("split", split, SPLITS), ("variant", variant, VARIANTS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        ending = f"_{variant}" if variant else ""
        path = Path(root, f"{PREFIXES[split]}_objectdataset{ending}.h5")
        points, labels = read_clouds(path, len(CLASSES))
        none = np.empty((0, 3), np.int64)
        self.classes, self.targets = list(CLASSES), labels.tolist()
        self.names = [
            f"{CLASSES[label]}/{split}/{place:05}" for place, label in enumerate(self.targets)
        ]
        self._meshes = [prepare(turn(cloud.astype(np.float64), up), none) for cloud in points]

    @property
    def digest(self) -> str:
        """SHA-256 of all clouds of the split."""
        digest = hashlib.sha256()
        for vertices, _, _ in self._meshes:
            digest.update(vertices.tobytes())
        return digest.hexdigest()


def read_clouds(path: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read ``data`` and ``label`` of an HDF5 file, as most data sets of clouds have them.

    Shape:
        - Returns float ``(S, N, 3)`` and int64 ``(S,)``.

    Raises:
        SourceError: The file is missing, cut short, or holds something else.
        ImportError: h5py is missing.
    """
    try:
        import h5py  # an extra package
    except ImportError as error:
        raise ImportError(f"{shown(path)}: reading HDF5 needs h5py: pip install h5py") from error
    try:
        with h5py.File(path, "r") as file:
            points, labels = file["data"][:], file["label"][:].reshape(-1)
    except (OSError, KeyError) as error:
        raise SourceError(f"{shown(path)}: cannot be read: {error}") from error
    fits = points.ndim == 3 and points.shape[2] == 3 and len(points) == len(labels) > 0
    if not fits or not np.isfinite(points).all():
        raise SourceError(
            f"{shown(path)}: expected finite clouds (S, N, 3) and S labels, got {points.shape} and "
            f"{len(labels)} labels"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise SourceError(
            f"{shown(path)}: labels must be from 0 to {num_classes - 1}, got {labels.min()} to "
            f"{labels.max()}"
        )
    return points, labels.astype(np.int64)
