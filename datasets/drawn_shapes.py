"""Shapes as point clouds of equal size, drawn anew in training and by one rule elsewhere."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Data

from datasets.draws import Draws
from datasets.mesh_cache import MeshCache
from datasets.surface import normalize, sample_faces

# of cloud and generator; for clouds with normals called with normals=True, see Augment
AugmentFunction = Callable[..., Tensor]
Prepared = tuple[np.ndarray, np.ndarray, np.ndarray]  # what datasets.surface.prepare returns


class MeshCloud(Data):
    """One shape as points: ``pos`` and ``x`` of one or more draws, ``y``, ``name`` and ``index``.

    ``x`` are the features of the points, where there are any.
    """

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        # PyG takes every attribute with "index" in its name for node numbers to be shifted
        return 0 if key == "index" else super().__inc__(key, value, *args, **kwargs)


def make_cloud(clouds: np.ndarray | Tensor, **attributes: Any) -> MeshCloud:
    """Join the draws of a shape, ``(votes, P, 3 + C)``, into one item."""
    rows = torch.as_tensor(clouds).flatten(0, 1)
    if rows.size(1) > 3:
        attributes["x"] = rows[:, 3:].contiguous()
    return MeshCloud(pos=rows[:, :3].contiguous(), votes=len(clouds), **attributes)


class DrawnShapes(Dataset[MeshCloud]):
    """Shapes of a split; subclasses know them and their classes.

    Training points are drawn anew in every epoch from a generator seeded with
    ``(seed, epoch, index)`` and nothing else, so that they are the same for any number of workers
    and after any interruption. The points of all other splits are those of :class:`Draws`,
    for ever.

    Items are asked for as ``dataset[epoch, index]``, which a sampler may yield, or
    ``dataset[index]``, which is epoch 0.

    Args:
        split: ``train`` or another one.
        num_points: Points of a cloud, :math:`P`.
        seed: Seed of all points.
        augment: ``(pos, generator) -> pos``, applied to clouds of ``train`` only.
        draws: How points are drawn for evaluation, also from ``train``; by default once from every
            other split.
        features: Of :data:`datasets.clouds.FEATURES`, in that order: what ``x`` of an item holds.

    Attributes:
        classes: Class names.
        targets: The label of each shape.
        names: Of the shapes.

    Shape:
        - Items are PyG ``Data`` with ``pos``, float32 ``(votes * P, 3)``, of each draw mean 0 and
          largest distance 1 before ``augment``, without unit; ``x``, float32 ``(votes * P, 3 C)``,
          with ``C`` features; ``y``, int64 ``(1,)``; ``name``, str; ``index`` and ``votes``, int.

    Raises:
        ValueError: ``num_points`` below 1, or a negative seed.
    """

    classes: Sequence[str]
    targets: list[int]
    names: list[str]
    _meshes: MeshCache | Sequence[Prepared]

    def __init__(
        self,
        split: str,
        *,
        num_points: int = 1024,
        seed: int = 0,
        augment: AugmentFunction | None = None,
        draws: Draws | None = None,
        features: Sequence[str] = (),
    ) -> None:
        if num_points < 1:
            raise ValueError(f"num_points must be at least 1, got {num_points}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        self.split, self.num_points, self.seed, self.augment = split, num_points, seed, augment
        self.draws = Draws(seed=seed) if draws is None and split != "train" else draws
        self.features = tuple(features)
        self._normals = {"normals": True} if "normal" in features else {}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | tuple[int, int]) -> MeshCloud:
        epoch, index = key if isinstance(key, (tuple, list)) else (0, key)
        epoch, index = operator.index(epoch), operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} shapes")
        return self._item(epoch, index % len(self))

    def _item(self, epoch: int, index: int) -> MeshCloud:
        if self.draws is not None:
            clouds = self.draws.points(*self._meshes[index], self.num_points, **self._normals)
        else:
            clouds = self._draw(epoch, index, *self._meshes[index])[0][None]
        return make_cloud(clouds, index=index, **self._about(index))

    def _about(self, index: int) -> dict[str, Any]:
        return {"y": torch.tensor([self.targets[index]]), "name": self.names[index]}

    def _draw(
        self, epoch: int, index: int, vertices: np.ndarray, faces: np.ndarray, areas: np.ndarray
    ) -> tuple[Tensor, np.ndarray]:
        """Draw points of an epoch, changed at random, and tell which faces they are from."""
        generator = np.random.default_rng([self.seed, epoch, index])
        options = {"cumulative": areas, **self._normals}
        drawn, places = sample_faces(vertices, faces, self.num_points, generator, **options)
        rows = torch.from_numpy(normalize(drawn))
        if self.augment is not None:
            rows = self.augment(rows, generator, **self._normals)
        return rows, places

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.split}, {len(self)} shapes of {len(self.classes)} "
            f"classes, {self.num_points} points)"
        )
