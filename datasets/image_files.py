"""Image files of any kind, read as RGB, or refused with their name."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from datasets.off import shown

#: Formats of Pillow that are no pictures: it knows their names but cannot read them.
NOT_PICTURES = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
#: Formats that keep 16 bits a pixel where Pillow has a mode of 32.
SIXTEEN_BITS = {"PNG", "PPM"}
READ_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises


class ImageFileError(ValueError):
    """A file that cannot be read as an image; the message names it."""


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read a whole image as RGB, turned the way its camera says.

    Gray, palette, CMYK and 16-bit images are converted; of transparent ones the color is kept, and
    of moving ones the first picture. Numbers of 32 bits are refused: nothing in such a file says
    which of them is white.

    Raises:
        ImageFileError: Missing, cut short, damaged, no image, or one of 32 bits a channel.

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
    image = _load(path)
    if image.mode == "F" or (image.mode == "I" and image.format not in SIXTEEN_BITS):
        raise ImageFileError(
            f"{shown(path)}: has numbers of 32 bits, of which none is known to be white; save it "
            "with 8 or 16 bits a channel"
        )
    image = ImageOps.exif_transpose(image)
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


def is_image_name(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an image by the end of its name, in any format that Pillow reads.

    Example:
        >>> [is_image_name(name) for name in ("a.JPG", "a.gif", "a.jp2", "a.txt", ".a.png")]
        [True, True, True, False, False]
    """
    path = Path(path)
    format = Image.registered_extensions().get(path.suffix.lower())
    readable = format in Image.OPEN and format not in NOT_PICTURES
    return readable and not path.name.startswith(".")


def _load(path: str | os.PathLike[str]) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except READ_ERRORS as error:
        raise ImageFileError(f"{shown(path)}: cannot be read as an image: {error}") from error
