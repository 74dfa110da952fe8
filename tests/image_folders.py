"""Small folders of image files for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

ROAD, SKY, CAR, PLATE = 7, 23, 26, 255  # numbers in the files; the last is -1 as a byte
CLASSES = ("blue", "green", "red")


def write_images(root: Path, split: str, count: int, size: int = 12) -> Path:
    """Write ``count`` noisy images of each class, which is the color that is brightest."""
    for place, name in enumerate(reversed(CLASSES)):
        generator = np.random.default_rng([place, len(split)])
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = generator.integers(0, 150, (size, size + number % 3, 3), dtype=np.uint8)
            pixels[..., place] += 80
            Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return root


def write_scene(root: Path, split: str, city: str, number: int, labels: np.ndarray) -> Path:
    """Write an image and its mask under the names that Cityscapes gives; return the mask's path."""
    stem = f"{city}_{number:06}_000019"
    image = root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
    mask = root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png"
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*labels.shape, 3), number, np.uint8)
    Image.fromarray(pixels).save(image)
    Image.fromarray(labels.astype(np.uint8)).save(mask)
    return mask
