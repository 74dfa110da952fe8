"""Files that say of every point which part it is: for other programs, and to look at."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scripts.training.reliability.errors import TrainingError
from scripts.training.reliability.files import write_whole
from scripts.training.reports import figures
from scripts.training.reports.parts import draw_colored, part_colors, part_legend

KINDS = (".ply", ".npy", ".png")
MOST_DRAWN = 20_000  # points of a picture


def label_path(folder: Path, file: str) -> Path:
    """Return where the labels of a file go, without the ending of each of :data:`KINDS`.

    Example:
        >>> label_path(Path("labels"), "scans/chair.off").as_posix()
        'labels/chair.parts'
    """
    return folder / f"{Path(file).stem}.parts"


def check_label_paths(folder: Path, files: Sequence[str]) -> None:
    """Look at where labels go before anything is computed.

    Raises:
        TrainingError: Two files have the same place.
    """
    places = [label_path(folder, file) for file in files]
    if twice := sorted({str(place) for place in places if places.count(place) > 1}):
        raise TrainingError(f"two files would have the same labels, {', '.join(twice)}")


def write_labels(
    path: Path, points: NDArray[np.float64], labels: NDArray[np.integer], parts: Sequence[str]
) -> None:
    """Write the parts of points as PLY and NPY, and a picture of them, each whole or not at all.

    The PLY has coordinates, a color for each part and its number as ``label``; comments in its head
    name the parts. The NPY has the numbers alone.

    Args:
        path: Of the files, without their endings.
        points: Coordinates, ``(N, 3)``, the third axis up.
        labels: Places in ``parts``, ``(N,)``.
        parts: Names of all parts.

    Raises:
        OSError: They cannot be written.
    """
    content = io.BytesIO()
    np.save(content, labels.astype(np.uint8))
    drawn = np.linspace(0, len(points) - 1, min(len(points), MOST_DRAWN)).round().astype(np.int64)
    picture = draw_parts(points[drawn], labels[drawn], parts)
    contents = (format_ply(points, labels, parts), content.getvalue(), picture)
    for ending, written in zip(KINDS, contents, strict=True):
        write_whole(path.with_name(f"{path.name}{ending}"), written)


def format_ply(points: NDArray, labels: NDArray, parts: Sequence[str]) -> bytes:
    """Return a binary PLY of points with a color and a label each."""
    names = [f"comment label {number} is {parts[number]}" for number in np.unique(labels)]
    columns = [*(f"double {axis}" for axis in "xyz")]
    columns += [f"uchar {name}" for name in ("red", "green", "blue", "label")]
    properties = [f"property {column}" for column in columns]
    start = ["ply", "format binary_little_endian 1.0", *names, f"element vertex {len(points)}"]
    rows = np.empty(len(points), [("xyz", "<f8", 3), ("rgb", "u1", 3), ("label", "u1")])
    rows["rgb"] = np.round(255 * part_colors(len(parts))[labels])
    rows["xyz"], rows["label"] = points, labels
    head = "\n".join([*start, *properties, "end_header", ""])
    return head.encode("ascii", "backslashreplace") + rows.tobytes()


@figures.as_png
def draw_parts(points: NDArray, labels: NDArray, parts: Sequence[str]) -> Figure:
    """Draw points in the colors of their parts, with a legend."""
    figure = Figure(figsize=(6, 5))
    draw_colored(figure.subplots(), (points, part_colors(len(parts))[labels]))
    figure.legend(handles=part_legend(parts, np.unique(labels)), loc="outside right upper")
    return figure
