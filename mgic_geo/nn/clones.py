"""Clones of modules with other tensors: what one call over stacked parameters runs."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import Tensor, nn

# registries of a module that have no part in its call
UNUSED = {name for name in vars(nn.Module()) if "state_dict" in name or "backward" in name}
ATOMS = {bool, int, float, str, type(None)}
MUTABLE: dict[type, Callable[[Any], Any]] = {  # an empty container like this one
    list: lambda _: [],
    dict: lambda _: {},
    OrderedDict: lambda _: OrderedDict(),
    defaultdict: lambda value: defaultdict(value.default_factory),
    deque: lambda value: deque(maxlen=value.maxlen),
}


def clone_with(module: nn.Module, state: dict[str, Tensor]) -> Any:
    """Clone a tree of modules without its tensors, and give the clone those of ``state``.

    What a call of the clone writes to its attributes, lists and dicts stays in the clone. Bound
    methods, lists and dicts that name modules or tensors of the tree name those of the clone.
    """
    memo: dict[int, Any] = {id(part): object.__new__(type(part)) for part in module.modules()}
    memo |= {id(tensor): state[name] for name, tensor in state_of(module).items()}
    for path, part in module.named_modules():
        clone = memo[id(part)].__dict__
        for name, value in vars(part).items():
            is_shared = type(value) in ATOMS or name in UNUSED
            clone[name] = value if is_shared else clone_value(value, memo)
        prefix = f"{path}." if path else ""
        for kind in ("_parameters", "_buffers"):  # by name: tied tensors may be several in `state`
            clone[kind] = {name: state.get(prefix + name, t) for name, t in clone[kind].items()}
        clone["_compiled_call_impl"] = None  # it would call the module
    return memo[id(module)]


def clone_value(value: Any, memo: dict[int, Any]) -> Any:
    """What a clone has in place of ``value``: objects other than containers are shared."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in MUTABLE:
        memo[id(value)] = clone = MUTABLE[kind](value)
        if isinstance(value, dict):
            clone.update({key: clone_value(item, memo) for key, item in value.items()})
        else:
            clone.extend([clone_value(item, memo) for item in value])
        return clone
    if kind in (tuple, set, frozenset):
        return kind([clone_value(item, memo) for item in value])
    if kind is MethodType:
        return value.__func__.__get__(clone_value(value.__self__, memo))
    return value


def update_buffers(clone: nn.Module, state: dict[str, Tensor]) -> None:
    """Write buffers that a call has replaced, as PyG's ``InstanceNorm`` does, to ``state``."""
    for path, part in clone.named_modules():
        for name, tensor in part.named_buffers(recurse=False, remove_duplicate=False):
            before = state.get(f"{path}.{name}" if path else name)
            if before is not None and before is not tensor:
                before.copy_(tensor.detach())


def like(tensor: Tensor, values: Tensor) -> Any:
    """``values`` as a parameter where ``tensor`` is one, trained where that is."""
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(values, tensor.requires_grad) if is_parameter else values


def own_state(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers that the module itself holds, not its children."""
    named = module.named_parameters, module.named_buffers
    return [item for items in named for item in items(recurse=False, remove_duplicate=False)]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name: a shared module's once, a shared parameter's every time.

    Without the mask of edges that PyG's explainers register for a while: it is one for all groups.
    """
    return {
        f"{path}.{name}".lstrip("."): tensor
        for path, child in module.named_modules()
        for name, tensor in own_state(child)
        if name != "_edge_mask"
    }
