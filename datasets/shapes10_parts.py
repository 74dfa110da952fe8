"""The shapes of shapes10 as point clouds whose points know their part: leg, seat, drawer, ..."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.augment import Augment
from datasets.drawn_shapes import AugmentFunction, MeshCloud
from datasets.furniture import Shape
from datasets.shapes10 import CLASSES, SPLITS, make_split_shape
from datasets.surface import cumulative_areas, normalize, sample_faces

__all__ = ["IGNORED", "PARTS", "Augment", "Shapes10Parts"]

# what the generator calls its pieces; a leg is a leg, whether of a bed or of a table
PARTS = (
    *("arm", "back", "base", "body", "bottom", "bowl", "cabinet", "case", "cover", "cushion"),
    *("drawer", "foot", "footboard", "frame", "headboard", "knob", "leg", "lid", "mattress"),
    *("neck", "panel", "pillow", "plinth", "screen", "seat", "shelf", "side", "slat", "tank"),
    *("tap", "top", "tub"),
)
IGNORED = 255  # label of a point that is on no part: the specks of a damaged scan


class Shapes10Parts(Dataset[MeshCloud]):
    r"""Generated furniture as point clouds with a part for every point.

    The shapes are those of :class:`~datasets.shapes10.Shapes10` of the same seed. They are made in
    memory, as the OFF files do not say which face is of which part. As there, training points are
    drawn anew in every epoch from ``(seed, epoch, index)``, those of other splits once for ever.

    Args:
        split: ``train``, ``test`` or ``test-hard``.
        num_points: Points of a cloud, :math:`P`.
        seed: Seed of the points.
        augment: ``(pos, generator) -> pos``, applied to ``train`` only.
        shapes_seed: Seed of the shapes.
        num_shapes: Shapes of each class.

    Attributes:
        classes: The parts, :data:`PARTS`.
        targets: The class of furniture of each shape.
        names: ``<class>/<split>/<class>_NNNN`` of each shape.

    Shape:
        - Items: ``pos``, float32 ``(P, 3)`` without unit, mean 0 and largest distance 1 before
          ``augment``; ``part``, int64 ``(P,)``, :data:`IGNORED` on specks; ``y``, int64 ``(1,)``,
          the class of furniture; ``name``, str; ``index``, int.

    Raises:
        ValueError: Another split, a count below 1, or a negative seed.

    Example:
        >>> data = Shapes10Parts("test", num_points=64, num_shapes=1)
        >>> chair = data[2]
        >>> chair.name, sorted({PARTS[part] for part in chair.part.tolist()})[-1]
        ('chair/test/chair_0001', 'slat')
    """

    def __init__(
        self,
        split: str = "train",
        *,
        num_points: int = 1024,
        seed: int = 0,
        augment: AugmentFunction | None = None,
        shapes_seed: int = 0,
        num_shapes: int = 60,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if min(num_points, num_shapes) < 1 or min(seed, shapes_seed) < 0:
            raise ValueError(
                "num_points and num_shapes must be at least 1 and seeds at least 0, got "
                f"{num_points}, {num_shapes}, {seed} and {shapes_seed}"
            )
        self.split, self.num_points, self.seed, self.augment = split, num_points, seed, augment
        self.classes = PARTS
        places = [(name, number) for name in CLASSES for number in range(1, num_shapes + 1)]
        self.names = [f"{name}/{split}/{name}_{number:04}" for name, number in places]
        self.targets = [CLASSES.index(name) for name, _ in places]
        self._shapes = [_labeled(name, split, shapes_seed, number) for name, number in places]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | tuple[int, int]) -> MeshCloud:
        epoch, index = key if isinstance(key, (tuple, list)) else (0, key)
        shape, areas = self._shapes[index]
        train = self.split == "train"
        generator = np.random.default_rng([self.seed, epoch if train else 0, index])
        points, faces = sample_faces(
            shape.vertices, shape.faces, self.num_points, generator, cumulative=areas
        )
        pos = torch.from_numpy(normalize(points))
        if train and self.augment is not None:
            pos = self.augment(pos, generator)
        part = torch.from_numpy(shape.part_of_face[faces])
        y = torch.tensor([self.targets[index]])
        return MeshCloud(pos=pos, part=part, y=y, name=self.names[index], index=index)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.split}, {len(self)} shapes of {len(CLASSES)} classes, "
            f"{len(PARTS)} parts, {self.num_points} points)"
        )


@lru_cache(maxsize=4096)  # training and validation open the same split
def _labeled(name: str, split: str, seed: int, number: int) -> tuple[Shape, np.ndarray]:
    """A shape whose faces have labels of :data:`PARTS`, and its cumulative areas."""
    shape = make_split_shape(name, split, seed, number)
    labels = np.array([PARTS.index(p) if p in PARTS else IGNORED for p in shape.part_names])
    labeled = Shape(shape.vertices, shape.faces, labels[shape.part_of_face], PARTS)
    return labeled, cumulative_areas(shape.vertices, shape.faces)
