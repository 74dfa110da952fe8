"""What digits are painted on and with: textures, clutter and ink, colors from 0 to 1."""

import numpy as np
from PIL import Image, ImageDraw

DARK, LIGHT = 0.6, (0.65, 1.0)  # brightest color of a canvas, and the range of those of ink


def noise(size: int, cell: int, generator: np.random.Generator) -> np.ndarray:
    """Make smooth noise ``(size, size)`` from 0 to 1 with features of about ``cell`` pixels.

    Example:
        >>> field = noise(64, 16, np.random.default_rng(0))
        >>> field.shape, bool(abs(np.diff(field)).max() < 0.2)
        ((64, 64), True)
    """
    grid = Image.fromarray(generator.random((size // cell + 2, size // cell + 2), np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)


def texture(size: int, generator: np.random.Generator) -> np.ndarray:
    """Mix three dark colors by noise of two scales, at times by stripes: ``(size, size, 3)``."""
    canvas = np.broadcast_to(generator.uniform(0, DARK, 3), (size, size, 3)).copy()
    for cell in generator.choice([4, 8, 16, 32, 64], size=2, replace=False):
        share = noise(size, int(cell), generator)
        if generator.random() < 0.3:
            share = _stripes(size, generator) * share
        canvas += 0.6 * share[..., None] * (generator.uniform(0, DARK, 3) - canvas)
    return canvas


def clutter(canvas: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw strokes and blobs that are no digits, none lighter than the canvas may be."""
    size = len(canvas)
    image = Image.fromarray((canvas.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(generator.integers(3, 7)):
        color = tuple(generator.integers(0, round(256 * DARK), 3).tolist())
        width = int(generator.integers(2, max(size // 20, 3)))
        x, y = generator.uniform(-0.1 * size, size, 2)
        extent = generator.uniform(0.08, 0.45, 2) * size
        box = [x, y, x + extent[0], y + extent[1]]
        kind = generator.choice(["line", "arc", "blob", "bars"])
        if kind == "line":
            draw.line(box, color, width)
        elif kind == "arc":  # no more than half an ellipse, or it would be a zero
            start = generator.uniform(0, 360)
            draw.arc(box, start, start + generator.uniform(60, 180), color, width)
        elif kind == "blob":
            draw.ellipse([x, y, x + extent[0], y + extent[0]], color)
        else:
            for step in range(0, int(extent[0]), 3 * width):
                draw.line([x + step, y, x + step, y + extent[1]], color, width)
    return np.asarray(image) / 255


def ink(size: int, generator: np.random.Generator) -> np.ndarray:
    """Make a light, grainy color ``(size, size, 3)``."""
    color = generator.uniform(*LIGHT, 3)
    grain = noise(size, 8, generator) - 0.5
    return (color + 0.2 * grain[..., None]).clip(0, 1)


def _stripes(size: int, generator: np.random.Generator) -> np.ndarray:
    angle, period = generator.uniform(0, np.pi), generator.uniform(6, 24)
    y, x = np.mgrid[:size, :size]
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    return (wave > 0).astype(np.float64)
