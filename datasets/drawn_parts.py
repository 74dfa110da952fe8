"""Shapes as point clouds whose points know their part; data sets of parts are this with shapes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.drawn_shapes import AugmentFunction, MeshCloud, make_cloud
from datasets.surface import normalize, sample_faces


class DrawnParts(Dataset[MeshCloud]):
    r"""Shapes of a split whose points have a part; subclasses know the shapes and what parts are.

    Training points are drawn anew in every epoch from ``(seed, epoch, index)``, those of other
    splits once for ever.

    Args:
        split: One whose name begins with ``train``, or another.
        num_points: Points of a cloud, :math:`P`.
        seed: Seed of the points.
        augment: ``(pos, generator) -> pos``, applied to training splits only.
        features: As for :class:`DrawnShapes`.

    Attributes:
        classes: The parts.
        targets: The class of each shape.
        names: Of the shapes.

    Shape:
        - Items: ``pos``, float32 ``(P, 3)`` without unit, mean 0 and largest distance 1 before
          ``augment``; ``x``, float32 ``(P, 3 C)``, with ``C`` features; ``part``, int64 ``(P,)``;
          ``y``, int64 ``(1,)``, the class of the shape; ``name``, str; ``index``, int.

    Raises:
        ValueError: ``num_points`` below 1, or a negative seed.
    """

    classes: Sequence[str]
    targets: list[int]
    names: list[str]

    def __init__(
        self,
        split: str,
        num_points: int,
        seed: int,
        augment: AugmentFunction | None,
        features: Sequence[str],
    ) -> None:
        if num_points < 1 or seed < 0:
            raise ValueError(
                f"num_points must be at least 1 and seed at least 0, got {num_points} and {seed}"
            )
        self.split, self.num_points, self.seed, self.augment = split, num_points, seed, augment
        self.features = tuple(features)

    @abstractmethod
    def _labeled(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return vertices, faces, cumulative areas, and the part of every face or else vertex."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | tuple[int, int]) -> MeshCloud:
        epoch, index = key if isinstance(key, (tuple, list)) else (0, key)
        vertices, faces, areas, labels = self._labeled(index)
        train = self.split.startswith("train")
        generator = np.random.default_rng([self.seed, epoch if train else 0, index])
        normals = {"normals": True} if "normal" in self.features else {}
        drawn, places = sample_faces(
            vertices, faces, self.num_points, generator, cumulative=areas, **normals
        )
        rows = torch.from_numpy(normalize(drawn))
        if train and self.augment is not None:
            rows = self.augment(rows, generator, **normals)
        part, y = torch.from_numpy(labels[places]), torch.tensor([self.targets[index]])
        return make_cloud(rows[None], part=part, y=y, name=self.names[index], index=index)

    def __repr__(self) -> str:
        kinds = len(set(self.targets))
        return (
            f"{type(self).__name__}({self.split}, {len(self)} shapes of {kinds} classes, "
            f"{len(self.classes)} parts, {self.num_points} points)"
        )
