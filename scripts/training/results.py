"""What a test leaves in the run folder: metrics, predictions and some samples to look at."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.training.classifier import Classifier
from scripts.training.data import ClassificationData
from scripts.training.distributed import gather
from scripts.training.errors import TrainingError
from scripts.training.files import write_whole
from scripts.training.weights import Weights

MAX_PICTURES, MAX_WRONG = 24, 16


def collect_predictions(model: Classifier) -> dict[str, np.ndarray]:
    """Join what the test steps of all processes kept, in the order of the data set.

    Raises:
        TrainingError: A sample was evaluated twice, or not at all.
    """
    outputs = [output for part in gather(model.test_outputs) for output in part]
    indices = np.array([i for output in outputs for i in output["indices"]], np.int64)
    names = np.array([name for output in outputs for name in output["names"]], dtype=np.str_)
    order = indices.argsort(kind="stable")
    if not np.array_equal(indices[order], np.arange(len(indices))):
        raise TrainingError("the test did not evaluate every sample exactly once")
    arrays = {
        "probabilities": torch.cat([output["probabilities"] for output in outputs]).numpy(),
        "labels": torch.cat([output["labels"] for output in outputs]).numpy(),
        "indices": indices,
        "names": names,
    }
    return {key: value[order] for key, value in arrays.items()}


def summarize(split: str, model: Classifier, weights: Weights) -> dict[str, Any]:
    """Return what is to be said about the test that has just run."""
    return {
        "split": split,
        **model.test_metrics,
        "classes": model.classes,
        "model": model.name,
        "options": model.options,
        "parameters": sum(weight.numel() for weight in model.network.parameters()),
        "epoch": weights.info.get("epoch"),
        "step": weights.info.get("step"),
        "checkpoint": weights.path.name,
    }


def write_results(
    folder: Path,
    summary: dict[str, Any],
    predictions: dict[str, np.ndarray],
    data: ClassificationData,
) -> None:
    """Write ``<split>.json`` and ``predictions.npz``, with the split in its name if not ``test``.

    Raises:
        OSError: The folder cannot be written.
    """
    rows = choose_rows(predictions["probabilities"], predictions["labels"])
    kind, pictures = data.pictures(predictions["indices"][rows])
    archive = io.BytesIO()
    np.savez_compressed(archive, **predictions, **{f"{kind}s": pictures, f"{kind}_rows": rows})
    split = summary["split"]
    suffix = "" if split == "test" else f"-{split}"
    write_whole(folder / f"predictions{suffix}.npz", archive.getvalue())
    write_whole(folder / f"{split}.json", (json.dumps(summary, indent=2) + "\n").encode())


def choose_rows(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Choose samples to draw: wrong ones first, then right ones, spread over the data set."""
    wrong = probabilities.argmax(axis=1) != labels
    rows = _spread(np.flatnonzero(wrong), MAX_WRONG)
    return np.concatenate([rows, _spread(np.flatnonzero(~wrong), MAX_PICTURES - len(rows))])


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)]
