"""What users give in place of what is wanted, said in words that name it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from torch import Tensor, nn

_ADVICE = {  # by the package of what was given
    "numpy": "; torch.from_numpy makes one of it",
    "PIL": "; torchvision.transforms.functional.to_tensor makes one of it, unsqueeze(0) a batch",
    "torch_geometric": "; pass its fields, such as data.x and data.edge_index",
}


def check_tensors(**values: object) -> None:
    """Raise where an input is no tensor.

    Raises:
        TypeError: With the name of the input, and how it becomes one.

    Example:
        >>> check_tensors(x=[1.0])
        Traceback (most recent call last):
        ...
        TypeError: x must be a tensor, got list
    """
    for name, value in values.items():
        if value is not None and not isinstance(value, Tensor):
            advice = _ADVICE.get(type(value).__module__.partition(".")[0], "")
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}{advice}")


def check_module(model: object) -> None:
    """Raise where a network is wanted and something else is given.

    Raises:
        TypeError: It is a class or function that makes one, or a name.

    Example:
        >>> check_module(nn.ReLU)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        TypeError: model must be a module, got <class '...ReLU'>, which makes one: call it first
    """
    if not isinstance(model, nn.Module):
        advice = ", which makes one: call it first" if callable(model) else ""
        raise TypeError(f"model must be a module, got {model!r}{advice}")


def did_you_mean(name: str, known: Iterable[str], form: str = "{!r}") -> str:
    """Return the end of a sentence with the nearest name, empty where none is near.

    Args:
        name: What was given.
        known: What there is.
        form: How a name is written.

    Example:
        >>> did_you_mean("mgic_difgcn", ["dgcnn", "mgic_diffgcn"])
        "; did you mean 'mgic_diffgcn'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {form.format(near[0])}?" if near else ""
