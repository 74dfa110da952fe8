"""A run folder belongs to one run, which can be continued, or replaced if that is asked for."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from datasets.off import shown
from scripts.training.reliability.claim import refuse_run
from scripts.training.reliability.errors import RunFolderError
from scripts.training.reliability.files import remove_parts, write_whole
from scripts.training.reliability.recovery import RECOVERY

CONFIG = "config.yaml"
OWN_FILES = (
    *("config.yaml", "config-*.yaml", "metrics.csv", "model.json", "model.safetensors", RECOVERY),
    *("test.json", "test-*.json", "val.json", "val-*.json", "train*.json", "predictions*.npz"),
    *("report.html", "per_class.csv"),
    *("curves.png", "confusion*.png", "clouds*.png", "images*.png", "scenes*.png"),
)
OWN_FOLDERS = ("checkpoints", "tensorboard")

# What may differ when a run is continued, as its numbers do not depend on it. Numbers of processes
# and threads do change them a little: that is a warning, given when the checkpoint is read.
FREE = (
    "command",
    "threads",
    "checkpoint_every",
    "test_after_fit",
    "report",
    "auto_batch",
    "rank_timeout",
    "on_nonfinite",
    "data.root",
    "data.zip",
    "data.download",
    "data.num_workers",
    "data.test_splits",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.logger",
)


def open_run(folder: Path, config: Mapping[str, Any], mode: str, *, force: bool) -> Path | None:
    """Prepare the folder for a run and return the checkpoint to continue from, if there is one.

    Args:
        folder: The run folder.
        config: The resolved configuration, plain values only.
        mode: ``new``, ``resume`` or ``overwrite``.
        force: Continue in spite of another configuration.

    Raises:
        RunFolderError: The folder holds a run and the mode is ``new``; or the configuration is not
            the one that the run was started with.
        CheckpointError: Every checkpoint is damaged.
    """
    # imported here: it takes torch, which those who only read a folder do not wait for
    from scripts.training.reliability.checkpoint import newest_checkpoint

    saved = folder / CONFIG
    checkpoints = folder / "checkpoints"
    if mode == "overwrite":
        _clear(folder)
    elif mode == "new":
        refuse_run(folder)
    if mode == "new":
        (folder / RECOVERY).unlink(missing_ok=True)  # of a run that never came to a checkpoint
    remove_parts(folder)
    remove_parts(checkpoints)
    checkpoint = newest_checkpoint(checkpoints)
    if checkpoint and saved.exists():
        changed = compare_configs(read_config(saved), config)
        if changed and not force:
            raise RunFolderError(
                f"{folder} was started with another configuration:\n  "
                + "\n  ".join(changed)
                + "\nContinue all the same with --force_config"
            )
        if changed:
            number = len(list(folder.glob("config-*.yaml"))) + 1
            write_whole(folder / f"config-{number}.yaml", saved.read_bytes())
    write_whole(saved, yaml.safe_dump(dict(config), sort_keys=False).encode())
    return checkpoint


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration of a run.

    Raises:
        RunFolderError: It cannot be read.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunFolderError(f"cannot read {path}: {error}") from error
    return config


def compare_configs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List the settings that differ, except those that do not change a run's numbers.

    Example:
        >>> compare_configs({"model": {"lr": 1, "k": 8}}, {"model": {"lr": 2}})
        ['model.k: 8 -> not set', 'model.lr: 1 -> 2']
    """
    old, new = dict(flatten(before)), dict(flatten(now))
    return [
        f"{key}: {old.get(key, 'not set')} -> {new.get(key, 'not set')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not key.startswith(FREE)
    ]


def spell(setting: Any) -> Any:
    r"""Return a setting in which every text can be written to YAML, also where it is a path.

    Example:
        >>> spell({"data": {"root": "caf\udce9", "splits": ["test"], "seed": 0}})
        {'data': {'root': 'caf\\xe9', 'splits': ['test'], 'seed': 0}}
    """
    if isinstance(setting, str):
        return shown(setting)
    if isinstance(setting, Mapping):
        return {key: spell(value) for key, value in setting.items()}
    if isinstance(setting, list):
        return [spell(value) for value in setting]
    return setting


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a nested configuration by their dotted names."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        elif value is not None:  # which means the same as nothing
            yield f"{prefix}{key}", value


def _clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else."""
    for pattern in OWN_FILES:
        for path in folder.glob(pattern):
            path.unlink()
    for name in OWN_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
