"""Any images in ``<split>/<class>/`` folders, and ImageNet in that layout."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torchvision import datasets as torchvision_datasets
from torchvision.models import ResNet50_Weights

from datasets.image_dataset import ImageDataset, ImageFiles, ImageFormat
from datasets.image_files import is_image_name
from datasets.off import shown

_log = logging.getLogger(__name__)

# as everybody does: 256 pixels scaled for 224 that are cut out
RESIZE_SHARE = 256 / 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000


def image_folder(
    root: str | os.PathLike[str], split: str, *, size: int = 224, **options: Any
) -> ImageDataset:
    """Images in ``root/<split>/<class>/``, found by torchvision and read when they are needed.

    All files whose names end as images do are taken, in folders of a class, too; what is hidden is
    not, nor hidden folders. A warning counts the other files.

    Args:
        root: Folder of the splits, all of which must have the same classes as ``train``.
        split: Name of a folder in it.
        size: Height and width the network sees; the shorter side is scaled to 8/7 of it before.
        **options: ``augment`` and ``seed`` of :class:`ImageDataset`.

    Raises:
        ValueError: No such folder, other classes than in ``train``, or a class without an image.
    """
    root = Path(root)
    check_classes(root, split)
    try:
        read = _VisibleFolder(root / split)
    except FileNotFoundError as error:  # it names the empty classes
        raise ValueError(f"{shown(root / split)}: {error}") from error
    paths, targets = zip(*read.samples, strict=True)
    return ImageDataset(
        ImageFiles(paths),
        targets,
        [os.path.relpath(path, root) for path in paths],
        read.classes,
        format=ImageFormat(size, round(RESIZE_SHARE * size), mean=IMAGENET_MEAN, std=IMAGENET_STD),
        **options,
    )


class _VisibleFolder(torchvision_datasets.ImageFolder):
    """Classes and images that are not hidden."""

    def __init__(self, root: Path) -> None:
        self.others = Counter[str]()
        super().__init__(os.fspath(root), is_valid_file=partial(self._is_image, root))
        if self.others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.others.most_common())
            _log.warning("%s: files that are no images by their names: %s", shown(root), kinds)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = class_folders(Path(directory))
        return names, {name: number for number, name in enumerate(names)}

    def _is_image(self, root: Path, name: str) -> bool:
        path = Path(name)
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            return False
        is_image = is_image_name(path)
        if not is_image:
            self.others[path.suffix or "without suffix"] += 1
        return is_image


def imagenet(root: str | os.PathLike[str], split: str, **options: Any) -> ImageDataset:
    """ImageNet's 1,000 classes in ``root/{train,val}/<id>/``, such as ``n01440764`` for tench.

    That is what torchvision unpacks the archives to, and what most copies look like; the archives
    themselves are not needed. As ``image_folder``, with names for the classes.

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
    dataset = image_folder(root, split, **options)
    names = ResNet50_Weights.DEFAULT.meta["categories"]  # in the order of the ids; two are "crane"
    dataset.classes = [f"{id} {name}" for id, name in zip(ids, names, strict=True)]
    return dataset


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

    Hidden ones, such as ``.ipynb_checkpoints``, are no classes.

    Raises:
        ValueError: There is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{shown(folder)}: no such folder")
    names = (entry.name for entry in os.scandir(folder) if entry.is_dir())
    return sorted(name for name in names if not name.startswith("."))


def _few(names: Sequence[str], count: int = 20) -> str:
    shown_names = ", ".join(names[:count]) or "none"
    return f"{shown_names} and {len(names) - count} more" if len(names) > count else shown_names
