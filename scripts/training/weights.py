"""Weights of a network: found in a run, read with a look at their hash, exported."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mgic_geo.models.registry
import mgic_vision.models.registry
from mgic_geo.models.weights import SUFFIX, WeightsError, pack_weights
from mgic_geo.models.weights import read_weights as read_exported
from scripts.training.reliability.checkpoint import BEST, newest_checkpoint, read_checkpoint
from scripts.training.reliability.errors import CheckpointError
from scripts.training.reliability.files import write_whole

PREFIX = "network."  # of a classifier's own names


@dataclass(frozen=True)
class Weights:
    """The weights of a network and what they belong to.

    Args:
        path: Where they were found.
        tensors: The state of the network.
        info: ``name``, ``options``, ``classes`` and what the data add to it, such as
            ``num_points``; ``epoch``, from 1, and ``step``.
    """

    path: Path
    tensors: dict[str, Tensor]
    info: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the tensors and their names, however they are stored."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def find_weights(path: Path) -> Path:
    """Return the file to read: of a run folder, the best epoch, or else the newest checkpoint.

    The name of a network stands for the weights that come with the packages.

    Raises:
        CheckpointError: There is nothing of the kind.
    """
    for folder in (mgic_geo.models.registry.PRETRAINED, mgic_vision.models.registry.PRETRAINED):
        if not path.exists() and str(path) in mgic_geo.list_pretrained(folder):
            path = folder / path
    if not path.is_dir():
        return path
    best = path / "checkpoints" / BEST
    found = best if best.exists() else newest_checkpoint(path / "checkpoints")
    if found is None and (path / "model.safetensors").exists():
        found = path / "model.safetensors"
    if found is None:
        raise CheckpointError(f"{path} holds neither checkpoints nor model.safetensors")
    return found


def run_folder_of(path: Path) -> Path:
    """Return the folder of the run that a checkpoint, exported weights or a folder belong to."""
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def read_weights(path: Path) -> Weights:
    """Read a checkpoint, exported weights, or the best of a run folder.

    Raises:
        CheckpointError: It is missing, damaged or something else.
    """
    path = find_weights(path)
    if path.suffix == SUFFIX:
        try:
            tensors, info = read_exported(path)
        except WeightsError as error:
            raise CheckpointError(str(error)) from error
        if "classes" not in info:
            raise CheckpointError(f"{path.with_suffix('.json')} does not name the classes")
        del info["num_classes"]
        return Weights(path, tensors, info)
    checkpoint = read_checkpoint(path)
    tensors = {
        key.removeprefix(PREFIX): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(PREFIX)
    }
    info = {key: checkpoint["run"][key] for key in ("name", "options", "classes")}
    info |= checkpoint["run"]["data"]
    info |= {"epoch": checkpoint["epoch"] + 1, "step": checkpoint["global_step"]}
    return Weights(path, tensors, info)


def fresh_weights(name: str, network: nn.Module, options: dict[str, Any] | None = None) -> Weights:
    """Return the weights that a network has, as if a run with numbered classes had left them."""
    bias = list(network.parameters())[-1]  # of the classifier
    classes = [str(label) for label in range(bias.numel())]
    info = {"name": name, "options": options or {}, "classes": classes}
    return Weights(Path("fresh"), network.state_dict(), info)


def export_weights(weights: Weights, folder: Path) -> None:
    """Write ``model.safetensors``, and ``model.json`` that says what they are and their SHA-256."""
    info = {**weights.info, "num_classes": len(weights.info["classes"])}
    content, sidecar = pack_weights(weights.tensors, info)
    write_whole(folder / "model.safetensors", content)
    write_whole(folder / "model.json", sidecar)
