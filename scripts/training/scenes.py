"""Images with masks for the training stack: data sets, random changes, batches."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from datasets.cityscapes import IGNORED, SPLITS, Cityscapes, Scene, Scenes
from datasets.digit_scenes import DigitScenes
from datasets.image_dataset import ImageFormat, drawing_from
from datasets.image_folder import IMAGENET_MEAN, IMAGENET_STD
from scripts.training.data import ClassificationData, three_counts
from scripts.training.images import ImageBatch, read_pixels
from scripts.training.loader import ResumableLoader
from scripts.training.reliability.errors import TrainingError
from scripts.training.reliability.files import hash_files

LARGEST_PICTURE = 256  # of those kept for the report


@dataclass(frozen=True)
class SceneAugment:
    """Random changes of training images, of the masks with them where they move anything.

    Args:
        scale: Range of the factor on the size.
        flip: Probability of a mirror image.
        brightness: Largest relative change, as for torchvision's ``ColorJitter``.
        contrast: As brightness.
        saturation: As brightness.
        hue: Largest change, in turns of the color circle.

    Raises:
        ValueError: A range or a probability that makes no sense.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ValueError(f"scale must be two positive numbers in order, got {self.scale}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be from 0 to 1, got {self.flip}")

    def make(
        self, size: tuple[int, int], crop: tuple[int, int], mean: Sequence[float]
    ) -> v2.Compose:
        """Build the transform of images of ``size``; where a crop is larger, ``mean`` fills it."""
        fill = {tv_tensors.Image: [round(255 * m) for m in mean], tv_tensors.Mask: IGNORED}
        return v2.Compose(
            [
                v2.ScaleJitter(size, self.scale, antialias=True),
                v2.RandomCrop(crop, pad_if_needed=True, fill=fill),
                v2.RandomHorizontalFlip(self.flip),
                v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue),
            ]
        )


class PreparedScenes(Dataset):
    """Scenes as the network takes them, in training changed as (seed, epoch, index) says."""

    def __init__(
        self,
        scenes: Scenes,
        format: ImageFormat,
        change: v2.Transform | None = None,
        seed: int = 0,
    ):
        self.scenes, self.format, self.change, self.seed = scenes, format, change, seed

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key: int | tuple[int, int]) -> Scene:
        """Read, change and normalize a scene."""
        scene = self.scenes[key]
        image, mask = scene.image, scene.mask
        if self.change is not None:
            epoch, index = key
            with drawing_from(self.seed, epoch, index):
                image, mask = self.change(image, mask)
        return Scene(self.format.normalize(image), mask, scene.name, scene.index)


