"""Point clouds for the training stack: data sets, batches, and meshes from files."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import trimesh
from torch import Tensor
from torch_geometric.data import Batch, Data

from datasets import modelnet10, shapes10
from datasets.mesh_dataset import MeshDataset
from datasets.modelnet10 import Augment
from datasets.off import read_off
from datasets.surface import normalize, sample_surface
from mgic_geo import create_model
from scripts.training.classifier import Classifier
from scripts.training.data import ClassificationData, three_counts
from scripts.training.parser import nearest
from scripts.training.reliability.errors import TrainingError


class CloudData(ClassificationData):
    """Point clouds of a number of points; subclasses know which.

    Args:
        name: Of the data set.
        splits: That it has.
        num_points: Points of a cloud.
        augment: Random changes of training clouds.
        kwargs: As for :class:`ClassificationData`.

    Raises:
        ValueError: Splits or counts that make no sense.
    """

    def __init__(
        self,
        name: str,
        splits: Sequence[str],
        *,
        num_points: int = 1024,
        augment: Augment | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if num_points < 1:
            raise ValueError(f"num_points must be at least 1, got {num_points}")
        if unknown := sorted(set(self.test_splits) - set(splits)):
            raise ValueError(
                f"no split {', '.join(unknown)} in {name}; there are {', '.join(splits)}"
                f"{nearest(unknown[0], splits)}"
            )
        self.num_points, self.augment = num_points, augment

    @staticmethod
    def collate(samples: list[Data]) -> Batch:
        """Join clouds into one graph without edges between them."""
        return Batch.from_data_list(samples)

    def describe(self) -> dict[str, Any]:
        """Return what a reader of the weights must know about their input."""
        return {"num_points": self.num_points}

    def read_file(self, path: Path, info: dict[str, Any]) -> Data:
        """Draw points from a mesh file."""
        return read_cloud(path, info["num_points"], self.seed)

    def pictures(self, indices: Sequence[int]) -> tuple[str, np.ndarray]:
        """Return the points of some test clouds, ``(M, num_points, 3)``."""
        clouds = [self.test_set[int(index)].pos.numpy() for index in indices]
        return "cloud", np.array(clouds, np.float32).reshape(len(clouds), -1, 3)


class PointClouds(CloudData):
    """Shapes as point clouds.

    Args:
        name: ``shapes10`` is made on the spot, ``modelnet10`` must be there or be downloaded.
        root: Folder of the data set and its cache; by default ``data/<name>``.
        zip: Archive to read instead of the folder, without unpacking (``modelnet10``).
        download: Fetch ModelNet10 from its publisher if it is not there.
        check_counts: Whether ``modelnet10`` has to be complete; ``false`` for other meshes in the
            same layout.
        lenient: Whether ``modelnet10`` warns of what is wrong with the numbers of a mesh, and
            leaves it out, instead of stopping: vertices that are not finite, faces without area.
        shapes_per_class: How many shapes ``shapes10`` has of each class in ``train``, ``test`` and
            ``test-hard``.
        kwargs: As for :class:`CloudData`; ``shapes10`` has the splits ``test`` and ``test-hard``.
    """

    def __init__(
        self,
        name: Literal["shapes10", "modelnet10"] = "shapes10",
        root: str | None = None,
        zip: str | None = None,
        download: bool = False,
        check_counts: bool = True,
        lenient: bool = False,
        shapes_per_class: list[int] | None = None,
        **kwargs: Any,
    ):
        splits = shapes10.SPLITS if name == "shapes10" else modelnet10.SPLITS
        super().__init__(name, splits, **kwargs)
        root = root or f"data/{name}"
        if name == "shapes10":
            if zip or download:
                raise ValueError("data.zip and data.download are for modelnet10, not for shapes10")
            if lenient:
                raise ValueError("data.lenient is for modelnet10, not for shapes10")
            names = ("num_train", "num_test", "num_hard")
            counts = three_counts("shapes_per_class", shapes_per_class, names)
            self._open = partial(shapes10.Shapes10, root, **counts)
        else:
            if shapes_per_class is not None:
                raise ValueError("data.shapes_per_class is for shapes10, not for modelnet10")
            options: dict[str, Any] = {"source": zip, "download": download, "lenient": lenient}
            if not check_counts:
                options["expected_counts"] = None
            self._open = partial(modelnet10.ModelNet10, root, **options)

    def open(self, split: str, *, training: bool) -> MeshDataset:
        """Open a split."""
        augment = self.augment if training else None
        return self._open(split, num_points=self.num_points, seed=self.seed, augment=augment)

    def fingerprint(self) -> str:
        """Return a hash of the names of the training shapes and of all their meshes."""
        names = "\n".join([*self.val_set.names, self.val_set.digest])
        return hashlib.sha256(names.encode()).hexdigest()


def bad_clouds(batch: Batch) -> list[str]:
    """Name the clouds with a coordinate that is not finite."""
    bad = ~batch.pos.isfinite().all(dim=1)
    return [batch.name[i] for i in batch.batch[bad].unique().tolist()]


class PointClassifier(Classifier):
    """Classifies point clouds.

    Args:
        name: Network of ``mgic_geo``, see ``mgic_geo.list_models()``.
        kwargs: As for :class:`Classifier`.
    """

    create, bad_samples = staticmethod(create_model), staticmethod(bad_clouds)

    def __init__(self, name: str = "mgic_diffgcn", **kwargs: Any):
        super().__init__(name, **kwargs)

    def forward(self, batch: Batch) -> Tensor:
        """Score the classes, ``(B, num_classes)``."""
        return self.network(batch.pos, batch.batch)

    def sample_info(self, batch: Batch) -> tuple[Tensor, list[int], list[str]]:
        """Return classes, indices and names of the clouds."""
        return batch.y, batch.index.tolist(), batch.name


def read_cloud(path: Path, num_points: int, seed: int = 0) -> Data:
    """Draw points from a mesh file, as the data sets draw them.

    OFF files are read strictly, all others by trimesh. The networks were trained on shapes with z
    up.

    Raises:
        TrainingError: The file cannot be read; the message names it.
    """
    try:
        if path.suffix.lower() == ".off":
            vertices, faces = read_off(path)
        else:
            mesh = trimesh.load(path, force="mesh")
            vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
        if not len(faces):
            raise ValueError("it holds no faces")
        if not np.isfinite(vertices).all():
            raise ValueError("a vertex is not finite")
        generator = np.random.default_rng([seed, 0])
        points = normalize(sample_surface(vertices, faces, num_points, generator))
    except Exception as error:  # trimesh raises whatever its many readers do
        raise TrainingError(f"cannot read {path} as a mesh: {error}") from error
    return Data(pos=torch.from_numpy(points), name=str(path))
