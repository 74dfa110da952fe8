"""shapes10: ten classes of generated furniture, as OFF files in ModelNet10's layout.

The offline stand-in for ModelNet10, and not to be mistaken for it. Three splits: ``train``;
``test``, more of the same; and ``test-hard``, with proportions that training never shows, partial
scans, noise and stray specks, where a shape has to be told by how its surfaces meet.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from datasets.damage import damage
from datasets.furniture import MAKERS, Shape, make_shape
from datasets.generated import write_generated
from datasets.mesh_dataset import MeshDataset
from datasets.off import format_off
from datasets.progress import progress
from datasets.source import FolderSource

VERSION = 2  # of the generator: raise it whenever the same seed gives other bytes
CLASSES = tuple(MAKERS)
SPLITS = ("train", "test", "test-hard")


def make_split_shape(name: str, split: str, seed: int, number: int) -> Shape:
    """Make the shape of a file, counted from 1; its randomness depends on these four alone.

    Example:
        >>> make_split_shape("sofa", "test-hard", seed=0, number=1).part_names[-1]
        'stray'
    """
    place = [seed, CLASSES.index(name), SPLITS.index(split), number]
    generator = np.random.default_rng(place)
    hard = split == "test-hard"
    shape = make_shape(name, generator, unseen=hard)
    return damage(shape, generator) if hard else shape


def write_shapes10(
    root: str | os.PathLike[str],
    *,
    seed: int = 0,
    num_train: int = 60,
    num_test: int = 20,
    num_hard: int = 20,
) -> Path:
    """Write ``root/shapes10/<class>/<split>/<class>_NNNN.off`` and a manifest, or nothing.

    As :func:`write_generated` does it: whole, and only where it is not there yet.

    Args:
        root: The folder to write into, created if needed.
        seed: Seed of all shapes.
        num_train: Shapes of each class in ``train``.
        num_test: Shapes of each class in ``test``.
        num_hard: Shapes of each class in ``test-hard``.

    Returns:
        The folder, ``root/shapes10``.

    Raises:
        ValueError: A negative seed, or a count below 1.
        FileExistsError: ``root/shapes10`` is there and was not written by this function.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     folder = write_shapes10(root, num_train=1, num_test=1, num_hard=1)
        ...     len(list(folder.glob("*/*/*_0001.off")))
        30
    """
    counts: dict[str, int] = dict(zip(SPLITS, (num_train, num_test, num_hard), strict=True))
    if seed < 0 or min(counts.values()) < 1:
        raise ValueError(f"seed must be 0 or more and counts at least 1, got {seed} and {counts}")
    folder = Path(root, "shapes10")
    wanted = {"data": "shapes10", "generator": VERSION, "seed": seed, "counts": counts}
    return write_generated(folder, wanted, lambda fresh: _write_files(fresh, seed, counts))


class Shapes10(MeshDataset):
    """Generated furniture as point clouds; see :class:`MeshDataset` for items and attributes.

    The files are written at the first use, and again when the generator or one of the arguments
    that shape them changes: all splits have to be asked for with the same ones.

    Args:
        root: Folder for ``shapes10``, and for the cache.
        split: ``train``, ``test`` or ``test-hard``.
        num_train: Shapes of each class in ``train``.
        num_test: Shapes of each class in ``test``.
        num_hard: Shapes of each class in ``test-hard``.
        **options: ``num_points``, ``seed``, ``augment``, ``draws`` and ``features`` of
            :class:`DrawnShapes`, of which meshes have ``normal``, and
            ``lenient`` of :class:`MeshDataset`.

    Raises:
        ValueError: Another split, or what :func:`write_shapes10` refuses.
        FileExistsError: As in :func:`write_shapes10`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     Shapes10(root, "test", num_points=64, num_train=1, num_test=2, num_hard=1)
        Shapes10(test, 20 shapes of 10 classes, 64 points)
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        num_train: int = 60,
        num_test: int = 20,
        num_hard: int = 20,
        **options: Any,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        folder = write_shapes10(root, num_train=num_train, num_test=num_test, num_hard=num_hard)
        super().__init__(
            FolderSource(folder),
            split,
            classes=CLASSES,
            cache=Path(root, ".mesh-cache", f"shapes10-{split}"),
            **options,
        )


def _write_files(folder: Path, seed: int, counts: dict[str, int]) -> None:
    for name in progress(CLASSES, "making shapes10"):
        for split, count in counts.items():
            place = folder / name / split
            place.mkdir(parents=True)
            for number in range(1, count + 1):
                shape = make_split_shape(name, split, seed, number)
                text = format_off(np.round(shape.vertices, 5) + 0.0, shape.faces)  # no -0.0
                (place / f"{name}_{number:04}.off").write_bytes(text)
