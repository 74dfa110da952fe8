"""Point clouds from files: coordinates, and normals and colors where there are any."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from datasets.pcd import parse_pcd

SUFFIXES = (".xyz", ".pts", ".txt", ".pcd", ".npy", ".las", ".laz")
FEATURES = ("normal", "color")  # of a point beside its coordinates, three numbers each

# how files call the columns of coordinates, normals and colors
_COLUMNS = (
    (("x", "y", "z"),),
    (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z")),
    (("red", "green", "blue"), ("r", "g", "b")),
)


def parse_features(text: str) -> tuple[str, ...]:
    """Read the names of features, in the order of :data:`FEATURES` and without coordinates.

    Raises:
        ValueError: Another name, or no ``xyz`` among them.

    Example:
        >>> parse_features("xyz,normal")
        ('normal',)
    """
    names = {name.strip() for name in text.split(",")}
    if "xyz" not in names or names - {"xyz", *FEATURES}:
        raise ValueError(f"features must be xyz, also with {' and '.join(FEATURES)}, got {text!r}")
    return tuple(name for name in FEATURES if name in names)


def spell_features(features: Sequence[str]) -> str:
    """Return what :func:`parse_features` reads."""
    return ",".join(("xyz", *features))


class Cloud(NamedTuple):
    """Points and what is known of them.

    Args:
        points: Coordinates, ``(N, 3)``, in the unit of the file.
        normal: Normals, ``(N, 3)``.
        color: Red, green and blue from 0 to 1, ``(N, 3)``.
    """

    points: np.ndarray
    normal: np.ndarray | None = None
    color: np.ndarray | None = None

    def rows(self, features: Sequence[str]) -> np.ndarray:
        """Put features beside coordinates, ``(N, 3 + 3 F)``.

        Raises:
            ValueError: One of them is not there.
        """
        there = [name for name in FEATURES if getattr(self, name) is not None]
        if missing := [name for name in features if name not in there]:
            raise ValueError(
                f"it holds no {' and no '.join(missing)}, but {spell_features(there)}; the "
                f"features {spell_features(features)} are wanted"
            )
        columns = [self.points, *(getattr(self, name) for name in features)]
        return np.concatenate(columns, axis=1).astype(np.float64)


def parse_cloud(data: bytes, suffix: str) -> Cloud:
    r"""Read a point cloud from the bytes of a file.

    Columns of a text whose first line names them are taken by name, as are the fields of PCD and
    LAS. Elsewhere the columns after the coordinates are told by what is in them: three that have
    length 1 are normals, the last three are colors where all are from 0 to 255.

    Args:
        data: The bytes.
        suffix: One of :data:`SUFFIXES`.

    Raises:
        ValueError: It is no such file.
        ImportError: LAS, and laspy is missing.

    Example:
        >>> parse_cloud(b"0 0 1 255 0 0\n0 2 0 0 51 0\n", ".xyz").color.tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.2, 0.0]]
    """
    if suffix == ".pcd":
        return from_columns(parse_pcd(data))
    if suffix == ".npy":
        table = np.load(io.BytesIO(data), allow_pickle=False)
        if table.ndim != 2 or table.shape[1] < 3 or table.dtype.kind not in "fiu":
            raise ValueError(f"expected numbers of the shape (N, 3 or more), got {table.shape}")
        return _from_places(table)
    if suffix in (".las", ".laz"):
        import laspy  # an extra package

        file = laspy.read(io.BytesIO(data))
        names = {*file.point_format.dimension_names} & {"red", "green", "blue"}
        columns = {name: np.array(file[name]) for name in names}
        return from_columns(columns)._replace(points=np.array(file.xyz, np.float64))
    return _parse_table(data)


def from_columns(columns: Mapping[str, np.ndarray]) -> Cloud:
    """Find coordinates, normals and colors among columns by their names.

    Shape:
        - ``columns``: ``(N,)`` each.

    Example:
        >>> xyz = {name: np.zeros(2) for name in "xyz"}
        >>> from_columns(xyz | {"r": np.array([0, 255]), "g": np.ones(2), "b": np.ones(2)}).color
        array([[0.        , 0.00392157, 0.00392157],
               [1.        , 0.00392157, 0.00392157]])
    """
    columns = {name.lower(): values for name, values in columns.items()}
    found = []
    for spellings in _COLUMNS:
        names = next((names for names in spellings if columns.keys() >= {*names}), None)
        found.append(names and np.stack([columns[name] for name in names], axis=1))
    points, normal, color = found
    points = np.empty((0, 3)) if points is None else points.astype(np.float64)
    return Cloud(points, normal, None if color is None else _shares(color))


def _from_places(table: np.ndarray) -> Cloud:
    """Tell normals and colors by their numbers, ``(N, 3 or more)``."""
    normal, color = None, None
    if table.shape[1] >= 6 and len(table):
        lengths = np.linalg.norm(table[:, 3:6].astype(np.float64), axis=1)
        if np.abs(lengths - 1).max() < 0.01:
            normal = table[:, 3:6]
        last = table[:, -3:]
        if table.shape[1] >= (6 if normal is None else 9) and last.min() >= 0 and last.max() <= 255:
            color = _shares(last)
    return Cloud(table[:, :3].astype(np.float64), normal, color)


def _shares(color: np.ndarray) -> np.ndarray:
    """Bring colors of 8 or 16 bits to numbers from 0 to 1, which fractions are already."""
    most = color.max(initial=0)
    eight = most > 1 or color.dtype.kind in "iu"
    return color / (65535 if most > 255 else 255 if eight else 1)


def _parse_table(data: bytes) -> Cloud:
    """Read a text of numbers, three or more a line; a line with names or a count may come first."""
    text = re.sub(rb"[,;]", b" ", data.removeprefix(b"\xef\xbb\xbf"))
    lines = text.splitlines()
    rows = [words for line in lines if (words := line.split(b"#")[0].split())]
    names: list[str] = []
    if rows and (len(rows[0]) < 3 or rows[0][0][:1].isalpha()):
        names = [word.decode("ascii", "replace") for word in rows[0]]
        rows = rows[1:]
    if any(len(words) < 3 for words in rows):
        raise ValueError("a line has fewer than three numbers")
    width = min(map(len, rows), default=3)
    try:
        table = _numbers(rows, width)
    except ValueError:  # names of classes, say
        table = _numbers(rows, 3)
    if len(names) == table.shape[1] and {"x", "y", "z"} <= {name.lower() for name in names}:
        return from_columns(dict(zip(names, table.T, strict=True)))
    return _from_places(table)


def _numbers(rows: list[list[bytes]], width: int) -> np.ndarray:
    """Read the first words of every line."""
    return np.array([[float(word) for word in words[:width]] for words in rows]).reshape(-1, width)
