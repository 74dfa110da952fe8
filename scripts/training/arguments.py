"""The options of the stages beside those of Trainer, classifier and data."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, callbacks
from lightning.pytorch.cli import LightningArgumentParser

from scripts.training.data import ClassificationData
from scripts.training.parser import SHORT
from scripts.training.predictions import FORMATS
from scripts.training.reliability.errors import TrainingError
from scripts.training.reliability.run_folder import CONFIG
from scripts.training.start import read_settings
from scripts.training.weights import run_folder_of

CONTROL = ("config", "run_dir", "resume", "overwrite", "force_config", "checkpoint", "files")
FIT_OPTIONS = {
    "checkpoint_every": (100, "batches between two checkpoints within an epoch, 0 for none"),
    "test_after_fit": (True, "test the best epoch at the end"),
    "report": (True, "draw the report"),
    "auto_batch": (False, "without memory, go on with smaller batches whose gradients add up"),
    "rank_timeout": (1800.0, "seconds to wait for another process before it counts as lost"),
}
FLAGS = {
    "resume": "continue the run in the folder, or start it",
    "overwrite": "replace the run in the folder",
    "force_config": "continue with another configuration",
}
ON_NONFINITE = {
    "stop": "end with an error that names step, learning rate and samples",
    "rollback": "go back to the last checkpoint and leave the batch out",
}

ONLY = {
    "max_steps": (-1,),
    "max_time": (None,),
    "val_check_interval": (None, 1.0),
    "overfit_batches": (0.0,),
    "reload_dataloaders_every_n_epochs": (0,),
    "enable_checkpointing": (None, True),
    "default_root_dir": (None,),
    "barebones": (False,),
}

# what changes a setting after the optimizer, its schedule and config.yaml were made from it
REFUSED = {
    callbacks.LearningRateFinder: "--model.optimizer.lr sets the rate",
    callbacks.BatchSizeFinder: "--data.batch_size sets the size, --auto_batch true halves it",
    callbacks.GradientAccumulationScheduler: "--trainer.accumulate_grad_batches sets one number",
    callbacks.StochasticWeightAveraging: "--model.ema_decay averages weights, where there is one",
    callbacks.BaseFinetuning: "the optimizer has all weights from the start",
    callbacks.ModelPruning: "the network is what --model.options say",
    callbacks.Timer: "--trainer.max_epochs sets the length; SIGTERM stops a run that can go on",
}


def add_options(parser: LightningArgumentParser, stage: str) -> None:
    """Add the options of a stage.

    All stages know those that ``config.yaml`` holds, so that one such file fits all of them.
    """
    parser.add_argument("--run_dir", type=str, help="folder of the run, runs/... by default")
    parser.add_argument("--threads", type=int, help="threads of torch; all cores by default")
    parser.add_argument("--command", type=str, help=argparse.SUPPRESS)
    for name, (default, help) in FIT_OPTIONS.items():
        help = help if stage == "fit" else argparse.SUPPRESS
        _add(parser, name, type=type(default), default=default, help=help)
    choices = "; ".join(f"{key}: {what}" for key, what in ON_NONFINITE.items())
    help = f"what to do about a loss that is not finite. {choices}"
    _add(parser, "on_nonfinite", choices=list(ON_NONFINITE), default="stop", help=help)
    if stage == "fit":
        for name, help in FLAGS.items():
            _add(parser, name, action="store_true", help=help)
    else:
        help = "run folder, .ckpt or .safetensors; by default the best epoch in --run_dir"
        parser.add_argument("--checkpoint", type=str, help=help)
    if stage == "predict":
        parser.add_argument("--format", choices=FORMATS, default="table", help="of what is printed")
        help = "folder for the part of every point, as PLY, NPY and a picture; scripts.train_parts"
        parser.add_argument("--labels", type=str, help=help)
        parser.add_argument("files", nargs="+", type=str, help="what to classify")


def with_saved_config(
    args: Sequence[str], data_class: type[ClassificationData] = ClassificationData
) -> list[str]:
    """Put the configuration of the run before the arguments, where the stage works on a run.

    That is so in validation, test and prediction, and when a run is continued without ``--config``.
    Where other data than those of the run are named, nothing of where its own are is taken.

    Raises:
        TrainingError: Only a root is named, and the data set of the run is none that is read.
    """
    stage, rest = args[:1], _spelled_out(args[1:])
    found = read_settings(rest)
    own_config = any(word.partition("=")[0] == "--config" for word in rest)
    continued = "resume" in found and not own_config if stage == ["fit"] else True
    for key in ("run_dir", "checkpoint"):
        if key not in found:
            continue
        config = run_folder_of(Path(str(found[key]))) / CONFIG
        if continued and config.exists():
            other = [] if stage == ["fit"] else _other_data(found, config, data_class)
            return [*stage, "--config", str(config), *other, *rest]
    return [*stage, *rest]


def _other_data(
    found: Mapping[str, Any], config: Path, data_class: type[ClassificationData]
) -> list[str]:
    """Return what forgets where the data of the run are, if others are named."""
    saved = read_settings(["--config", str(config)])
    name = found.get("data.name", saved.get("data.name"))
    named = {key for key in ("data.name", "data.root", "data.zip") if key in found}
    if not named:
        return []
    same = found.get("data.root") == saved.get("data.root") and "data.zip" not in found
    if "data.name" not in found and (same or name not in data_class.made):
        return []  # the same data set, if in another place
    forgotten = [
        word
        for option, default in data_class.source.items()
        if saved.get(f"data.{option}") is not None
        for word in (f"--data.{option}", default)
    ]
    if "data.name" in found:
        return forgotten
    reader = data_class.made[name]
    if reader != "folder":
        raise TrainingError(
            f"{name}, the data set of the run, is made and not read: nothing in "
            f"{found.get('data.root')} would be tested. --data.name {reader} reads what is there"
        )
    return ["--data.name", reader, *forgotten]


def _spelled_out(words: Sequence[str]) -> list[str]:
    """Write the whole names of options that have short ones, and an axis as part of its option.

    Example:
        >>> _spelled_out(["--votes", "4", "--up", "-z"])  # -z alone would be taken for an option
        ['--data.votes', '4', '--data.up=-z']
    """
    spelled: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if spelled[-1:] == [SHORT["--up"]] and word in ("-x", "-y", "-z"):
            spelled[-1] += f"={word}"
        else:
            spelled.append(f"{SHORT.get(name, name)}{equals}{value}")
    return spelled


def refuse_inexact(trainer: Mapping[str, Any]) -> None:
    """Refuse options of the Trainer with which a run could not continue exactly.

    Raises:
        ValueError: One of them is set.
    """
    for name, usual in ONLY.items():
        if trainer[name] not in usual:
            raise ValueError(
                f"trainer.{name} must stay {usual[0]}, got {trainer[name]}: runs are counted, "
                "validated, saved and continued by epochs, each in its own folder"
            )
    if trainer["max_epochs"] is None or trainer["max_epochs"] < 1:
        raise ValueError(f"trainer.max_epochs must be at least 1, got {trainer['max_epochs']}")


def refuse_callbacks(asked: Sequence[Callback]) -> None:
    """Refuse callbacks of Lightning that change settings which are fixed when a run starts.

    Raises:
        ValueError: There is one; the message says what to use in its place.
    """
    for callback in asked:
        for kind, instead in REFUSED.items():
            if isinstance(callback, kind):
                raise ValueError(
                    f"trainer.callbacks cannot hold {type(callback).__name__}, which changes "
                    f"settings that are fixed when a run starts; {instead}"
                )


def _add(parser: LightningArgumentParser, name: str, **options: Any) -> None:
    """Add an option that can be spelled with hyphens, too."""
    spellings = {f"--{name}", f"--{name.replace('_', '-')}"}
    parser.add_argument(*sorted(spellings), dest=name, **options)
