"""CIFAR-10: 60,000 color images of 32x32 pixels in ten classes."""

import os
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets as torchvision_datasets

from datasets.download import download as download_file
from datasets.image_dataset import ImageDataset, ImageFormat
from datasets.off import shown

SPLITS = ("train", "test")
ARCHIVE_BYTES = 170_498_071
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training images


def cifar10(
    root: str | os.PathLike[str],
    split: str,
    *,
    download: bool = False,
    size: int = 32,
    **options: Any,
) -> ImageDataset:
    """CIFAR-10 as torchvision reads it, which checks the hash of every file.

    Args:
        root: Folder with ``cifar-10-batches-py``, or for the download, 170 MB.
        split: ``train``, 50,000 images, or ``test``, 10,000.
        download: Fetch and unpack it, if it is not there.
        size: Height and width, in pixels.
        **options: ``augment`` and ``seed`` of :class:`ImageDataset`.

    Raises:
        ValueError: Another split, a size below 1, or files that are missing or damaged.
        DownloadError: As in :func:`datasets.download.download`.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    format = ImageFormat(size, size, mean=MEAN, std=STD)
    reader = torchvision_datasets.CIFAR10
    folder = Path(root, reader.base_folder)
    if download and not folder.is_dir():
        # torchvision's own download starts again from nothing after every cut
        archive = Path(root, reader.filename)
        download_file(reader.url, archive, size=ARCHIVE_BYTES, sha256=ARCHIVE_SHA256)
    try:
        read = reader(root, train=split == "train", download=download and not folder.is_dir())
    except RuntimeError as error:
        raise ValueError(
            f"{shown(folder)}: CIFAR-10 is missing or damaged; download=True fetches it where "
            "there is no such folder"
        ) from error
    images = torch.from_numpy(read.data).permute(0, 3, 1, 2)
    names = [f"cifar10/{split}/{index:05}" for index in range(len(images))]
    return ImageDataset(images, read.targets, names, read.classes, format=format, **options)
