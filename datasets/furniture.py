"""Furniture of ten classes in one shared range of sizes.

All classes share one distribution of bounding boxes and directions, so neither size nor proportions
give a class away; what does is how surfaces meet: legs or a closed base, one sheet or a shell, gaps
between drawers or cushions. Lengths are in meters, z is up.
"""

from dataclasses import dataclass

import numpy as np

from datasets.pieces import MAKERS, Parts
from datasets.solids import subdivide

EXTENT = (0.7, 1.4)  # meters, of each axis of the bounding box
EXTENT_HARD = (0.4, 2.4)  # never inside EXTENT on all axes
EDGE = (0.15, 0.6)  # longest edge of the mesh, in units of the bounding box's sides


@dataclass(frozen=True)
class Shape:
    """A mesh whose faces know which part of the furniture they are.

    Attributes:
        vertices: float64 ``(V, 3)``, meters, z up, standing on z = 0 unless damaged.
        faces: int64 ``(F, 3)``.
        part_of_face: int64 ``(F,)``, indices into ``part_names``.
        part_names: Names of the kinds of parts, in order of appearance; four legs are one kind.
    """

    vertices: np.ndarray
    faces: np.ndarray
    part_of_face: np.ndarray
    part_names: tuple[str, ...]


def make_shape(name: str, generator: np.random.Generator, *, unseen: bool = False) -> Shape:
    """Make one piece of furniture, ``unseen`` ones with proportions that others never have.

    Raises:
        ValueError: A class that does not exist.

    Example:
        >>> shape = make_shape("chair", np.random.default_rng(0))
        >>> shape.part_names[:2], len(shape.part_of_face) == len(shape.faces)
        (('seat', 'leg'), True)
    """
    if name not in MAKERS:
        raise ValueError(f"class must be one of {', '.join(MAKERS)}, got {name!r}")
    shape = _join(MAKERS[name](generator), generator.uniform(*EDGE))
    low, high = shape.vertices.min(axis=0), shape.vertices.max(axis=0)
    extent = draw_extent(generator, unseen=unseen)
    vertices = (shape.vertices - [*(low + high)[:2] / 2, low[2]]) / (high - low) * extent
    angle = generator.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    vertices = vertices @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    return Shape(vertices, shape.faces, shape.part_of_face, shape.part_names)


def draw_extent(generator: np.random.Generator, *, unseen: bool = False) -> np.ndarray:
    """Draw the sides of a bounding box, log-uniform, whatever will be put into it.

    Of an ``unseen`` one, at least one side is outside the range of the others.

    Shape:
        - Returns ``(3,)``, in meters.

    Example:
        >>> sides = draw_extent(np.random.default_rng(0))
        >>> bool((sides >= EXTENT[0]).all() and (sides <= EXTENT[1]).all())
        True
    """
    if not unseen:
        return np.exp(generator.uniform(*np.log(EXTENT), size=3))
    extent = np.exp(generator.uniform(*np.log(EXTENT_HARD), size=3))
    odd = (EXTENT_HARD[0], EXTENT[0]) if generator.random() < 0.5 else (EXTENT[1], EXTENT_HARD[1])
    extent[generator.integers(3)] = generator.uniform(*odd)
    return extent


def _join(parts: Parts, longest: float) -> Shape:
    """Put parts into one mesh of edges no longer than ``longest`` (before it is scaled)."""
    names = tuple(dict.fromkeys(name for name, _ in parts))
    solids = [solid for _, solid in parts]
    first = np.cumsum([0] + [len(vertices) for vertices, _ in solids])
    labels = np.repeat([names.index(n) for n, _ in parts], [len(faces) for _, faces in solids])
    vertices, faces, parents = subdivide(
        np.concatenate([vertices for vertices, _ in solids]),
        np.concatenate([faces + i for i, (_, faces) in zip(first[:-1], solids, strict=True)]),
        longest,
    )
    return Shape(vertices, faces, labels[parents], names)
