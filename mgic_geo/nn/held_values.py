"""What convolutions hold: whether copies are alike, and tensors that torch does not know of."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Sequence
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch_geometric.inspector import Inspector

from mgic_geo.nn.clones import MUTABLE, UNUSED, state_of

#: Attributes of a module that are looked through elsewhere, or have no part in its call.
REGISTRIES = UNUSED | {"_parameters", "_buffers", "_modules"}
# PyG's inspectors differ between the first instance of a class and the next
LEAVES = (Tensor, np.ndarray, type, RemovableHandle, Inspector)
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def description(conv: nn.Module) -> list[tuple[str, Any]]:
    """What copies have to have in common to be run by one call, by name."""
    found: list[tuple[str, Any]] = [
        (f"class {name}".rstrip(), type(part)) for name, part in conv.named_modules()
    ]
    for name, tensor in state_of(conv).items():
        kept = isinstance(tensor, nn.Parameter), tensor.requires_grad, tensor.dtype, tensor.device
        found.append((name, (tensor.shape, *kept)))
    for name, value, _ in held(conv):
        if isinstance(value, np.ndarray):
            found.append((name, (value.shape, value.dtype, value.tobytes())))
        elif isinstance(value, PLAIN):
            found.append((name, value))
    return found


def loose_tensor(conv: nn.Module) -> str | None:
    """Name of a tensor that a convolution uses but has not registered, or ``None``.

    Nor may objects other than lists and their like know registered tensors and modules: a clone of
    the convolution (:func:`clone_with`) shares such objects.
    """
    registered = {id(tensor) for tensor in state_of(conv).values()}
    tree = {id(module) for module in conv.modules()}
    for name, value, is_replaced in held(conv):
        known = registered if isinstance(value, Tensor) else tree
        is_state = isinstance(value, Tensor) or id(value) in tree
        if is_state and not (is_replaced and id(value) in known):
            return name
    return None


def held(conv: nn.Module) -> Iterator[tuple[str, Any, bool]]:
    """Everything that the modules of a tree hold besides what torch registers.

    Yields:
        Name, value, and whether only containers that :func:`clone_with` rebuilds lead there.
    """
    seen: dict[int, Any] = {id(module): module for module in conv.modules()}
    for path, module in conv.named_modules():
        for name, value in vars(module).items():
            if name not in REGISTRIES:
                yield from reached(f"{path}.{name}".lstrip("."), value, True, seen)


def reached(
    name: str, value: Any, is_replaced: bool, seen: dict[int, Any]
) -> Iterator[tuple[str, Any, bool]]:
    """A value, and what can be reached from it; what was seen is not entered again."""
    yield name, value, is_replaced
    if isinstance(value, (*PLAIN, *LEAVES)) or id(value) in seen:
        return
    seen[id(value)] = value
    rebuilt = type(value) in (tuple, set, frozenset, MethodType, *MUTABLE)
    for i, part in enumerate(parts(value)):
        yield from reached(f"{name}[{i}]", part, is_replaced and rebuilt, seen)


def parts(value: Any) -> Sequence[Any]:
    """What a value directly refers to."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset | deque):
        return list(value)
    if isinstance(value, MethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, FunctionType):
        filled = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
        return [*filled, value.__defaults__, value.__kwdefaults__]
    return list(vars(value).values()) if hasattr(value, "__dict__") else []
