"""Point clouds for the training stack: data sets, batches, and meshes from files."""

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from datasets import modelnet10, modelnet40, shapes10
from datasets.augment import AnyRotation, Augment
from datasets.clouds import FEATURES, parse_features, spell_features
from datasets.drawn_shapes import AugmentFunction, DrawnShapes, make_cloud
from datasets.draws import Draws
from datasets.mesh_folder import MeshFolder
from datasets.off import shown
from datasets.scanobjectnn import ScanObjectNN
from datasets.shape_files import Y_UP, read_shape
from datasets.surface import prepare
from mgic_geo import create_model
from scripts.training.classifier import Classifier, Scores
from scripts.training.data import ClassificationData, three_counts
from scripts.training.evaluation import Evaluation
from scripts.training.parser import nearest
from scripts.training.reliability.distributed import gather
from scripts.training.reliability.errors import TrainingError, TrainingWarning
from scripts.training.weights import Weights

Axis = Literal["x", "y", "z", "-x", "-y", "-z"]
Sampling = Literal["random", "farthest"]
Name = Literal["shapes10", "modelnet10", "modelnet40", "folder", "scanobjectnn"]
COMPARED = 8  # of the draws of a shape: how many labels differ among them grows with their number


class CloudData(ClassificationData):
    """Point clouds of a number of points; subclasses know which.

    Args:
        name: Of the data set.
        splits: That it has.
        num_points: Points of a cloud; by default those that the network was trained on, or 1,024.
        augment: Random changes of training clouds.
        votes: Draws of each shape that is tested or predicted; the mean of their probabilities
            counts.
        sampling: How points are drawn for evaluation: ``random``, or ``farthest`` for points that
            cover a shape evenly.
        up: The axis that is up in files that do not say; shapes are turned so that it becomes z.
        features: What the network sees of a point: ``xyz``, or also its ``normal`` and ``color``,
            as ``xyz,normal``. By default what it was trained on, or ``xyz``.
        lenient: Warn of what is wrong with the numbers of a file, and leave it out, instead of
            stopping: vertices that are not finite, faces without area.
        kwargs: As for :class:`ClassificationData`.

    Raises:
        ValueError: Splits, counts or features that make no sense.
    """

    holds: ClassVar[Mapping[str, Sequence[str]]] = {}  # data set -> features that it has

    def __init__(
        self,
        name: str,
        splits: Sequence[str],
        *,
        num_points: int | None = None,
        augment: AugmentFunction | None = None,
        votes: int = 1,
        sampling: Sampling = "random",
        up: Axis | None = None,
        features: str | None = None,
        lenient: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if num_points is not None and num_points < 1:
            raise ValueError(f"num_points must be at least 1, got {num_points}")
        if unknown := sorted(set(self.test_splits) - set(splits)):
            raise ValueError(
                f"no split {', '.join(unknown)} in {name}; there are {', '.join(splits)}"
                f"{nearest(unknown[0], splits)}"
            )
        self.asked_points, self.num_points = num_points, num_points or 1024
        self.name, self.augment, self.up, self.lenient = name, augment, up, lenient
        self.asked_features, self.features = features, parse_features(features or "xyz")
        self.votes, self.draws = votes, Draws(votes, sampling, self.seed)

    def adopt(self, weights: Weights) -> None:
        """Draw as many points as the network was trained on, unless others were asked for.

        Raises:
            TrainingError: It was trained on other features than those asked for.
        """
        super().adopt(weights)
        trained = weights.info.get("features", "xyz")
        self.features = parse_features(trained)
        if self.asked_features and parse_features(self.asked_features) != self.features:
            raise TrainingError(
                f"data.features must be {trained}, on which the network was trained, got "
                f"{self.asked_features}"
            )
        self.num_points = self.asked_points or weights.info.get("num_points", self.num_points)

    @staticmethod
    def collate(samples: list[Data]) -> Batch:
        """Join clouds into one graph without edges between them."""
        return Batch.from_data_list(samples)

    def describe(self) -> dict[str, Any]:
        """Return what a reader of the weights must know about their input."""
        features = {"features": spell_features(self.features)} if self.features else {}
        return {"num_points": self.num_points, **features}

    def network_options(self) -> dict[str, Any]:
        """Return how many numbers the network gets beside coordinates."""
        return {"num_features": 3 * len(self.features)} if self.features else {}

    def feature_options(self) -> dict[str, Any]:
        """Return the features as a data set takes them.

        Raises:
            ValueError: It does not have them.
        """
        if missing := [name for name in self.features if name not in self.holds[self.name]]:
            raise ValueError(
                f"{self.name} has no {' and no '.join(missing)}; data.features can be "
                f"{spell_features(self.holds[self.name])}"
            )
        return {"features": self.features} if self.features else {}

    def about_test(self) -> dict[str, Any]:
        """Return what was tested, and with which points."""
        points = {"votes": self.votes, "up": self.up, "sampling": self.draws.sampling}
        return self.about | self.describe() | points | {"seed": self.seed}

    def read_file(self, path: Path, info: dict[str, Any]) -> Data:
        """Draw points from a file, as a test does.

        Raises:
            TrainingError: The file cannot be read; the message names it.
        """
        options = {"lenient": self.lenient, "features": self.features}
        try:
            vertices, faces = read_shape(path, up=self.up or "z", **options)
        except (OSError, ValueError) as error:
            message = str(error) if shown(path) in str(error) else f"{shown(path)}: {error}"
            raise TrainingError(f"cannot read {message}") from error
        if self.up is None and path.suffix.lower() not in (".off", *Y_UP):
            message = f"{shown(path)}: the file does not say which axis is up; taken for z, --up "
            warnings.warn(message + "names another", TrainingWarning, stacklevel=2)
        return self.make_sample(vertices, faces, str(path))

    def make_sample(self, vertices: np.ndarray, faces: np.ndarray, name: str) -> Data:
        """Draw points from a shape, as the data sets draw them for a test."""
        normals, prepared = "normal" in self.features, prepare(vertices, faces)
        return make_cloud(self.draws.points(*prepared, self.num_points, normals=normals), name=name)

    def pictures(self, indices: Sequence[int]) -> tuple[str, np.ndarray]:
        """Return the points of some test clouds, the first draw of each, ``(M, num_points, 3)``."""
        clouds = [self.test_set[int(index)].pos[: self.num_points].numpy() for index in indices]
        return "cloud", np.array(clouds, np.float32).reshape(len(clouds), -1, 3)


class PointClouds(CloudData):
    """Shapes as point clouds.

    Args:
        name: ``shapes10`` is made on the spot; ``modelnet10`` must be there or be downloaded;
            ``folder`` is any folder or zip with ``<class>/{train,test}/*`` of meshes or point
            clouds, or a CSV file with the columns file, class and split; ``modelnet40`` is such a
            folder, or its zip; ``scanobjectnn`` has its own files in HDF5.
        root: Folder of the data set and its cache; by default ``data/<name>``.
        zip: Archive to read instead of the folder, without unpacking (not for ``shapes10`` and
            ``scanobjectnn``).
        variant: Which files of ``scanobjectnn``, by what their names end in.
        download: Fetch ModelNet10 or ModelNet40 from its publisher if it is not there.
        check_counts: Whether ``modelnet10`` has to be complete; ``false`` for other meshes in the
            same layout.
        shapes_per_class: How many shapes ``shapes10`` has of each class in ``train``, ``test`` and
            ``test-hard``.
        rotate: ``so3`` turns training clouds in every direction of space, for shapes whose upward
            axis is unknown.
        balance: Draw all classes equally often in training.
        votes: As for :class:`CloudData`.
        augment: As for :class:`CloudData`.
        kwargs: As for :class:`CloudData`; ``shapes10`` has the splits ``test`` and ``test-hard``.
    """

    made: ClassVar = {"shapes10": "folder"}
    holds: ClassVar = {
        **dict.fromkeys(("shapes10", "modelnet10", "modelnet40"), ("normal",)),
        "folder": FEATURES,
        "scanobjectnn": (),
    }
    source: ClassVar = {
        **ClassificationData.source,
        "zip": "null",
        "download": "false",
        "check_counts": "true",
        "shapes_per_class": "null",
        "variant": "null",
    }

    def __init__(
        self,
        name: Name = "shapes10",
        root: str | None = None,
        zip: str | None = None,
        download: bool = False,
        check_counts: bool = True,
        shapes_per_class: list[int] | None = None,
        variant: str | None = None,
        rotate: Literal["so3"] | None = None,
        balance: bool = False,
        votes: int = 32,
        augment: Augment | None = None,
        **kwargs: Any,
    ):
        splits = shapes10.SPLITS if name == "shapes10" else modelnet10.SPLITS
        change = augment if rotate is None else AnyRotation(augment)
        super().__init__(name, splits, votes=votes, augment=change, **kwargs)
        if name == "folder" and not (root or zip):
            raise ValueError("data.name folder needs data.root, the folder, or data.zip")
        if name in ("shapes10", "scanobjectnn") and zip:
            raise ValueError(f"data.zip is for modelnet10, modelnet40 and folder, not for {name}")
        if name != "scanobjectnn" and variant is not None:
            raise ValueError(f"data.variant is for scanobjectnn, not for {name}")
        if name not in ("modelnet10", "modelnet40") and download:
            raise ValueError(f"data.download is for modelnet10 and modelnet40, not for {name}")
        if download and zip:
            raise ValueError(f"data.download fetches the zip, but data.zip names one, {zip}")
        if name != "shapes10" and shapes_per_class is not None:
            raise ValueError(f"data.shapes_per_class is for shapes10, not for {name}")
        self.about = {"data": name, "root": zip or root}
        self.balance, self.testing = balance, False
        root = root or f"data/{name}"
        if name == "shapes10":
            refuse_meshes(Path(root))
            names = ("num_train", "num_test", "num_hard")
            counts = three_counts("shapes_per_class", shapes_per_class, names)
            self._open = partial(shapes10.Shapes10, root, **counts)
        elif name in ("folder", "modelnet40"):
            self._open = self._open_folder(zip or root, download)
        elif name == "scanobjectnn":
            which = {} if variant is None else {"variant": variant}
            self._open = partial(ScanObjectNN, root, up=self.up or "y", **which)
        else:
            options: dict[str, Any] = {"source": zip, "download": download}
            if not check_counts:
                options["expected_counts"] = None
            self._open = partial(modelnet10.ModelNet10, root, lenient=self.lenient, **options)

    def _open_folder(self, root: str, download: bool) -> Callable[..., MeshFolder]:
        kind = MeshFolder if self.name == "folder" else modelnet40.ModelNet40

        def open_split(split: str, **kwargs: Any) -> MeshFolder:
            place = modelnet40.fetch(root) if download else root
            up, known = self.up or "z", self.known or None
            return kind(place, split, classes=known, up=up, lenient=self.lenient, **kwargs)

        return open_split

    def setup(self, stage: str) -> None:
        """Open what the stage needs; only a test draws several times."""
        self.testing = stage == "test"
        super().setup(stage)

    def open(self, split: str, *, training: bool) -> DrawnShapes:
        """Open a split."""
        draws = None if training else replace(self.draws, votes=self.votes if self.testing else 1)
        augment = self.augment if training else None
        options = {"num_points": self.num_points, "seed": self.seed, "augment": augment}
        return self._open(split, draws=draws, **options, **self.feature_options())

    def labels_to_balance(self) -> Sequence[int] | None:
        """Return the classes of the training samples where all are to be drawn equally often."""
        return self.train_labels() if self.balance else None

    def train_labels(self) -> list[int]:
        """Return the class of each training sample."""
        return [self.val_set.targets[index] for index in self.train_indices]

    def about_test(self) -> dict[str, Any]:
        """Add a hash of the shapes."""
        return super().about_test() | {"shapes": self.test_set.digest}

    def fingerprint(self) -> str:
        """Return a hash of the names of the training shapes and of all their meshes."""
        names = "\n".join([*self.val_set.names, self.val_set.digest])
        return hashlib.sha256(names.encode()).hexdigest()


def refuse_meshes(root: Path) -> None:
    """Refuse to make shapes in a folder of meshes, which would not be used.

    Raises:
        ValueError: It has folders of classes.
    """
    classes = sorted(path.parent.name for path in root.glob("*/train"))
    if classes:
        raise ValueError(
            f"data.root {shown(root)} holds the classes {', '.join(classes[:5])}, but data.name "
            "shapes10 makes its own shapes: --data.name folder reads those"
        )


def bad_clouds(batch: Batch) -> list[str]:
    """Name the clouds with a coordinate that is not finite."""
    bad = ~batch.pos.isfinite().all(dim=1)
    return [batch.name[i] for i in batch.batch[bad].unique().tolist()]


class PointEvaluation(Evaluation):
    """Counts predictions, and how many labels hold from draw to draw."""

    def describe(self, metrics: dict[str, Any]) -> str:
        """Say the metrics of a split in a line."""
        line = super().describe(metrics)
        if metrics.get("draws", 1) == 1:
            return line
        changing, draws = metrics["changing"], metrics["draws"]
        return f"{line}; {changing:.1%} of labels change among {draws} single draws"


class PointClassifier(Classifier):
    """Classifies point clouds.

    Args:
        name: Network of ``mgic_geo``, see ``mgic_geo.list_models()``.
        weigh_classes: Let every class count the same in the loss, however many samples it has.
        kwargs: As for :class:`Classifier`.
    """

    create, bad_samples = staticmethod(create_model), staticmethod(bad_clouds)
    evaluation_type = PointEvaluation

    def __init__(self, name: str = "mgic_diffgcn", weigh_classes: bool = False, **kwargs: Any):
        super().__init__(name, **kwargs)
        self.weigh_classes = weigh_classes

    def on_fit_start(self) -> None:
        """Weigh the classes, if that was asked for."""
        if self.weigh_classes:
            labels = self.trainer.datamodule.train_labels()
            counts = torch.bincount(torch.tensor(labels), minlength=len(self.classes))
            weights = len(labels) / (len(self.classes) * counts.clamp(min=1))
            self.class_weights = weights.float().to(self.device)

    def forward(self, batch: Batch) -> Tensor:
        """Score the classes, ``(B, num_classes)``."""
        return self.network(batch.pos, batch.batch, x=batch.x)

    def score(self, batch: Batch) -> Scores:
        """Score every draw of the clouds; the logits are of the mean of their probabilities."""
        votes = int(batch.votes[0])
        if votes == 1:
            return super().score(batch)
        clouds = batch.num_graphs * votes
        of_point = torch.arange(clouds, device=batch.pos.device)
        of_point = of_point.repeat_interleave(len(batch.pos) // clouds)
        scores = self.network(batch.pos, of_point, x=batch.x).float()
        logs = scores.view(batch.num_graphs, votes, -1).log_softmax(dim=2)
        return Scores(logs.logsumexp(dim=1) - math.log(votes), logs.exp())

    def on_test_epoch_end(self) -> None:
        """Add the share of samples whose draws, each alone, do not all give the same class."""
        super().on_test_epoch_end()
        kept = [o["draws"] for part in gather(self.test_outputs) for o in part if "draws" in o]
        if kept:
            draws = torch.cat(kept)[:, :COMPARED]
            changing = (draws != draws[:, :1]).any(dim=1).float().mean().item()
            self.test_metrics |= {"draws": draws.size(1), "changing": changing}

    def sample_info(self, batch: Batch) -> tuple[Tensor, list[int], list[str]]:
        """Return classes, indices and names of the clouds."""
        return batch.y, batch.index.tolist(), batch.name
