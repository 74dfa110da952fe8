"""The shapes of shapes10 as point clouds whose points know their part: leg, seat, drawer, ..."""

from functools import lru_cache
from typing import Any

import numpy as np

from datasets.drawn_parts import DrawnParts
from datasets.furniture import Shape
from datasets.shapes10 import CLASSES, SPLITS, make_split_shape
from datasets.surface import cumulative_areas

# what the generator calls its pieces; a leg is a leg, whether of a bed or of a table
PARTS = (
    *("arm", "back", "base", "body", "bottom", "bowl", "cabinet", "case", "cover", "cushion"),
    *("drawer", "foot", "footboard", "frame", "headboard", "knob", "leg", "lid", "mattress"),
    *("neck", "panel", "pillow", "plinth", "screen", "seat", "shelf", "side", "slat", "tank"),
    *("tap", "top", "tub"),
)
IGNORED = 255  # label of a point that is on no part: the specks of a damaged scan


class Shapes10Parts(DrawnParts):
    """Generated furniture with a part for every point; see :class:`DrawnParts` for items.

    The shapes are those of :class:`~datasets.shapes10.Shapes10`. They are made in
    memory, as the OFF files do not say which face is of which part. Specks of a damaged scan are of
    the part :data:`IGNORED`.

    Args:
        split: ``train``, ``test`` or ``test-hard``.
        num_shapes: Shapes of each class.
        **options: As for :class:`DrawnParts`; of the features there is ``normal``.

    Attributes:
        names: ``<class>/<split>/<class>_NNNN`` of each shape.

    Raises:
        ValueError: Another split, or a count below 1.

    Example:
        >>> data = Shapes10Parts("test", num_points=64, num_shapes=1)
        >>> chair = data[2]
        >>> chair.name, sorted({PARTS[part] for part in chair.part.tolist()})[-1]
        ('chair/test/chair_0001', 'slat')
    """

    def __init__(self, split: str = "train", *, num_shapes: int = 60, **options: Any) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if num_shapes < 1:
            raise ValueError(f"num_shapes must be at least 1, got {num_shapes}")
        super().__init__(split, **options)
        self.classes = PARTS
        places = [(name, number) for name in CLASSES for number in range(1, num_shapes + 1)]
        self.names = [f"{name}/{split}/{name}_{number:04}" for name, number in places]
        self.targets = [CLASSES.index(name) for name, _ in places]
        self._shapes = [_make(name, split, number) for name, number in places]

    def _labeled(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        shape, areas = self._shapes[index]
        return shape.vertices, shape.faces, areas, shape.part_of_face


@lru_cache(maxsize=4096)  # training and validation open the same split
def _make(name: str, split: str, number: int) -> tuple[Shape, np.ndarray]:
    """A shape whose faces have labels of :data:`PARTS`, and its cumulative areas."""
    shape = make_split_shape(name, split, 0, number)
    labels = np.array([PARTS.index(p) if p in PARTS else IGNORED for p in shape.part_names])
    labeled = Shape(shape.vertices, shape.faces, labels[shape.part_of_face], PARTS)
    return labeled, cumulative_areas(shape.vertices, shape.faces)
