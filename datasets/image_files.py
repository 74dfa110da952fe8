"""Image files of any kind, read as RGB, or refused with their name."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageOps

from datasets.off import shown

READ_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises


class ImageFileError(ValueError):
    """A file that cannot be read as an image; the message names it."""


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read a whole image as RGB, turned the way its camera says.

    Gray, palette, CMYK and 16-bit images are converted; of transparent ones the color is kept.

    Raises:
        ImageFileError: Missing, cut short, damaged, or no image.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as root:
        ...     path = Path(root, "gray.png")
        ...     Image.new("L", (4, 2), 7).save(path)
        ...     image = read_image(path)
        >>> image.mode, image.size, image.getpixel((0, 0))
        ('RGB', (4, 2), (7, 7, 7))
    """
    image = ImageOps.exif_transpose(_load(path))
    if image.mode.startswith("I"):  # 16 bits: Pillow would cut at 255 where it has to scale
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a mask of bytes, ``(H, W)``: the numbers in the file, also where it has a palette.

    Raises:
        ImageFileError: As for :func:`read_image`, or not one byte a pixel.
    """
    image = _load(path)
    if image.mode not in ("L", "P"):
        raise ImageFileError(f"{shown(path)}: a mask has one byte a pixel, not mode {image.mode}")
    return np.asarray(image)


def _load(path: str | os.PathLike[str]) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except READ_ERRORS as error:
        raise ImageFileError(f"{shown(path)}: cannot be read as an image: {error}") from error
