"""Part segmentation of point clouds: data and the Lightning module."""

import hashlib
from typing import Any

import numpy as np
from torch import Tensor
from torch_geometric.data import Batch

from datasets.augment import Augment
from datasets.shapes10 import SPLITS
from datasets.shapes10_parts import IGNORED, Shapes10Parts
from mgic_geo import create_segmenter
from scripts.training.data import three_counts
from scripts.training.masks import MaskClassifier, MaskEvaluation
from scripts.training.points import CloudData, bad_clouds


class PartClouds(CloudData):
    """Generated furniture as point clouds with a part for every point.

    Args:
        shapes_per_class: How many shapes there are of each class of furniture in ``train``,
            ``test`` and ``test-hard``.
        augment: Random changes of training clouds.
        kwargs: As for :class:`CloudData`; the splits are ``test`` and ``test-hard``.

    Raises:
        ValueError: Splits or counts that make no sense.
    """

    def __init__(
        self,
        name: str = "shapes10_parts",
        shapes_per_class: tuple[int, int, int] = (60, 20, 20),
        augment: Augment | None = None,
        **kwargs: Any,
    ):
        if name != "shapes10_parts":
            raise ValueError(f"data.name must be 'shapes10_parts', got {name!r}")
        super().__init__(name, SPLITS, augment=augment, **kwargs)
        if augment is not None and augment.keep != (1.0, 1.0):
            raise ValueError("data.augment.keep is not for parts, which every point has")
        self.about = {"data": name}
        self.counts = three_counts("shapes_per_class", shapes_per_class, SPLITS)

    def open(self, split: str, *, training: bool) -> Shapes10Parts:
        """Make the shapes of a split."""
        return Shapes10Parts(
            split,
            num_points=self.num_points,
            seed=self.seed,
            augment=self.augment if training else None,
            num_shapes=self.counts[split],
        )

    def describe(self) -> dict[str, Any]:
        """Return what a reader of the weights must know about their input, and the task."""
        return {"task": "parts", **super().describe()}

    def about_test(self) -> dict[str, Any]:
        """Return what was tested; every point of a shape is, in one draw."""
        return self.about | {"num_points": self.num_points, "seed": self.seed}

    def fingerprint(self) -> str:
        """Return the names of the training shapes, and points and parts of the first."""
        digest = hashlib.sha256("\n".join(self.val_set.names).encode())
        for array in (self.val_set[0].pos, self.val_set[0].part):
            digest.update(array.numpy().tobytes())
        return digest.hexdigest()

    def truths(self, indices: Any) -> np.ndarray:
        """Return the parts of their points as bytes, ``(M, num_points)``."""
        return np.stack([self.test_set[int(i)].part.numpy() for i in indices]).astype(np.uint8)


class PartEvaluation(MaskEvaluation):
    """Counts points, and how well parts are met; specks do not count."""

    words = ("point", "cloud")


class PartSegmenter(MaskClassifier):
    """Tells the parts of point clouds apart.

    Args:
        name: Backbone of ``mgic_geo``, see ``mgic_geo.list_models()``.
        kwargs: As for :class:`Classifier`.
    """

    evaluation_type = PartEvaluation
    ignored, kept = IGNORED, "parts"
    create, bad_samples = staticmethod(create_segmenter), staticmethod(bad_clouds)

    def __init__(self, name: str = "mgic_diffgcn", **kwargs: Any):
        super().__init__(name, **kwargs)

    def forward(self, batch: Batch) -> Tensor:
        """Score the parts of every point, ``(B, num_parts, num_points)``."""
        scores = self.network(batch.pos, batch.batch)
        return scores.view(batch.num_graphs, -1, scores.size(1)).transpose(1, 2)

    def sample_info(self, batch: Batch) -> tuple[Tensor, list[int], list[str]]:
        """Return parts ``(B, num_points)``, indices and names of the clouds."""
        return batch.part.view(batch.num_graphs, -1), batch.index.tolist(), batch.name
