"""Networks of both packages by name, alone or with the weights of a run."""

import warnings
from typing import Any

from torch import nn

import mgic_geo
import mgic_vision
from scripts.training.reliability.errors import TrainingError
from scripts.training.weights import Weights


def make_network(name: str, num_classes: int | None, options: dict[str, Any]) -> nn.Module:
    """Build a network of ``mgic_geo`` or ``mgic_vision``; ``None`` classes are its own number.

    Raises:
        TrainingError: Neither package has it, or it does not take such options.

    Example:
        >>> make_network("pointnet", 4, {"width": 8}).head[-1]
        Linear(in_features=8, out_features=4, bias=True)
    """
    names = mgic_geo.list_models()
    package: Any = mgic_geo if name in names else mgic_vision
    if package is mgic_vision and name not in mgic_vision.list_models():
        names = sorted({*names, *mgic_vision.list_models()})
        raise TrainingError(f"no model {name!r}; there are {', '.join(names)}")
    arguments = () if num_classes is None else (num_classes,)
    try:
        with warnings.catch_warnings():  # timm decorates functions for TorchScript
            warnings.simplefilter("ignore", FutureWarning)
            return package.create_model(name, *arguments, **options)
    except (TypeError, ValueError, ImportError) as error:
        raise TrainingError(f"cannot build {name}: {error}") from error


def load_network(weights: Weights) -> nn.Module:
    """Build the network that the weights belong to, for evaluation.

    Raises:
        TrainingError: They do not fit it, or there is no such network.
    """
    info = weights.info
    if info.get("task") == "parts":
        network = mgic_geo.create_segmenter(info["name"], len(info["classes"]), **info["options"])
    else:
        network = make_network(info["name"], len(info["classes"]), info["options"])
    try:
        network.load_state_dict(weights.tensors)
    except RuntimeError as error:
        raise TrainingError(f"cannot use weights {weights.path}: {error}") from error
    return network.eval()
