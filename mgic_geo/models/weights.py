"""Weights of a network in a file: safetensors, and beside it a JSON file that says whose they are.

``model.json`` holds ``name``, ``options`` and ``num_classes`` for ``create_model`` (null for the
network's own number), and the SHA-256 of ``model.safetensors``. Neither format can hold code, so
that a file from anywhere can be opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
SUFFIX = ".safetensors"
_NEEDED = {"name": (str,), "options": (dict,), "num_classes": (int, type(None))}


class WeightsError(ValueError):
    """A file of weights is missing, damaged, or of another network; the message names it."""


class WeightsWarning(UserWarning):
    """Some weights were left out because ``strict=False`` asked for it."""


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and what they belong to; nothing in the files is executed.

    Args:
        path: ``NAME.safetensors``, with ``NAME.json`` in the same folder; of a folder, its
            ``model.safetensors``.

    Returns:
        The state of the network, and what the JSON file says without the hash.

    Raises:
        WeightsError: A file is missing, is something else, or does not have its SHA-256.
        ImportError: If safetensors is missing.

    Example:
        >>> read_weights("a.pt")
        Traceback (most recent call last):
        mgic_geo.models.weights.WeightsError: cannot use weights a.pt: expected a .safetensors file
    """
    safetensors = _import_safetensors()
    path = Path(path)
    path = path / f"model{SUFFIX}" if path.is_dir() else path
    try:
        if path.suffix != SUFFIX:
            raise ValueError(f"expected a {SUFFIX} file")
        content = path.read_bytes()
        info = _read_sidecar(path.with_suffix(".json"))
        if hashlib.sha256(content).hexdigest() != info.pop("sha256", None):
            raise ValueError(f"its SHA-256 is not the one in {path.stem}.json")
        return safetensors.torch.load(content), info
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise WeightsError(f"cannot use weights {path}: {error}") from error


def choose_checkpoint(
    folder: Path, name: str, checkpoint: str | os.PathLike[str] | None, *, pretrained: bool
) -> str | os.PathLike[str] | None:
    """Return the checkpoint that was given, or the one that a package brings along.

    Args:
        folder: Of the package: a folder for each network, as ``scripts.share`` writes it.
        name: Of the network.
        checkpoint: The user's.
        pretrained: Whether that of the package is asked for.

    Raises:
        ValueError: Both are asked for.
        WeightsError: The package has none of this network, with the names of those that it has.
    """
    if not pretrained:
        return checkpoint
    if checkpoint is not None:
        raise ValueError(f"give either pretrained=True or checkpoint=, got both for {name}")
    if name not in (known := list_pretrained(folder)):
        names = ", ".join(known) or "no network"
        raise WeightsError(f"there are no pretrained weights of {name}, but those of {names}")
    return folder / name


def list_pretrained(folder: Path) -> list[str]:
    """Return the names of the networks whose weights are in a folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/model{SUFFIX}"))


def pack_weights(tensors: Mapping[str, Tensor], info: dict[str, Any]) -> tuple[bytes, bytes]:
    """What :func:`read_weights` reads: the contents of both files.

    Args:
        tensors: The state of a network.
        info: What the JSON file says beside the hash: ``name``, ``options``, ``num_classes`` and
            other plain values.

    Raises:
        ImportError: If safetensors is missing.

    Example:
        >>> import torch
        >>> info = {"name": "pointnet", "options": {}, "num_classes": 4}
        >>> content, sidecar = pack_weights({"x": torch.zeros(2)}, info)
        >>> json.loads(sidecar)["sha256"] == hashlib.sha256(content).hexdigest()
        True
    """
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    content = _import_safetensors().torch.save(tensors)
    sidecar = {**info, "sha256": hashlib.sha256(content).hexdigest()}
    return content, (json.dumps(sidecar, indent=2) + "\n").encode()


def build_with_weights(
    make: Callable[..., Network],
    name: str,
    path: str | os.PathLike[str],
    num_classes: int | None,
    options: dict[str, Any],
    *,
    strict: bool,
) -> tuple[Network, dict[str, Any]]:
    """Build the network that weights belong to and load them; for ``create_model``.

    Args:
        make: ``create_model`` itself.
        name: Network asked for.
        path: As in :func:`read_weights`.
        num_classes: ``None`` for those of the weights; with another number, the body keeps its
            weights and gets a fresh classifier by ``reset_classifier``.
        options: In place of those that the weights were trained with.
        strict: Whether every weight must have its place and every place its weight.

    Returns:
        The network, and what the weights say of themselves.

    Raises:
        WeightsError: As :func:`read_weights`; or they are of another network, or do not fit it:
            then the names and shapes of all that do not.
    """
    tensors, info = read_weights(path)
    if info["name"] != name:
        raise WeightsError(f"{path} holds weights of {info['name']}, not of {name}")
    model = make(name, info["num_classes"], **{**info["options"], **options})
    try:
        left = model.load_state_dict(tensors, strict=strict)
    except RuntimeError as error:
        raise WeightsError(f"the weights of {path} do not fit {name}: {error}") from error
    if left.missing_keys or left.unexpected_keys:
        message = f"{path}: no weights for {left.missing_keys}, no place for {left.unexpected_keys}"
        warnings.warn(message, WeightsWarning, stacklevel=3)
    if num_classes is not None and num_classes != info["num_classes"]:
        model.reset_classifier(num_classes)  # type: ignore[operator]
    return model, info


def _import_safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("weights need safetensors: pip install safetensors") from error
    return safetensors


def _read_sidecar(path: Path) -> dict[str, Any]:
    """Read what the weights belong to."""
    info = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(info, dict):
        raise ValueError(f"{path.name} does not hold an object")
    for key, kinds in _NEEDED.items():
        if key not in info or not isinstance(info[key], kinds):
            raise ValueError(f"{path.name} lacks {key!r}, or it is no {kinds[0].__name__}")
    return info
