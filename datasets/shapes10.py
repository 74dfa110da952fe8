"""shapes10: ten classes of generated furniture, as OFF files in ModelNet10's layout.

The offline stand-in for ModelNet10, and not to be mistaken for it. Three splits: ``train``;
``test``, more of the same; and ``test-hard``, with proportions that training never shows, partial
scans, noise and stray specks, where a shape has to be told by how its surfaces meet.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.augment import Augment
from datasets.damage import damage
from datasets.drawn_shapes import AugmentFunction
from datasets.draws import Draws
from datasets.furniture import MAKERS, Shape, make_shape
from datasets.generated import write_generated
from datasets.mesh_dataset import MeshDataset
from datasets.off import format_off
from datasets.progress import progress
from datasets.source import FolderSource

__all__ = ["CLASSES", "SPLITS", "Augment", "Shape", "Shapes10", "make_shape", "write_shapes10"]

VERSION = 2  # of the generator: raise it whenever the same seed gives other bytes
CLASSES = tuple(MAKERS)
SPLITS = ("train", "test", "test-hard")


def make_split_shape(name: str, split: str, seed: int, number: int) -> Shape:
    """Make the shape of one file; its randomness depends on nothing but these four.

    Args:
        name: The class.
        split: One of :data:`SPLITS`.
        seed: Seed of the data set.
        number: Number of the file, from 1.

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
    r"""Generated furniture as point clouds; see :class:`MeshDataset` for items and attributes.

    The files are written at the first use, and again when the generator or one of the arguments
    that shape them changes: all splits have to be asked for with the same ones.

    Args:
        root: Folder for ``shapes10``, and for the cache unless ``cache_dir`` is given.
        split: ``train``, ``test`` or ``test-hard``.
        num_points: Points of a cloud, :math:`P`.
        seed: Seed of the points.
        augment: ``(pos, generator) -> pos``, applied to ``train`` only.
        draws: As for :class:`MeshDataset`.
        shapes_seed: Seed of the shapes.
        num_train: Shapes of each class in ``train``.
        num_test: Shapes of each class in ``test``.
        num_hard: Shapes of each class in ``test-hard``.
        cache_dir: Folder for the caches of all splits.
        verify: Compare the cache with its hashes at every start; ``False`` compares sizes only.
        features: As for :class:`DrawnShapes`; of meshes there is ``normal``.

    Shape:
        - Items: ``pos``, float32 ``(P, 3)`` without unit, mean 0 and largest distance 1 before
          ``augment``; ``y``, int64 ``(1,)``; ``name``, str; ``index``, int.

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
        num_points: int = 1024,
        seed: int = 0,
        augment: AugmentFunction | None = None,
        draws: Draws | None = None,
        shapes_seed: int = 0,
        num_train: int = 60,
        num_test: int = 20,
        num_hard: int = 20,
        cache_dir: str | os.PathLike[str] | None = None,
        verify: bool = True,
        features: Sequence[str] = (),
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        folder = write_shapes10(
            root, seed=shapes_seed, num_train=num_train, num_test=num_test, num_hard=num_hard
        )
        cache_dir = Path(root, ".mesh-cache") if cache_dir is None else Path(cache_dir)
        super().__init__(
            FolderSource(folder),
            split,
            classes=CLASSES,
            cache=cache_dir / f"shapes10-{split}",
            num_points=num_points,
            seed=seed,
            augment=augment,
            draws=draws,
            verify=verify,
            features=features,
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
