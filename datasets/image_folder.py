"""Any images in ``<split>/<class>/`` folders, and ImageNet in that layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torchvision import datasets as torchvision_datasets
from torchvision.models import ResNet50_Weights

from datasets.image_dataset import ImageAugment, ImageDataset, ImageFiles, ImageFormat
from datasets.off import shown

# as everybody does: 256 pixels scaled for 224 that are cut out
RESIZE_SHARE = 256 / 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000


def image_folder(
    root: str | os.PathLike[str],
    split: str,
    *,
    size: int = 224,
    augment: ImageAugment | None = None,
    seed: int = 0,
) -> ImageDataset:
    """Images in ``root/<split>/<class>/``, found by torchvision and read when they are needed.

    Args:
        root: Folder of the splits, all of which must have the same classes as ``train``.
        split: Name of a folder in it.
        size: Height and width the network sees; the shorter side is scaled to 8/7 of it before.
        augment: Random changes.
        seed: Seed of the changes.

    Raises:
        ValueError: No such folder, other classes than in ``train``, or a class without an image.
    """
    root = Path(root)
    check_classes(root, split)
    try:
        read = torchvision_datasets.ImageFolder(os.fspath(root / split))
    except FileNotFoundError as error:  # it names the empty classes
        raise ValueError(f"{shown(root / split)}: {error}") from error
    paths, targets = zip(*read.samples, strict=True)
    return ImageDataset(
        ImageFiles(paths),
        targets,
        [os.path.relpath(path, root) for path in paths],
        read.classes,
        format=ImageFormat(size, round(RESIZE_SHARE * size), mean=IMAGENET_MEAN, std=IMAGENET_STD),
        augment=augment,
        seed=seed,
    )


def imagenet(
    root: str | os.PathLike[str],
    split: str,
    *,
    size: int = 224,
    augment: ImageAugment | None = None,
    seed: int = 0,
) -> ImageDataset:
    """ImageNet's 1,000 classes in ``root/{train,val}/<id>/``, such as ``n01440764`` for tench.

    That is what torchvision unpacks the archives to, and what most copies look like; the archives
    themselves are not needed. As ``image_folder``, with names for the classes.

    Args:
        root: Folder of the splits.
        split: ``train`` or ``val``.
        size: As in :func:`image_folder`.
        augment: Random changes.
        seed: Seed of the changes.

    Raises:
        ValueError: As in :func:`image_folder`, or not 1,000 classes.
    """
    folder = Path(root, split)
    ids = class_folders(folder)
    if len(ids) != IMAGENET_CLASSES:
        raise ValueError(
            f"{shown(folder)}: has {len(ids)} class folders; ImageNet has {IMAGENET_CLASSES}. "
            "Other images in folders are the data set called folder"
        )
    dataset = image_folder(root, split, size=size, augment=augment, seed=seed)
    names = ResNet50_Weights.DEFAULT.meta["categories"]  # in the order of the ids; two are "crane"
    dataset.classes = [f"{id} {name}" for id, name in zip(ids, names, strict=True)]
    return dataset


def find_splits(root: str | os.PathLike[str]) -> list[str]:
    """Return the folders of ``root`` that may be splits, sorted.

    Raises:
        ValueError: ``root`` is no folder, or has none.
    """
    splits = class_folders(Path(root))
    if not splits:
        raise ValueError(f"{shown(root)}: has no folders; expected are train and test or val")
    return splits


def check_classes(root: Path, split: str) -> None:
    """Look at the class folders of a split before anything is trained.

    Raises:
        ValueError: There are none, or others than in ``train``.
    """
    found = class_folders(root / split)
    if not found:
        raise ValueError(f"{shown(root / split)}: has no class folders")
    expected = class_folders(root / "train") if (root / "train").is_dir() else found
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise ValueError(
            f"{shown(root / split)}: has other class folders than train: missing "
            f"{_few(missing)}; unknown {_few(extra)}; expected are {_few(expected)}"
        )


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted as torchvision sorts classes.

    Raises:
        ValueError: There is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{shown(folder)}: no such folder")
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def _few(names: Sequence[str], count: int = 20) -> str:
    shown_names = ", ".join(names[:count]) or "none"
    return f"{shown_names} and {len(names) - count} more" if len(names) > count else shown_names
