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


def check_axes(**inputs: tuple[Tensor, int]) -> None:
    """Raise where an input has another number of axes than stands beside it.

    Raises:
        ValueError: With the name of the input.

    Example:
        >>> import torch
        >>> check_axes(x=(torch.ones(3), 2))
        Traceback (most recent call last):
        ...
        ValueError: x must have 2 axes, got shape (3,)
    """
    for name, (tensor, axes) in inputs.items():
        if tensor.dim() != axes:
            word = "axis" if axes == 1 else "axes"
            raise ValueError(f"{name} must have {axes} {word}, got shape {tuple(tensor.shape)}")


def check_finite(**coordinates: Tensor) -> None:
    """Raise where points have no coordinates, or one that is no finite floating-point number.

    Raises:
        ValueError: With the name of the input, and the first row whose coordinates are not finite.

    Example:
        >>> import torch
        >>> check_finite(x=torch.tensor([[0.0], [torch.inf]]))
        Traceback (most recent call last):
        ...
        ValueError: x must be finite, got [inf] in row 1
    """
    for name, x in coordinates.items():
        if not x.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {x.dtype}")
        if not x.size(1):
            raise ValueError(f"{name} must be (N, D) with D >= 1, got shape {tuple(x.shape)}")
        if not x.numel():
            continue
        low, high = x.aminmax()  # both are NaN where anything is
        if not (low.isfinite() and high.isfinite()):
            row = int((~x.isfinite().all(1)).nonzero()[0])
            raise ValueError(f"{name} must be finite, got {x[row].tolist()} in row {row}")


def check_clouds(num_points: int, **batches: Tensor) -> None:
    """Raise where the cloud of every point is not there, or negative.

    Raises:
        ValueError: With the name of the input.

    Example:
        >>> import torch
        >>> check_clouds(2, batch=torch.tensor([0, -1]))
        Traceback (most recent call last):
        ...
        ValueError: batch must not be negative, got -1 in row 1
    """
    for name, batch in batches.items():
        if batch.shape != (num_points,):
            raise ValueError(f"{name} must be ({num_points},), got shape {tuple(batch.shape)}")
        if (batch < 0).any():
            row = int((batch < 0).nonzero()[0])
            raise ValueError(f"{name} must not be negative, got {int(batch[row])} in row {row}")


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
