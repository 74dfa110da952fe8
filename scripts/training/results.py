"""What a test leaves in the run folder: metrics, predictions and some samples to look at."""

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.training.data import ClassificationData
from scripts.training.reliability.distributed import gather
from scripts.training.reliability.errors import TrainingError
from scripts.training.reliability.files import read_json, write_json, write_whole
from scripts.training.weights import Weights

MAX_PICTURES = 24
PLACES = {"root", "data"}  # of a test; what was there is told by the hashes


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
    """Write ``<name>.json`` and ``predictions.npz``, with the name in its own if not ``test``.

    Raises:
        OSError: The folder cannot be written.
    """
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    name = summary["name"]
    suffix = "" if name == "test" else f"-{name}"
    write_whole(folder / f"predictions{suffix}.npz", archive.getvalue())
    write_json(folder / f"{name}.json", summary)


def describe_test(
    split: str, data: ClassificationData, weights: Weights, names: np.ndarray
) -> dict[str, Any]:
    """Return what tells a test from another one: data, points, files and weights."""
    return {
        "split": split,
        **data.about_test(),
        "files": hashlib.sha256("\n".join(names.tolist()).encode(errors="replace")).hexdigest(),
        "weights": weights.digest,
    }


def free_name(folder: Path, summary: dict[str, Any]) -> str:
    """Name the result of a test beside others: of the split alone, unless that is another test's.

    Raises:
        TrainingError: A result in the folder cannot be read.
    """
    split, tested = summary["split"], summary["tested"]
    path = folder / f"{split}.json"
    try:
        if not path.exists() or same_test(read_json(path).get("tested"), tested):
            return split
    except (OSError, ValueError, AttributeError) as error:
        raise TrainingError(f"cannot read {path}: {error}") from error
    places = {key: value for key, value in tested.items() if key not in PLACES}
    digest = hashlib.sha256(json.dumps(places, sort_keys=True).encode()).hexdigest()
    return f"{split}-{tested.get('data', 'other')}-{digest[:8]}"


def same_test(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    """Whether two results are of the same test, wherever its files were.

    Example:
        >>> same_test({"root": "a", "seed": 0}, {"root": "b", "seed": 0})
        True
    """
    if one is None or other is None:
        return one is other
    return all(one.get(key) == other.get(key) for key in {*one, *other} - PLACES)


def choose_rows(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Choose samples to draw, wrong ones first, at least a quarter of them right if possible.

    Within wrong and right, every class has a turn before any has a second one, the most confident
    first: these are the mistakes worth a look.
    """
    wrong = probabilities.argmax(axis=1) != labels
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    turn = np.zeros(len(labels), dtype=int)
    seen: Counter[tuple[int, bool]] = Counter()
    for row in order:
        turn[row] = seen[labels[row], wrong[row]]
        seen[labels[row], wrong[row]] += 1
    order = order[np.argsort(turn[order], kind="stable")]
    bad, good = order[wrong[order]], order[~wrong[order]]
    num_good = min(len(good), max(MAX_PICTURES // 4, MAX_PICTURES - len(bad)))
    return np.concatenate([bad[: MAX_PICTURES - num_good], good[:num_good]])


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """Choose at most ``count`` rows, evenly spaced.

    Example:
        >>> spread(np.arange(9), 3).tolist()
        [0, 4, 8]
    """
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)]
