"""Labeled images of a split as inputs of a network; every image data set is this with a source."""

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from datasets.image_files import read_image


class ImageSample(NamedTuple):
    """One image: normalized values ``(3, H, W)``, class, place in its data set, and name."""

    image: Tensor
    target: int
    index: int
    name: str


class Images(Protocol):
    """Images by their place, bytes ``(3, H, W)``: a tensor, or files that are read when needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


class ImageFiles:
    """Images that are read from their files when they are asked for."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = np.array(paths, np.str_)  # not a million objects that each worker copies

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Read a file.

        Raises:
            ImageFileError: It is no image, or a damaged one.
        """
        return v2.functional.pil_to_tensor(read_image(str(self.paths[index])))


@dataclass(frozen=True)
class ImageFormat:
    """What a network expects of an image; it travels with the weights.

    Args:
        size: Height and width, in pixels.
        resize: The shorter side is made this long, before ``size`` pixels are cut from the middle.
        mean: Of each color, of values from 0 to 1.
        std: Standard deviation of each color.

    Raises:
        ValueError: A size below 1, above ``resize``, or a deviation that is not above 0.

    Example:
        >>> mnist = ImageFormat(32, 32, mean=(0.13, 0.13, 0.13), std=(0.31, 0.31, 0.31))
        >>> mnist.normalize(mnist.cut(torch.zeros(3, 28, 40, dtype=torch.uint8))).shape
        torch.Size([3, 32, 32])
    """

    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise ValueError(
                f"size must be from 1 to resize, which is {self.resize}; got {self.size}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {self.std}")

    def cut(self, image: Tensor) -> Tensor:
        """Scale an image of bytes and cut out its middle, without randomness."""
        image = v2.functional.resize(image, [self.resize])
        return v2.functional.center_crop(image, [self.size])

    def normalize(self, image: Tensor) -> Tensor:
        """Turn bytes into values around 0."""
        image = v2.functional.to_dtype(image, torch.float32, scale=True)
        return v2.functional.normalize(image, list(self.mean), list(self.std))


@dataclass(frozen=True)
class ImageAugment:
    """Random changes of a training image that leave its class alone.

    Args:
        flip: Whether half of the images are mirrored; digits do not survive that.
        crop_padding: Black pixels added to every side before ``size`` pixels are cut out anywhere.
        resized_crop: Smallest and largest share of the area that is cut out and scaled to ``size``,
            in place of the middle; ``[0.08, 1]`` is usual for ImageNet.

    Raises:
        ValueError: A negative padding, or shares that are not ``0 < smallest <= largest <= 1``.
    """

    flip: bool = False
    crop_padding: int = 0
    resized_crop: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise ValueError(f"crop_padding must be 0 or more, got {self.crop_padding}")
        if self.resized_crop and not 0 < self.resized_crop[0] <= self.resized_crop[1] <= 1:
            raise ValueError(
                f"resized_crop must be 0 < smallest <= largest <= 1, got {self.resized_crop}"
            )

    def make_transform(self, format: ImageFormat) -> v2.Transform:
        """Return what makes an input of ``size`` bytes of an image, drawing from torch."""
        steps: list[torch.nn.Module] = []
        if self.resized_crop:
            steps += [v2.RandomResizedCrop(format.size, scale=self.resized_crop)]
        else:
            steps += [v2.Resize(format.resize), v2.CenterCrop(format.size)]
        if self.crop_padding:
            steps += [v2.RandomCrop(format.size, padding=self.crop_padding)]
        if self.flip:
            steps += [v2.RandomHorizontalFlip()]
        return v2.Compose(steps)


class ImageDataset(Dataset[ImageSample]):
    """Images of a split, cut and normalized, or changed at random for training.

    A change is drawn from a generator seeded with ``(seed, epoch, index)`` and nothing else, so
    that it is the same for any number of workers and after any interruption.

    Items are asked for as ``dataset[epoch, index]``, which a sampler may yield, or
    ``dataset[index]``, which is epoch 0.

    Args:
        images: Bytes ``(3, H, W)`` by index.
        targets: The class of each.
        names: A name for each.
        classes: Class names in the order of their numbers.
        format: What the network expects.
        augment: Random changes; without, every epoch has the same images.
        seed: Seed of all changes.

    Raises:
        ValueError: A negative seed, or a target that is the number of no class.

    Example:
        >>> format = ImageFormat(4, 4, mean=(0, 0, 0), std=(1, 1, 1))
        >>> images = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
        >>> dataset = ImageDataset(images, [0, 1], ["a", "b"], ["cat", "dog"], format=format)
        >>> dataset[3, 1].name, dataset[3, 1].image.max()
        ('b', tensor(1.))
    """

    def __init__(
        self,
        images: Images,
        targets: Sequence[int],
        names: Sequence[str],
        classes: Sequence[str],
        *,
        format: ImageFormat,
        augment: ImageAugment | None = None,
        seed: int = 0,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, got {seed}")
        self.images, self.names, self.classes = images, names, list(classes)
        self.targets = list(map(int, targets))
        if unknown := sorted(set(self.targets) - set(range(len(self.classes)))):
            raise ValueError(f"targets must be 0 to {len(self.classes) - 1}, got {unknown[:5]}")
        self.format, self.seed = format, seed
        self.augment = augment.make_transform(format) if augment else None

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: int | tuple[int, int]) -> ImageSample:
        epoch, index = key if isinstance(key, (tuple, list)) else (0, key)
        epoch, index = operator.index(epoch), operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images")
        index %= len(self)
        image = self.images[index]
        if self.augment is None:
            image = self.format.cut(image)
        else:
            with drawing_from(self.seed, epoch, index):
                image = self.augment(image)
        image = self.format.normalize(image)
        return ImageSample(image, self.targets[index], index, self.names[index])

    def picture(self, index: int) -> np.ndarray:
        """Return an image as the network sees it, to look at: bytes ``(size, size, 3)``."""
        return self.format.cut(self.images[index]).permute(1, 2, 0).numpy()


@contextmanager
def drawing_from(*place: int) -> Iterator[None]:
    """Let torch's transforms, which know no generator, draw from one of this place's own."""
    (seed,) = np.random.SeedSequence(place).generate_state(1, np.uint64)
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(int(seed))  # torch.manual_seed would seed GPUs as well
        yield
