"""Small folders of image files for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

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
