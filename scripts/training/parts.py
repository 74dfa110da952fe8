"""Part segmentation of point clouds: data and the Lightning module."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from datasets.augment import Augment
from datasets.drawn_parts import DrawnParts
from datasets.shapenet_part import ShapeNetPart
from datasets.shapes10 import SPLITS
from datasets.shapes10_parts import IGNORED, Shapes10Parts
from datasets.surface import prepare
from mgic_geo import create_segmenter
from mgic_geo.graphs import knn
from scripts.training.data import three_counts
from scripts.training.masks import MaskClassifier, MaskEvaluation
from scripts.training.part_files import check_label_paths, label_path, write_labels
from scripts.training.points import CloudData, bad_clouds

COUNTS = (60, 20, 20)  # shapes of each class in train, test and test-hard


class PartClouds(CloudData):
    """Point clouds with a part for every point.

    Args:
        name: ``shapes10_parts`` is made on the spot; ``shapenet_part`` must be there, as its
            authors have it: clouds with normals, and their lists of what is for what.
        root: Folder of ``shapenet_part``; by default ``data/shapenet_part``.
        shapes_per_class: How many shapes ``shapes10_parts`` has of each class of furniture in
            ``train``, ``test`` and ``test-hard``; 60, 20 and 20 by default.
        augment: Random changes of training clouds.
        kwargs: As for :class:`CloudData`. Splits to test are ``test`` and ``test-hard``, or of
            ``shapenet_part`` ``test`` and ``val``; there ``val`` is held out in training, unless
            ``val_fraction`` is 0, which trains on both.

    Raises:
        ValueError: Splits or counts that make no sense.
    """

    holds: ClassVar = dict.fromkeys(("shapes10_parts", "shapenet_part"), ("normal",))

    def __init__(
        self,
        name: Literal["shapes10_parts", "shapenet_part"] = "shapes10_parts",
        root: str | None = None,
        shapes_per_class: tuple[int, int, int] | None = None,
        augment: Augment | None = None,
        **kwargs: Any,
    ):
        made = name == "shapes10_parts"
        super().__init__(name, SPLITS if made else ("test", "val"), augment=augment, **kwargs)
        if augment is not None and augment.keep != (1.0, 1.0):
            raise ValueError("data.augment.keep is not for parts, which every point has")
        if self.votes != 1:
            raise ValueError(f"data.votes must be 1: a point has its part once, got {self.votes}")
        if not made and shapes_per_class is not None:
            raise ValueError(f"data.shapes_per_class is for shapes10_parts, not for {name}")
        if made and root is not None:
            raise ValueError("data.root is for shapenet_part; shapes10_parts is made")
        self.about = {"data": name} if made else {"data": name, "root": root}
        self.root = root or "data/shapenet_part"
        self.counts = three_counts("shapes_per_class", shapes_per_class or COUNTS, SPLITS)

    def open(self, split: str, *, training: bool) -> DrawnParts:
        """Open a split, or make its shapes."""
        options = {"num_points": self.num_points, "seed": self.seed, **self.feature_options()}
        options["augment"] = self.augment if training else None
        if self.name == "shapes10_parts":
            return Shapes10Parts(split, num_shapes=self.counts[split], **options)
        split = "trainval" if split == "train" else split
        return ShapeNetPart(self.root, split, up=self.up or "y", **options)

    def divide(self, dataset: DrawnParts) -> tuple[Sequence[int], Sequence[int]]:
        """Hold out what the authors do, where they have a list of that."""
        if not isinstance(dataset, ShapeNetPart) or self.val_fraction == 0:
            return super().divide(dataset)
        held_out = set(dataset.held_out)
        return [i for i in range(len(dataset)) if i not in held_out], dataset.held_out

    def make_sample(self, vertices: np.ndarray, faces: np.ndarray, name: str) -> Data:
        """Add where the points lie in the file, and ``labeled``, those that get a label.

        Of a mesh these are the same; of a point cloud they are all of its points.
        """
        sample = super().make_sample(vertices, faces, name)
        drawn = self.draws.draw(*prepare(vertices, faces), self.num_points)[0, :, :3]
        used = vertices[np.unique(faces)] if len(faces) else vertices[:, :3]
        low, high = used.min(axis=0), used.max(axis=0)
        sample.places = drawn * ((high - low).max() / 2) + (low + high) / 2  # prepare, backwards
        sample.labeled = sample.places if len(faces) else used
        return sample

    def check_labels(self, folder: Path, files: Sequence[str]) -> None:
        """Look at where the labels of files would go."""
        check_label_paths(folder, files)

    def write_labels(
        self, folder: Path, samples: Sequence[Data], labels: Sequence[np.ndarray], parts: list[str]
    ) -> None:
        """Write what was predicted for the points of files.

        A point that was not drawn has the part of the nearest one that was.

        Raises:
            OSError: They cannot be written.
        """
        for sample, label in zip(samples, labels, strict=True):
            drawn, wanted = (torch.from_numpy(each) for each in (sample.places, sample.labeled))
            nearest = knn(drawn, wanted, 1)[1].numpy()
            write_labels(label_path(folder, sample.name), sample.labeled, label[nearest], parts)

    def describe(self) -> dict[str, Any]:
        """Return what a reader of the weights must know about their input, and the task."""
        return {"task": "parts", **super().describe()}

    def about_test(self) -> dict[str, Any]:
        """Return what was tested; every point of a shape is, in one draw."""
        return self.about | CloudData.describe(self) | {"seed": self.seed}

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
        scores = self.network(batch.pos, batch.batch, x=batch.x)
        return scores.view(batch.num_graphs, -1, scores.size(1)).transpose(1, 2)

    def sample_info(self, batch: Batch) -> tuple[Tensor, list[int], list[str]]:
        """Return parts ``(B, num_points)``, indices and names of the clouds."""
        return batch.part.view(batch.num_graphs, -1), batch.index.tolist(), batch.name
