"""Compare training runs in one page to click through, which needs no other file and no network.

``python -m scripts.report runs/points/dgcnn-0 runs/points/mgic_dgcnn-0`` writes ``comparison.html``
with curves, accuracy against weights and time, confusion matrices, and the test samples, those that
most runs got wrong first. Point clouds are turned with the mouse.
"""

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.command import command_parser, told
from scripts.training.reliability.errors import TrainingError
from scripts.training.reliability.files import write_whole
from scripts.training.reports.figures import centered
from scripts.training.reports.masks import MaskSplit
from scripts.training.reports.parts import PartSplit, part_colors
from scripts.training.reports.report import best_epoch, read_metrics, read_splits
from scripts.training.reports.splits import Split

PAGE = Path(__file__).with_name("training") / "reports" / "pages"
MAX_SAMPLES = 48  # of a split
MAX_SIDE = 1 << 15  # clouds are written as int16
MAX_RUNS = 24


@told
def main(args: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = command_parser("report", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, default=Path("comparison.html"))
    options = parser.parse_args(args)
    write_whole(options.out, compare(options.runs).encode("utf-8", errors="replace"))
    runs = "1 run" if len(options.runs) == 1 else f"{len(options.runs)} runs"
    print(f"{options.out}: {runs}")


def compare(folders: Sequence[Path]) -> str:
    """Return the page of some runs.

    Raises:
        TrainingError: A folder is no run, there are too many, or two of the same name.
    """
    if len(folders) > MAX_RUNS:
        raise TrainingError(f"a page holds at most {MAX_RUNS} runs, got {len(folders)}")
    names = name_runs(folders)
    splits = {name: read_splits(folder) for name, folder in zip(names, folders, strict=True)}
    columns = name_columns(splits)
    content = {
        "runs": [
            describe_run(name, folder, splits[name], columns)
            for name, folder in zip(names, folders, strict=True)
        ],
        "splits": describe_splits(splits, columns),
        "colors": color_table(splits),
    }
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    parts = {"style": "page.css", "script": "page.js"}
    for mark, name in parts.items():
        page = page.replace(f"/*{mark}*/", (PAGE / name).read_text(encoding="utf-8"))
    return page.replace("/*data*/", text)


def name_runs(folders: Sequence[Path]) -> list[str]:
    """Name runs by their folders, with as many parents as it takes to tell them apart.

    Raises:
        TrainingError: A folder is given twice.

    Example:
        >>> name_runs([Path("a/dgcnn"), Path("b/dgcnn")])
        ['a/dgcnn', 'b/dgcnn']
    """
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        twice = sorted({str(folder) for folder in folders if paths.count(folder.resolve()) > 1})
        raise TrainingError(f"{', '.join(twice)} is given twice")
    depth, names = 0, [""] * len(paths)
    while len(set(names)) < len(names) or not all(names):
        depth += 1
        names = ["/".join(path.parts[-depth:]) for path in paths]
    return names


def name_columns(runs: Mapping[str, Sequence[Split]]) -> dict[int, str]:
    """Name the column of each result, so that none holds two different tests.

    Runs of other seeds may draw other points, and have other weights: that is what is compared.
    Where results of one name are of other data, or of other numbers of points or draws, the name of
    the data and some digits of a hash are added.

    Returns:
        By the ``id`` of a split.
    """
    kinds: dict[str, set[str]] = {}
    for split in (split for splits in runs.values() for split in splits):
        kinds.setdefault(split.base, set()).add(split.test_id())
    columns: dict[int, str] = {}
    for splits in runs.values():
        taken: set[str] = set()
        for split in splits:
            name = split.base
            if len(kinds[name]) > 1:
                name = f"{name} ({split.data} {split.test_id()})"
            name = split.name if name in taken else name  # the same test with another seed
            taken.add(name)
            columns[id(split)] = name
    return columns


def describe_run(
    name: str, folder: Path, splits: Sequence[Split], columns: Mapping[int, str]
) -> dict[str, Any]:
    """Return curves and key numbers of a run; columns are those of :func:`name_columns`.

    Raises:
        TrainingError: There is no ``metrics.csv``, or it is broken.
    """
    metrics = read_metrics(folder / "metrics.csv")
    best, _ = best_epoch(metrics)
    seconds = metrics.get("seconds", np.array([]))
    summary = splits[0].summary if splits else {}
    return {
        "name": name,
        "model": str(summary.get("model", "")),
        "options": {str(k): str(v) for k, v in dict(summary.get("options") or {}).items()},
        "weights": summary.get("parameters"),
        "epochs": len(metrics["epoch"]),
        "best": None if best is None else int(metrics["epoch"][best]),
        "seconds": float(np.nansum(seconds)) if np.isfinite(seconds).any() else None,
        "curves": {
            key: [None if np.isnan(value) else round(value, 6) for value in column.tolist()]
            for key, column in metrics.items()
            if key != "step" and np.isfinite(column).any()
        },
        "results": {columns[id(split)]: results_of(split) for split in splits},
    }


def results_of(split: Split) -> dict[str, Any]:
    """Return what a run came to on one split."""
    keys = ("miou", "accuracy", "class_accuracy", "loss", "num_samples")
    result = {key: split.summary[key] for key in keys if key in split.summary}
    result["classes"] = split.classes
    if split.predictions:
        result["confusion"] = split.confusion().tolist()
    return result


def describe_splits(
    runs: dict[str, list[Split]], columns: Mapping[int, str]
) -> dict[str, list[dict[str, Any]]]:
    """Return the samples of every split that a run has kept, wrong ones first."""
    by_name: dict[str, dict[str, Split]] = {}
    for run, splits in runs.items():
        for split in splits:
            kept = by_name.setdefault(columns[id(split)], {})
            if split.predictions:
                kept[run] = split
    return {name: choose_samples(splits) for name, splits in by_name.items()}


def color_table(runs: dict[str, list[Split]]) -> list[list[int]]:
    """Return the colors of parts, empty where no run tells parts apart."""
    for split in (split for splits in runs.values() for split in splits):
        if isinstance(split, PartSplit):
            return np.round(255 * part_colors(len(split.classes))).astype(int).tolist()
    return []


def choose_samples(splits: dict[str, Split]) -> list[dict[str, Any]]:
    """Return the samples of one split that are shown, with what every run says of them.

    The order is by the share of runs that are wrong, then by how sure they are of it.
    """
    samples: dict[str, dict[str, Any]] = {}
    for run, split in splits.items():
        for name, sample in draw_samples(split).items():
            seen = sample.pop("seen", None)
            kept = samples.setdefault(name, sample)
            if seen is not None:
                kept.setdefault("parts", {})[run] = seen
    verdicts = {run: judge(split) for run, split in splits.items()}
    for name, sample in samples.items():
        sample["name"] = name
        sample["runs"] = {run: found[name] for run, found in verdicts.items() if name in found}

    def how_wrong(sample: dict[str, Any]) -> tuple[float, float]:
        scores = [(verdict["right"], verdict["sure"]) for verdict in sample["runs"].values()]
        right, sure = np.mean(scores, axis=0)
        return right, -sure if right < 1 else sure

    return sorted(samples.values(), key=how_wrong)[:MAX_SAMPLES]


def judge(split: Split) -> dict[str, dict[str, Any]]:
    """Say of every sample how far it is right and what it was taken for.

    Returns:
        By name of the sample: ``right`` and ``sure``, from 0 to 1, and the ``guess``.
    """
    arrays = split.predictions
    if isinstance(split, MaskSplit):
        right = sure = np.nan_to_num(arrays["accuracies"], nan=1.0)
        guesses = [f"{share:.0%} right" for share in right]
    else:
        taken, sure = arrays["probabilities"].argmax(axis=1), arrays["probabilities"].max(axis=1)
        right, guesses = taken == arrays["labels"], [split.classes[label] for label in taken]
    rows = zip(sample_names(split), right, sure, guesses, strict=True)
    return {name: {"right": float(r), "sure": float(s), "guess": g} for name, r, s, g in rows}


def sample_names(split: Split) -> list[str]:
    """Return the name of every sample of a split."""
    return [str(name) for name in split.predictions["names"]]


def draw_samples(split: Split) -> dict[str, dict[str, Any]]:
    """Return the samples that a run has kept, by name: points or pixels, and their class."""
    arrays, names = split.predictions, sample_names(split)
    samples = {}
    for kind, pack in (("cloud", pack_cloud), ("image", pack_image)):
        for place, row in enumerate(arrays.get(f"{kind}_rows", [])):
            sample = pack(arrays[f"{kind}s"][place])
            if isinstance(split, PartSplit):
                sample["truth"] = encode(arrays["truths"][place].astype(np.uint8))
                sample["seen"] = encode(arrays["parts"][place].astype(np.uint8))
            else:
                sample["label"] = split.classes[arrays["labels"][row]]
            samples[names[row]] = sample
    return samples


def pack_cloud(points: NDArray) -> dict[str, Any]:
    """Write a cloud as bytes: int16, scaled so that all but a few outliers lie within 1.

    Example:
        >>> pack_cloud(np.array([[0.0, 0, 0], [0, 0, 2]]))["points"]
        'AAAAAADAAAAAAABA'
    """
    points = centered(points[np.isfinite(points).all(axis=1)])
    scaled = np.clip(np.round(points * (MAX_SIDE // 2)), 1 - MAX_SIDE, MAX_SIDE - 1)
    return {"points": encode(scaled.astype("<i2"))}


def pack_image(pixels: NDArray) -> dict[str, Any]:
    """Write an image ``(H, W, 1 or 3)`` of bytes as RGB."""
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return {"pixels": encode(pixels.astype(np.uint8)), "size": [pixels.shape[1], pixels.shape[0]]}


def encode(array: NDArray) -> str:
    """Write an array as base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


if __name__ == "__main__":
    sys.exit(main())
