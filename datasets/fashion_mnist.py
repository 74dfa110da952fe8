"""Fashion-MNIST: 70,000 real photographs of clothes, 28x28 and gray, with an official division."""

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

from datasets.download import download as download_file
from datasets.image_dataset import ImageDataset, ImageFormat
from datasets.off import shown

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SPLITS = {"train": ("train", 60_000), "test": ("t10k", 10_000)}
MEAN, STD = 0.2860, 0.3530  # of the training images
FOLDER = Path("data/fashion_mnist")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
FILES = {  # as published: bytes and SHA-256
    "train-images-idx3-ubyte.gz": (
        26_421_880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    "train-labels-idx1-ubyte.gz": (
        29_515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    "t10k-images-idx3-ubyte.gz": (
        4_422_102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        5_148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}
_BYTES = 8  # the type of all numbers, in the third byte of a file


def fashion_mnist(
    root: str | os.PathLike[str] | None,
    split: str,
    *,
    download: bool = False,
    size: int = 32,
    **options: Any,
) -> ImageDataset:
    """Fashion-MNIST with three equal colors, scaled from 28 to ``size`` pixels.

    Args:
        root: Folder with the four IDX files, as published or unpacked. ``None`` looks into
            ``data/fashion_mnist`` and the folder of Debian's package ``dataset-fashion-mnist``.
        split: ``train``, 60,000 images, or ``test``, 10,000.
        download: Fetch the files, 31 MB, if they are not there.
        size: Height and width, in pixels.
        **options: ``augment`` and ``seed`` of :class:`ImageDataset`.

    Raises:
        ValueError: Another split, a size below 1, or files that are missing or damaged.
        DownloadError: As in :func:`datasets.download.download`.

    References:
        Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine
        learning algorithms, arXiv:1708.07747 (2017).
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    format = ImageFormat(size, size, mean=(MEAN,) * 3, std=(STD,) * 3)
    (prefix, count), folder = SPLITS[split], find_folder(root, download=download)
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte", (count, 28, 28))
    targets = read_idx(folder / f"{prefix}-labels-idx1-ubyte", (count,))
    colored = v2.functional.resize(torch.from_numpy(images).unsqueeze(1), [size])
    names = [f"fashion_mnist/{split}/{index:05}" for index in range(count)]
    colored = colored.expand(-1, 3, -1, -1)
    return ImageDataset(colored, targets.tolist(), names, CLASSES, format=format, **options)


def find_folder(root: str | os.PathLike[str] | None, *, download: bool = False) -> Path:
    """Return the folder of the files; they are fetched into it where that is asked for.

    Raises:
        ValueError: They are nowhere.
        DownloadError: As in :func:`datasets.download.download`.
    """
    places = [FOLDER, DEBIAN] if root is None else [Path(root)]
    for place in places:
        if all((place / name).exists() or (place / name[:-3]).exists() for name in FILES):
            return place
    if not download:
        raise ValueError(
            f"{' and '.join(map(shown, places))}: no Fashion-MNIST; download it (31 MB), or "
            "install Debian's dataset-fashion-mnist"
        )
    for name, (size, digest) in FILES.items():
        download_file(f"{ADDRESS}/{name}", places[0] / name, size=size, sha256=digest)
    return places[0]


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read the bytes of an IDX file of this shape, packed (``.gz``) or not.

    Raises:
        ValueError: It is damaged, or of another kind or shape.
    """
    packed = path.with_name(f"{path.name}.gz")
    try:
        content = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{shown(packed)}: damaged ({error}); remove it") from error
    header = bytes([0, 0, _BYTES, len(shape)]) + np.array(shape, ">i4").tobytes()
    if not content.startswith(header) or len(content) != len(header) + math.prod(shape):
        raise ValueError(f"{shown(path)}: no IDX file of bytes {shape}")
    return np.frombuffer(bytearray(content), np.uint8, offset=len(header)).reshape(shape)
