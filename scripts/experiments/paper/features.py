"""First-layer features of real images, for Table 1: ResNet-50's where there are weights and images.

Offline there are two sources, both real images of packages that are installed here: three
photographs, and 5,000 digits. Each comes with 64 filters of 7x7 that were learned on it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from datasets.image_folder import IMAGENET_MEAN, IMAGENET_STD
from datasets.mnist5k import load_digits
from scripts.experiments.trial import Course, percent_right, train_epoch
from scripts.training.optimizer import OptimizerSettings

CHANNELS, KERNEL = 64, 7
NUM_IMAGES = 1024  # the paper's
IMAGE_FILES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Features:
    """Feature maps of some images, as far as a linear code needs to know them.

    Args:
        source: What they are of, in words.
        moment: ``(64, 64)`` mean over all pixels of the products of two channels, in float64.
        image: One input, ``(C, H, W)``, for the pictures.
        maps: Its features, ``(64, h, w)``.
    """

    source: str
    moment: Tensor
    image: Tensor
    maps: Tensor


def resnet50_features(weights: str, folder: Path) -> Features:
    """Features of ResNet-50's first convolution, as in the paper.

    Args:
        weights: File of a state dict, or torchvision's name of weights, which it downloads.
        folder: Images, at any depth; the first 1,024 by name are taken.

    Raises:
        ValueError: There are no images, or the weights are not ResNet-50's.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_FILES)
    if not files:
        raise ValueError(f"no images ({', '.join(IMAGE_FILES)}) in {folder}")
    files = files[:NUM_IMAGES]
    conv = _resnet50_conv(weights)
    prepare = v2.Compose(
        [
            v2.Resize(256, antialias=True),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    images = (prepare(decode_image(str(file), ImageReadMode.RGB))[None] for file in files)
    source = f"ResNet-50's first convolution ({Path(weights).name})"
    return _collect(f"{source}, {len(files)} images of {folder.name}", images, conv)


def _resnet50_conv(weights: str) -> nn.Module:
    if not Path(weights).exists():
        return models.resnet50(weights=models.get_weight(f"ResNet50_Weights.{weights}")).conv1
    state = torch.load(weights, map_location="cpu", weights_only=True)
    if "conv1.weight" not in state or tuple(state["conv1.weight"].shape) != (64, 3, 7, 7):
        raise ValueError(f"{weights} has no conv1.weight of (64, 3, 7, 7): not a ResNet-50's")
    return _convolution(state["conv1.weight"])


def photographs(seed: int) -> Features:
    """Three photographs, and as filters 64 means of their patches (spherical k-means)."""
    from matplotlib import cbook
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.datasets import load_sample_images

    pictures = [np.asarray(image) for image in load_sample_images().images]
    hopper = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    pictures.append(decode_image(str(hopper), ImageReadMode.RGB).permute(1, 2, 0).numpy())
    images = [torch.tensor(p).permute(2, 0, 1).float() / 255 - 0.5 for p in pictures]
    generator = torch.Generator().manual_seed(seed)
    patches = torch.cat([_patches(image, 4000, generator) for image in images])
    patches -= patches.mean(1, keepdim=True)  # or brightness drowns all else
    patches = patches[patches.norm(dim=1) > 0.5]  # an empty sky has nothing to learn from
    means = MiniBatchKMeans(CHANNELS, random_state=seed).fit(functional.normalize(patches).numpy())
    filters = functional.normalize(torch.tensor(means.cluster_centers_, dtype=torch.float32))
    return _collect(
        f"{len(images)} photographs of 2 packages, filters by k-means of their patches",
        (image[None] for image in images),
        _convolution(filters.view(CHANNELS, 3, KERNEL, KERNEL)),
    )


def _patches(image: Tensor, count: int, generator: torch.Generator) -> Tensor:
    columns = functional.unfold(image[None], KERNEL, stride=2)[0].T
    return columns[torch.randint(len(columns), (count,), generator=generator)]


def digits(seed: int, steps: int = 60) -> Features:
    """5,000 digits, and as filters the first layer of a small network trained to read them."""
    pixels, targets = load_digits()
    images = pixels.float() / 255 - 0.13
    labels = torch.tensor(targets)
    torch.manual_seed(seed)
    conv = nn.Conv2d(1, CHANNELS, KERNEL, stride=2, padding=3, bias=False)
    rest = nn.Sequential(
        nn.BatchNorm2d(CHANNELS), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3136, 10)
    )
    network = nn.Sequential(conv, rest)
    settings = OptimizerSettings(lr=3e-3, weight_decay=0.01, schedule="constant", warmup_epochs=0)
    loss = functional.cross_entropy
    course = Course(steps, 1, settings, loss, test=list, score=percent_right)
    rows = (torch.randint(len(images), (100,)) for _ in range(steps))
    batches = ((images[some], labels[some]) for some in rows)
    train_epoch(network, settings.make_optimizer(network), course, batches)
    return _collect(
        f"5,000 digits of mnist5k, filters of a network after {steps} steps on them",
        images.split(500),
        conv,
    )


def _convolution(weight: Tensor) -> nn.Module:
    conv = nn.Conv2d(weight.size(1), CHANNELS, KERNEL, stride=2, padding=3, bias=False)
    conv.weight.data.copy_(weight)
    return conv


@torch.no_grad()
def _collect(source: str, batches: Iterable[Tensor], conv: nn.Module) -> Features:
    """Run over all batches ``(B, C, H, W)``; only their moments are kept."""
    moment, pixels, first = torch.zeros(CHANNELS, CHANNELS, dtype=torch.float64), 0, None
    for images in batches:
        maps = conv(images)
        first = (images[0], maps[0]) if first is None else first
        columns = maps.transpose(0, 1).flatten(1).double()
        moment += columns @ columns.T
        pixels += columns.size(1)
    assert first is not None
    return Features(source, moment / pixels, *first)