class SegmentationData(ClassificationData):
    """Scenes with a class at each pixel; validation has a split of its own.

    Args:
        name: ``digit_scenes`` is made on the spot, ``cityscapes`` must be there.
        root: Folder of the data set; by default ``data/<name>``, and ``data`` for what is made.
        check_counts: Warn where ``cityscapes`` has not its published number of images.
        scenes: How many ``digit_scenes`` there are in ``train``, ``val`` and ``test``.
        scene_size: Height and width of ``digit_scenes``.
        crop: Height and width in training; by default those of the images.
        augment: Random changes of training images.
        eval_batch_size: Images in a batch of validation and test, which are not cropped.
        test_splits: What is tested: by default ``test``, and ``val`` of ``cityscapes``, whose
            masks of ``test`` are not published.
        kwargs: As for :class:`ClassificationData`.

    Raises:
        ValueError: Splits, sizes or counts that make no sense.
    """

    made: ClassVar = {"digit_scenes": "cityscapes"}
    source: ClassVar = {**ClassificationData.source, "scenes": "null", "check_counts": "true"}

    def __init__(
        self,
        name: Literal["digit_scenes", "cityscapes"] = "digit_scenes",
        root: str | None = None,
        check_counts: bool = True,
        scenes: list[int] | None = None,
        scene_size: int = 128,
        crop: list[int] | None = None,
        augment: SceneAugment | None = None,
        eval_batch_size: int = 16,
        test_splits: list[str] | None = None,
        **kwargs: Any,
    ):
        test_splits = test_splits or ["val" if name == "cityscapes" else "test"]
        super().__init__(val_fraction=0, test_splits=test_splits, **kwargs)
        self.eval_batch_size = eval_batch_size
        if unknown := sorted(set(self.test_splits) - set(SPLITS)):
            raise ValueError(f"no split {', '.join(unknown)}; there are {', '.join(SPLITS)}")
        if crop is not None and (len(crop) != 2 or min(crop) < 1):
            raise ValueError(f"data.crop must be height and width, got {crop}")
        self.crop, self.augment = crop, augment or SceneAugment(scale=(1, 1), flip=0)
        if name == "cityscapes":
            if scenes is not None:
                raise ValueError("data.scenes is for digit_scenes, not for cityscapes")
            self._open = partial(Cityscapes, root or "data/cityscapes", check_counts=check_counts)
        else:
            counts = three_counts("scenes", scenes, ("num_train", "num_val", "num_test"))
            self._open = partial(DigitScenes, root or "data", size=scene_size, **counts)
        self.about = {"data": name, "root": root}

    def setup(self, stage: str) -> None:
        """Open what the stage needs."""
        if stage in ("fit", "validate"):
            self.val_set = self._use(self.open_split("val"))
            self.val_indices = range(len(self.val_set))
        if stage == "fit":
            self.train_set = self.open_split("train", training=True)
            self.train_indices = range(len(self.train_set))
        if stage == "test":
            self.test_set = self._use(self.open_split(self.split))

    def open(self, split: str, *, training: bool) -> PreparedScenes:
        """Open a split."""
        scenes = self._open(split=split)
        height, width = scenes[0].mask.shape
        self.image_size, side = (height, width), min(height, width)
        self.format = ImageFormat(side, side, IMAGENET_MEAN, IMAGENET_STD)
        if not training:
            return PreparedScenes(scenes, self.format)
        crop = (height, width) if self.crop is None else (self.crop[0], self.crop[1])
        change = self.augment.make((height, width), crop, self.format.mean)
        return PreparedScenes(scenes, self.format, change, self.seed)

    def _use(self, prepared: PreparedScenes) -> PreparedScenes:
        self.classes = list(prepared.scenes.classes)
        self.colors = [list(color) for color in prepared.scenes.colors]
        return prepared

    @staticmethod
    def collate(samples: list[Scene]) -> ImageBatch:
        """Stack images of one size."""
        sizes = {tuple(sample.mask.shape): sample.name for sample in samples}
        if len(sizes) > 1:
            raise TrainingError(
                "images of a batch differ in size: "
                + ", ".join(f"{name} has {h} x {w}" for (h, w), name in sizes.items())
                + "; use --data.eval_batch_size 1"
            )
        return ImageBatch(
            torch.stack([sample.image.as_subclass(Tensor) for sample in samples]),
            torch.stack([sample.mask.as_subclass(Tensor) for sample in samples]),
            [sample.index for sample in samples],
            [sample.name for sample in samples],
        )

    def describe(self) -> dict[str, Any]:
        """Return what a reader of the weights must know about input and classes."""
        return {"task": "segmentation", "input": asdict(self.format), "colors": self.colors}

    def fingerprint(self) -> str:
        """Return a hash of names and files of the images of training and validation."""
        sets = (self.train_set.scenes, self.val_set.scenes)
        files = [path for scenes in sets for i in range(len(scenes)) for path in scenes.files(i)]
        names = [scenes.names for scenes in sets]
        return hashlib.sha256(str([hash_files(files), names]).encode()).hexdigest()

    def read_file(self, path: Path, info: dict[str, Any]) -> Scene:
        """Make a sample of an image file, whose classes nobody knows."""
        return read_scene(path, info)

    def loader_of(self, samples: Sequence[Any]) -> ResumableLoader:
        """Return a loader of files, one by one, as their sizes may differ."""
        self.eval_batch_size = 1
        return super().loader_of(samples)

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of the pictures that are kept."""
        shrink = min(1.0, LARGEST_PICTURE / max(self.image_size))
        height, width = (max(1, round(shrink * side)) for side in self.image_size)
        return height, width

    def pictures(self, indices: Sequence[int]) -> tuple[str, np.ndarray]:
        """Return some test images as bytes, ``(M, h, w, 3)``."""
        scenes = (self.test_set.scenes[int(index)] for index in indices)
        images = [shrink(scene.image, self.picture_size).permute(1, 2, 0) for scene in scenes]
        return "scene", np.stack([image.numpy() for image in images])

    def truths(self, indices: Sequence[int]) -> np.ndarray:
        """Return their masks as bytes, ``(M, h, w)``."""
        scenes = (self.test_set.scenes[int(index)] for index in indices)
        masks = [shrink(scene.mask[None], self.picture_size)[0] for scene in scenes]
        return np.stack([mask.numpy() for mask in masks]).astype(np.uint8)


def read_scene(path: Path, info: dict[str, Any]) -> Scene:
    """Read an image file, at its own size, for a network with this ``info``."""
    format, pixels = read_pixels(path, info)
    image = format.normalize(pixels)
    return Scene(image, torch.full(image.shape[-2:], IGNORED), str(path), 0)


def shrink(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Take the nearest pixels of ``(C, H, W)``, for images and masks alike.

    Example:
        >>> shrink(torch.arange(16).reshape(1, 4, 4), (2, 2)).tolist()
        [[[0, 2], [8, 10]]]
    """
    rows, columns = (
        (torch.arange(new) * old) // new for new, old in zip(size, pixels.shape[-2:], strict=True)
    )
    return pixels.as_subclass(Tensor)[:, rows][:, :, columns]
