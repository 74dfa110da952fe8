"""A small convolutional network on digits."""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from datasets.mnist5k import mnist5k
from scripts.rivalry.task import Batch, Block, MakeUnit, Network, Task, percent_wrong
from scripts.rivalry.units import ROWS, WIDTH

SIZE, PATCH = 32, 4  # pixels: images have 8x8 places


class Around(nn.Module):
    """A depthwise 3x3 convolution of places whose channels are last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Mix a place with those around it."""
        return self.conv(x.movedim(-1, 1)).movedim(1, -1)


class Patches(nn.Module):
    """Images to places with their channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 1, 32, 32)`` to ``(B, 8, 8, width)``."""
        return self.conv(x).movedim(1, -1)


def image_network(make_unit: MakeUnit) -> nn.Module:
    """ConvNeXt's block around the unit, whose maps are 1x1 convolutions here."""
    blocks: list[nn.Module] = [Block(make_unit(), Around()) for _ in range(2)]
    return Network(Patches(), blocks, 10, pool=lambda x: x.mean((1, 2)))


@functools.cache
def digits(split: str) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, 32, 32)`` and classes of mnist5k."""
    data = mnist5k(split)
    images = torch.stack([data[row].image[:1] for row in range(len(data))])
    return images, torch.as_tensor(data.targets)


def image_batch(generator: torch.Generator) -> Batch:
    """Sixteen digits."""
    images, classes = digits("train")
    rows = torch.randint(len(images), (ROWS * PATCH**2 // SIZE**2,), generator=generator)
    return images[rows], classes[rows]


def image_test() -> list[Batch]:
    """The 1,000 test digits."""
    images, classes = digits("test")
    return list(zip(images.split(250), classes.split(250), strict=True))


TASK = Task(
    image_network,
    image_batch,
    image_test,
    loss=functional.cross_entropy,
    error=percent_wrong,
    unit="% wrong",
    digits=1,
    about="depthwise 3x3 convolutions in front of it, on mnist5k",
)
