"""Shapes as point clouds whose points know their part; data sets of parts are this with shapes."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from datasets.drawn_shapes import AugmentFunction, DrawnShapes, MeshCloud, make_cloud


class DrawnParts(DrawnShapes, ABC):
    """Shapes of a split whose points have a part; subclasses know the shapes and what parts are.

    Training points are drawn anew in every epoch from ``(seed, epoch, index)``, those of other
    splits once for ever.

    Args:
        split: One whose name begins with ``train``, or another.
        augment: ``(pos, generator) -> pos``, applied to training splits only.
        **options: ``num_points``, ``seed`` and ``features`` of :class:`DrawnShapes`.

    Shape:
        - Items: as for :class:`DrawnShapes` with one draw, ``y`` being the class of the shape, and
          ``part``, int64 ``(P,)``, a place in ``classes``.
    """

    def __init__(
        self, split: str, *, augment: AugmentFunction | None = None, **options: Any
    ) -> None:
        self._training = split.startswith("train")
        super().__init__(split, augment=augment if self._training else None, **options)

    @abstractmethod
    def _labeled(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return vertices, faces, cumulative areas, and the part of every face or else vertex."""

    def _item(self, epoch: int, index: int) -> MeshCloud:
        *mesh, labels = self._labeled(index)
        rows, places = self._draw(epoch if self._training else 0, index, *mesh)
        part = torch.from_numpy(labels[places])
        return make_cloud(rows[None], part=part, index=index, **self._about(index))

    def __repr__(self) -> str:
        kinds = len(set(self.targets))
        return (
            f"{type(self).__name__}({self.split}, {len(self)} shapes of {kinds} classes, "
            f"{len(self.classes)} parts, {self.num_points} points)"
        )
