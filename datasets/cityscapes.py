"""Cityscapes as distributed, and any other scenes in folders of its layout.

Classes, their numbers and colors are torchvision's. Its reader is not used: it lists files in the
order of the file system, so that a sample's index is another one on another machine; takes whatever
lies in a folder for an image; and finds out that a mask is missing when it comes to it.
"""

import operator
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import datasets as torchvision_datasets
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from datasets.image_files import ImageFileError, read_image, read_labels
from datasets.off import shown

SPLITS = ("train", "val", "test")
IGNORED = 255  # the class of pixels that neither train nor count
COUNTS = {"train": 2975, "val": 500, "test": 1525}
IMAGE, MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"
UNKNOWN = 254

_TRAINED = sorted(
    (c for c in torchvision_datasets.Cityscapes.classes if 0 <= c.train_id < IGNORED),
    key=lambda c: c.train_id,
)
CLASSES = tuple(c.name for c in _TRAINED)
COLORS = tuple(c.color for c in _TRAINED)
LABELS = {
    c.id % 256: c.train_id if 0 <= c.train_id < IGNORED else IGNORED  # -1 is 255 in a file of bytes
    for c in torchvision_datasets.Cityscapes.classes
}


class CountsWarning(UserWarning):
    """The number of images is not that of the published data set."""


@dataclass(frozen=True)
class Scene:
    """An image and the class of each of its pixels.

    Args:
        image: Bytes, ``(3, H, W)``.
        mask: Classes, ``(H, W)``, int64; ``IGNORED`` where there is none.
        name: ``CITY/STEM``.
        index: Place in the data set.
    """

    image: tv_tensors.Image
    mask: tv_tensors.Mask
    name: str
    index: int


class Scenes(Dataset):
    """Images with masks: ``leftImg8bit/<split>/<city>/*`` and ``gtFine/<split>/<city>/*``.

    Items are by index, or by (epoch, index) as the training loader asks; the epoch changes nothing.

    Attributes:
        names: ``CITY/STEM`` of each image, sorted.

    Args:
        root: Folder with ``leftImg8bit`` and ``gtFine``.
        split: ``train``, ``val`` or ``test``.
        classes: Names of the classes.
        colors: Their colors, for pictures.
        labels: From the number in a mask to the class, or to ``IGNORED``.

    Raises:
        ValueError: Another split.
        FileNotFoundError: A folder, an image or a mask is missing; the message names it.

    Example:
        >>> Scenes("nowhere", "train", classes=("a",), colors=((0, 0, 0),), labels={0: 0})
        Traceback (most recent call last):
        FileNotFoundError: nowhere: there is no folder leftImg8bit/train; expected ...
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        classes: Sequence[str],
        colors: Sequence[tuple[int, int, int]],
        labels: Mapping[int, int],
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        self.root, self.split = Path(root), split
        self.classes, self.colors = tuple(classes), tuple(colors)
        self.names = _match(self.root, split)
        self._table = np.full(256, UNKNOWN, np.uint8)
        for number, label in labels.items():
            self._table[number] = label

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | tuple[int, int]) -> Scene:
        """Read a scene.

        Raises:
            ImageFileError: A file is damaged, image and mask differ in size, or the mask holds a
                number that is no label.
        """
        index = operator.index(key[1] if isinstance(key, (tuple, list)) else key)
        name = self.names[index]
        image_path, path = self.files(index)
        image, numbers = read_image(image_path), read_labels(path)
        mask = self._table[numbers]
        if numbers.shape != image.size[::-1]:
            raise ImageFileError(
                f"{shown(path)}: the mask has {numbers.shape[1]} x {numbers.shape[0]} pixels, the "
                f"image {image.width} x {image.height}"
            )
        if (mask == UNKNOWN).any():
            unknown = ", ".join(map(str, np.unique(numbers[mask == UNKNOWN])))
            raise ImageFileError(
                f"{shown(path)}: {unknown} is no label; labels are "
                f"{', '.join(map(str, np.flatnonzero(self._table != UNKNOWN)))}"
            )
        classes = tv_tensors.Mask(torch.from_numpy(mask.astype(np.int64)))
        return Scene(tv_tensors.Image(functional.pil_to_tensor(image)), classes, name, index)

    def files(self, index: int) -> tuple[Path, Path]:
        """Return the files of an image and of its mask."""
        name = self.names[index]
        return (
            self.root / "leftImg8bit" / self.split / f"{name}{IMAGE}",
            self.root / "gtFine" / self.split / f"{name}{MASK}",
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.split}, {len(self)} images, {len(self.classes)} classes)"
        )


class Cityscapes(Scenes):
    """The 19 classes of Cityscapes that count; all others are ignored.

    The published masks of ``test`` hold nothing but ignored pixels: results are on ``val``.

    Args:
        root: Folder with ``leftImg8bit`` and ``gtFine``.
        split: ``train``, ``val`` or ``test``.
        check_counts: Warn where the number of images is not the published one.

    Raises:
        ValueError: Another split.
        FileNotFoundError: A folder, an image or a mask is missing; the message names it.

    References:
        Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding (2016).
    """

    def __init__(
        self, root: str | os.PathLike[str], split: str = "train", *, check_counts: bool = True
    ) -> None:
        super().__init__(root, split, classes=CLASSES, colors=COLORS, labels=LABELS)
        if check_counts and len(self) != COUNTS[split]:
            message = f"{shown(root)}: {split} has {len(self)} images, not {COUNTS[split]}"
            warnings.warn(message, CountsWarning, stacklevel=2)


def _match(root: Path, split: str) -> list[str]:
    """Return the sorted names of a split, each of which has an image and a mask."""
    found = []
    for folder, ending in (("leftImg8bit", IMAGE), ("gtFine", MASK)):
        place = root / folder / split
        if not place.is_dir():
            raise FileNotFoundError(
                f"{shown(root)}: there is no folder {folder}/{split}; expected "
                f"leftImg8bit/{split}/CITY/*{IMAGE} and gtFine/{split}/CITY/*{MASK}, as in the "
                "archives leftImg8bit_trainvaltest and gtFine_trainvaltest"
            )
        paths = place.glob(f"[!.]*/[!.]*{ending}")
        found.append({path.relative_to(place).as_posix()[: -len(ending)] for path in paths})
    images, masks = found
    for kind, ending, missing in (("mask", MASK, images - masks), ("image", IMAGE, masks - images)):
        if missing:
            folder = "gtFine" if kind == "mask" else "leftImg8bit"
            raise FileNotFoundError(
                f"{shown(root / folder / split / f'{min(missing)}{ending}')} is missing: "
                f"{len(missing)} of {len(images | masks)} scenes have no {kind}"
            )
    if not images:
        raise FileNotFoundError(f"{shown(root / 'leftImg8bit' / split)}: no CITY/*{IMAGE} in it")
    return sorted(images)
