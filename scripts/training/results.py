"""What a test leaves in the run folder: metrics, predictions and some samples to look at."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.training.data import ClassificationData
from scripts.training.reliability.distributed import gather
from scripts.training.reliability.errors import TrainingError
from scripts.training.reliability.files import write_whole

MAX_PICTURES, MAX_WRONG = 24, 16


def collect_predictions(outputs: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Join what the test steps of all processes kept, in the order of the data set.

    Args:
        outputs: Of this process, batch by batch: ``indices``, ``names`` and tensors.

    Raises:
        TrainingError: A sample was evaluated twice, or not at all.
    """
    outputs = [output for part in gather(outputs) for output in part]
    indices = np.array([i for output in outputs for i in output["indices"]], np.int64)
    names = np.array([name for output in outputs for name in output["names"]], dtype=np.str_)
    order = indices.argsort(kind="stable")
    if not np.array_equal(indices[order], np.arange(len(indices))):
        raise TrainingError("the test did not evaluate every sample exactly once")
    arrays = {"indices": indices, "names": names}
    for key in outputs[0].keys() - arrays.keys():
        arrays[key] = torch.cat([output[key] for output in outputs]).numpy()
    return {key: value[order] for key, value in arrays.items()}


def show_rows(
    data: ClassificationData, indices: np.ndarray, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the samples of some rows to draw, and which rows they are."""
    kind, pictures = data.pictures(indices[rows])
    return {f"{kind}s": pictures, f"{kind}_rows": rows}


def write_results(folder: Path, summary: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write ``<split>.json`` and ``predictions.npz``, with the split in its name if not ``test``.

    Raises:
        OSError: The folder cannot be written.
    """
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    split = summary["split"]
    suffix = "" if split == "test" else f"-{split}"
    write_whole(folder / f"predictions{suffix}.npz", archive.getvalue())
    write_whole(folder / f"{split}.json", (json.dumps(summary, indent=2) + "\n").encode())


def choose_rows(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Choose samples to draw: wrong ones first, then right ones, spread over the data set."""
    wrong = probabilities.argmax(axis=1) != labels
    rows = spread(np.flatnonzero(wrong), MAX_WRONG)
    return np.concatenate([rows, spread(np.flatnonzero(~wrong), MAX_PICTURES - len(rows))])


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """Choose at most ``count`` rows, evenly spaced.

    Example:
        >>> spread(np.arange(9), 3).tolist()
        [0, 4, 8]
    """
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)]
