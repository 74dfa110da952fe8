"""The Lightning data module for classification, whatever the samples are."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from datasets.splits import stratified_split
from scripts.training.loader import OrderedBatches, ResumableLoader, ShuffledBatches
from scripts.training.reliability.distributed import world
from scripts.training.reliability.errors import TrainingError
from scripts.training.reliability.recovery import Recovery
from scripts.training.weights import Weights

# arguments of data sets, as their messages spell them -> options of the command line
OPTIONS = {
    "download=True": "--data.download true",
    "modelnet40.fetch downloads": "--data.download true fetches",
    "expected_counts=None": "--data.check_counts false",
    "name those to use as classes=": "read any classes with --data.name folder",
    "source=": "--data.zip ",
}


class ClassificationData(LightningDataModule):
    """Holds out a validation split and serves batches; subclasses know the data sets.

    The split ``train`` is opened twice: changed at random from epoch to epoch for training, and
    as it is for validation. The test splits are opened only to be tested.

    Args:
        batch_size: Samples in a batch, for each process.
        num_workers: Processes that load data; 0 loads in the main one.
        val_fraction: Share of the training samples of each class that validation gets.
        test_splits: What is tested, ``test`` by default.
        seed: Everything random about the data follows from it.

    Raises:
        ValueError: A fraction that is not from 0 to below 1, or a negative number of workers.
    """

    allow_zero_length_dataloader_with_multiple_devices = True  # a rank may have nothing to evaluate
    # options that say where the data are from, as they are where nothing is said; a stage that is
    # given other data than the run's does not take those of the run
    source: ClassVar[Mapping[str, str]] = {"root": "null", "test_splits": "null"}
    # data sets that are made, so that nothing in their root would be read; and which one reads
    made: ClassVar[Mapping[str, str]] = {}
    votes = 1  # draws of each sample that is tested

    def __init__(
        self,
        *,
        batch_size: int = 16,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        test_splits: list[str] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction must be from 0 to below 1, got {val_fraction}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, got {num_workers}")
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.eval_batch_size = batch_size
        self.val_fraction = val_fraction
        self.test_splits = list(test_splits or ["test"])
        self.replaced: list[tuple[int, int]] = []  # (epoch, batch) that are not trained on
        self.split = "test"  # the one that is being tested
        self.classes: list[str] = []
        self.known: list[str] = []  # classes of the network that is used, if there is one
        self.about: dict[str, Any] = {}  # what is tested, to tell one test from another

    def network_options(self) -> dict[str, Any]:
        """Return options of a network that follow from the data."""
        return {}

    def adopt(self, weights: Weights) -> None:
        """Become data for the network that these weights belong to."""
        self.known = list(weights.info["classes"])

    def about_test(self) -> dict[str, Any]:
        """Return what was tested, in plain values."""
        return dict(self.about)

    def recover(self, recovery: Recovery) -> None:
        """Deal out smaller batches, and leave out those that have to be."""
        self.batch_size //= recovery.pieces
        self.eval_batch_size = max(1, self.eval_batch_size // recovery.pieces)
        self.replaced = recovery.replaced

    @abstractmethod
    def open(self, split: str, *, training: bool) -> Any:
        """Open a split; in training it changes at random with (seed, epoch, index)."""

    def open_split(self, split: str, *, training: bool = False) -> Any:
        """Open a split; what is wrong with it is told without a traceback."""
        try:
            return self.open(split, training=training)
        except (OSError, ValueError, ImportError) as error:
            raise TrainingError(f"cannot use the data: {as_options(str(error))}") from error

    def divide(self, dataset: Any) -> tuple[Sequence[int], Sequence[int]]:
        """Return the samples for training and those held out: the same share of each class."""
        if self.val_fraction == 0:
            return range(len(dataset)), ()
        return stratified_split(dataset.targets, self.val_fraction, self.seed)

    @staticmethod
    @abstractmethod
    def collate(samples: list[Any]) -> Any:
        """Make a batch; static, as it travels to the processes that load data."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what a reader of the weights must know about their input."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that two processes share only if they train on the same data."""

    @abstractmethod
    def read_file(self, path: Path, info: dict[str, Any]) -> Any:
        """Make a sample of a file for a network with this ``info``."""

    def check_labels(self, folder: Path, files: Sequence[str]) -> None:
        """Look at where the labels of every point of files would go.

        Raises:
            TrainingError: Points have no labels.
        """
        raise TrainingError("--labels is for networks that tell the parts of point clouds apart")

    @abstractmethod
    def pictures(self, indices: Sequence[int]) -> tuple[str, np.ndarray]:
        """Return some test samples to draw, and what they are: ``cloud`` or ``image``."""

    def setup(self, stage: str) -> None:
        """Open what the stage needs."""
        if stage in ("fit", "validate"):
            self.val_set = self.open_split("train")
            self.train_indices, self.val_indices = self.divide(self.val_set)
            self.classes = list(self.val_set.classes)
        if stage == "fit":
            self.train_set = self.open_split("train", training=True)
        if stage == "test":
            self.test_set = self.open_split(self.split)
            self.classes = list(self.test_set.classes)

    @property
    def num_train_batches(self) -> int:
        """Batches of an epoch in each process."""
        return len(self._train_batches())

    def train_dataloader(self) -> ResumableLoader:
        """Return the loader that can continue within an epoch."""
        return self._loader(self.train_set, self._train_batches())

    def val_dataloader(self) -> ResumableLoader | list:
        """Return the validation loader, or none without a validation split."""
        if len(self.val_indices) == 0:
            return []
        return self._loader(self.val_set, self._ordered(self.val_indices))

    def test_dataloader(self) -> ResumableLoader:
        """Return the loader of the split that is being tested."""
        return self._loader(self.test_set, self._ordered(range(len(self.test_set)), self.votes))

    def loader_of(self, samples: Sequence[Any]) -> ResumableLoader:
        """Return a loader of samples that are at hand, all of them in each process."""
        size = max(1, self.eval_batch_size // self.votes)
        batches = OrderedBatches(range(len(samples)), size)
        return ResumableLoader(samples, batches, self.collate)

    def _train_batches(self) -> ShuffledBatches:
        rank, size = world()
        try:
            return ShuffledBatches(
                self.train_indices,
                self.batch_size,
                seed=self.seed,
                rank=rank,
                world_size=size,
                replaced=self.replaced,
                labels=self.labels_to_balance(),
            )
        except ValueError as error:
            raise TrainingError(str(error)) from error

    def labels_to_balance(self) -> Sequence[int] | None:
        """Return the classes of the training samples where all are to be drawn equally often."""
        return None

    def _ordered(self, indices: Sequence[int], votes: int = 1) -> OrderedBatches:
        rank, size = world()
        batch_size = max(1, self.eval_batch_size // votes)
        return OrderedBatches(indices, batch_size, rank=rank, world_size=size)

    def _loader(
        self, dataset: Dataset, batches: ShuffledBatches | OrderedBatches
    ) -> ResumableLoader:
        return ResumableLoader(
            dataset,
            batches,
            self.collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )


def as_options(message: str) -> str:
    """Name the options of the command line where a data set names its arguments.

    Example:
        >>> as_options("neither a folder nor a zip; download=True fetches ModelNet10")
        'neither a folder nor a zip; --data.download true fetches ModelNet10'
    """
    for argument, option in OPTIONS.items():
        message = message.replace(argument, option)
    return message


def three_counts(option: str, counts: Sequence[int] | None, names: Sequence[str]) -> dict[str, int]:
    """Return three numbers by name, none where the option is not given.

    Raises:
        ValueError: They are not three numbers from 1 up.
    """
    if counts is None:
        return {}
    if len(counts) != 3 or min(counts) < 1:
        raise ValueError(f"data.{option} must be three numbers from 1 up, got {list(counts)}")
    return dict(zip(names, counts, strict=True))
