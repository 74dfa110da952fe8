"""What `predict` says of files: a table to read, or CSV and JSON for other programs."""

import csv
import io
import json
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

FORMATS = ("table", "csv", "json")


class Prediction(NamedTuple):
    """What a network says of some samples.

    Args:
        probabilities: ``(B, num_classes)``.
        spread: Their standard deviation from draw to draw, where there are several.
        labels: Class of every point or pixel, ``(B, ...)``, where those have one.
    """

    probabilities: Tensor
    spread: Tensor | None = None
    labels: Tensor | None = None


def format_predictions(
    kind: str, files: Sequence[str], predictions: Sequence[Prediction], classes: Sequence[str]
) -> str:
    """Write the predictions of all batches, file by file, in one of :data:`FORMATS`."""
    rows = [row.tolist() for batch in predictions for row in batch.probabilities]
    spreads = [
        [None] * len(classes) if batch.spread is None else batch.spread[place].tolist()
        for batch in predictions
        for place in range(len(batch.probabilities))
    ]
    if kind == "table":
        return "\n".join(prediction_table(files, rows, spreads, classes))
    best = [max(range(len(row)), key=row.__getitem__) for row in rows]
    table = [
        {
            "file": file,
            "class": classes[place],
            "probability": row[place],
            "spread": spread[place],
            "probabilities": dict(zip(classes, row, strict=True)),
        }
        for file, place, row, spread in zip(files, best, rows, spreads, strict=True)
    ]
    if kind == "json":
        return json.dumps(table, indent=1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "class", "probability", "spread", *classes])
    for entry, row in zip(table, rows, strict=True):
        spread = "" if entry["spread"] is None else f"{entry['spread']:.6f}"
        numbers = [f"{value:.6f}" for value in row]
        cells = [entry["file"], entry["class"], f"{entry['probability']:.6f}", spread, *numbers]
        writer.writerow(cells)
    return text.getvalue().rstrip("\n")


def prediction_table(
    files: Sequence[str],
    rows: Sequence[Sequence[float]],
    spreads: Sequence[Sequence[float | None]],
    classes: Sequence[str],
) -> list[str]:
    """Align the three most probable classes of each file.

    Example:
        >>> prediction_table(["a.off"], [[0.2, 0.8]], [[0.05, 0.05]], ["bed", "sofa"])
        ['a.off  sofa  80.0% ± 5.0  bed   20.0% ± 5.0']
    """
    width, longest = max(map(len, files)), max(map(len, classes))
    lines = []
    for file, row, spread in zip(files, rows, spreads, strict=True):
        order = sorted(range(len(row)), key=lambda place: -row[place])[:3]
        cells = [
            f"{classes[place]:<{longest}} {row[place]:6.1%}"
            + ("" if spread[place] is None else f" ±{100 * spread[place]:4.1f}")
            for place in order
        ]
        lines.append("  ".join([f"{file:<{width}}", *cells]))
    return lines
