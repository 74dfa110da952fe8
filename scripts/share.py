"""Put a trained network into a folder as the Hugging Face hub has it, with a card about it.

``python -m scripts.share runs/points/mgic_diffgcn-* --folder shared/mgic_diffgcn`` takes runs of
one network with several seeds. The weights are those of the best on validation; the card has the
data, the seeds, and every metric with its spread. ``HubModel.from_pretrained(folder)`` of
``mgic_geo.models.hub`` or ``mgic_vision.models.hub`` reads it. Nothing is sent anywhere:
``push_to_hub`` would.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCardData

import mgic_geo
from scripts.command import command_parser, told
from scripts.experiments.ranges import spread, summarize
from scripts.training.reliability.errors import TrainingError
from scripts.training.reliability.files import write_whole
from scripts.training.reliability.run_folder import compare_configs, read_config
from scripts.training.reports.report import best_epoch, read_metrics, read_splits
from scripts.training.reports.splits import Split
from scripts.training.weights import Weights, export_weights, read_weights

CARD = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True).from_string(
    Path(__file__).with_name("card.md").read_text(encoding="utf-8")
)
METRICS = {"miou": "mIoU", "accuracy": "accuracy", "class_accuracy": "mean over classes"}


def _metrics(split: Split) -> dict[str, float]:
    return {key: split.summary[key] for key in METRICS if key in split.summary}


@dataclass(frozen=True)
class Run:
    """What the card says of a run; the score is of its best validation, nan without one."""

    folder: Path
    config: dict[str, Any]
    weights: Weights
    splits: list[Split]
    score: float


@told
def main(args: Sequence[str] | None = None) -> None:
    """Write the folder."""
    parser = command_parser("share", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--folder", type=Path, required=True, help="what to write")
    options = parser.parse_args(args)
    runs = [read_run(folder) for folder in options.runs]
    check_alike(runs)
    best = max(runs, key=lambda run: np.nan_to_num(run.score, nan=-np.inf))
    texts = {"config.json": hub_config(best.weights), "README.md": make_card(runs, best)}
    results = {split.name: _metrics(split) for split in best.splits}
    info = {**best.weights.info, "data": best.config["data"]["name"], "results": results}
    export_weights(replace(best.weights, info=info), options.folder)
    for name, text in texts.items():
        write_whole(options.folder / name, text.encode())
    print(f"{options.folder}: {best.weights.info['name']}, weights of {best.folder}")


def read_run(folder: Path) -> Run:
    """Read a finished run.

    Raises:
        TrainingError: It is not one, or was not tested.
    """
    weights = read_weights(folder)
    splits = [split for split in read_splits(folder) if split.name == split.base]
    if not splits:
        raise TrainingError(f"{folder} has not been tested: run `test` first")
    config = read_config(folder / "config.yaml")
    metrics = read_metrics(folder / "metrics.csv")
    best, _ = best_epoch(metrics)
    score = metrics.get("val_miou", metrics.get("val_accuracy"))
    known = best is not None and score is not None
    return Run(folder, config, weights, splits, float(score[best]) if known else np.nan)


def check_alike(runs: Sequence[Run]) -> None:
    """Raise where runs differ in more than their seed.

    Raises:
        TrainingError: With the first difference.
    """
    first, *others = (
        {key: run.weights.info[key] for key in ("name", "options", "classes")}
        | {key: {**run.config[key], "seed": None} for key in ("model", "data")}
        for run in runs
    )
    for run, other in zip(runs[1:], others, strict=True):
        if changed := compare_configs(first, other):
            raise TrainingError(
                f"{run.folder} and {runs[0].folder} differ in {changed[0]}: a card is of runs "
                "that differ in their seed alone"
            )


def hub_config(weights: Weights) -> str:
    """Return the arguments of ``HubModel`` as JSON."""
    info = weights.info
    if info.get("task") == "parts":
        raise TrainingError(f"{weights.path} tells parts apart: HubModel has no such network")
    arguments = {"name": info["name"], "num_classes": len(info["classes"]), **info["options"]}
    return json.dumps(arguments, indent=2) + "\n"


def make_card(runs: Sequence[Run], best: Run) -> str:
    """Return the card: what the network is, how it was trained, and what it came to."""
    info = best.weights.info
    data = best.config["data"]["name"]
    package = "mgic_geo" if info["name"] in mgic_geo.list_models() else "mgic_vision"
    results = [
        EvalResult(
            task_type=info.get("task", "classification"),
            dataset_type=data,
            dataset_name=data,
            dataset_split=split.name,
            metric_type=key,
            metric_name=METRICS[key],
            metric_value=value,
        )
        for split in best.splits
        for key, value in _metrics(split).items()
    ]
    header = ModelCardData(
        library_name="mgic",
        license="mit",
        tags=["multigrid-in-channels"],
        model_name=info["name"],
        eval_results=results,
    )
    return CARD.render(
        header=header.to_yaml(),
        info=info,
        data=data,
        package=package,
        weights=best.splits[0].summary["parameters"],
        seeds=describe_seeds(runs, best),
        table=result_table(runs, best),
        recipe=yaml.safe_dump({k: best.config[k] for k in ("model", "data")}, sort_keys=False),
        command=best.config.get("command", ""),
    )


def describe_seeds(runs: Sequence[Run], best: Run) -> str:
    """Say which seeds there are, and whose weights were chosen why."""
    seeds = ", ".join(str(run.config["seed"]) for run in runs)
    text = f"{len(runs)} runs, seeds {seeds}: mean ± standard deviation over them, and the range."
    if len(runs) == 1:
        text = f"One run, seed {seeds}."
    epoch = f"epoch {best.weights.info.get('epoch')} of {best.config['trainer']['max_epochs']}"
    if np.isnan(best.score):
        return f"{text} The weights are those of seed {best.config['seed']} after {epoch}."
    return (
        f"{text} The weights are those of seed {best.config['seed']} after {epoch}, the best on "
        f"validation ({best.score:.4f})."
    )


def result_table(runs: Sequence[Run], best: Run) -> str:
    """Tabulate every metric of every split, with its spread over the runs."""
    lines = [
        "| split | metric | mean | range | these weights |",
        "| --- | --- | --- | --- | ---: |",
    ]
    for split in best.splits:
        for key, label in METRICS.items():
            values = [
                100 * other.summary[key]
                for run in runs
                for other in run.splits
                if other.name == split.name and key in other.summary
            ]
            if not values:
                continue
            mean = spread(summarize([{key: value} for value in values], [key]), key)
            lines.append(
                f"| {split.name} | {label}, % | {mean} | {min(values):.1f} to {max(values):.1f} | "
                f"{100 * split.summary[key]:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
