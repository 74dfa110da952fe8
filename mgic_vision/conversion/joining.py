"""Feed-forward maps whose two maps are in two modules, as in BERT, made one module."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from mgic_geo.conversion import computed_tensors
from mgic_vision.conversion.narrow import as_linear
from mgic_vision.conversion.tracer import trace
from mgic_vision.cost import without_hooks

NUM_INPUTS = 2


@dataclass(frozen=True)
class Pair:
    """Two maps that follow each other and stand in two modules.

    Args:
        first: Name of the module that ends with an activation after the first map.
        last: Name of the second map, in a module that adds something to its result.
    """

    first: str
    last: str


class FeedForward(nn.Sequential):
    """Both maps of a feed-forward layer, in the place of the first."""


def join_pairs(
    model: nn.Module, known: Collection[type[nn.Module]]
) -> tuple[nn.Module, list[Pair]]:
    """A copy with both maps of each pair in the place of the first; the model itself without any.

    The second map is read by nothing but the first module, so that the network computes the same.

    Args:
        model: The network; it is left as it is.
        known: Classes whose modules stay as they are.
    """
    pairs = list(find_pairs(without_hooks(model), known))
    if not pairs:
        return model, pairs
    joined = copy.deepcopy(model, computed_tensors(model))
    for pair in pairs:
        first, last = joined.get_submodule(pair.first), joined.get_submodule(pair.last)
        both = FeedForward(first, last)
        both.training = first.training
        joined.set_submodule(pair.first, both)
        joined.set_submodule(pair.last, nn.Identity())
    return joined, pairs


def part_left(model: nn.Module, pairs: list[Pair]) -> None:
    """Put the maps of pairs that were left back to where they were, in place."""
    places = dict(model.named_modules())
    for pair in pairs:
        both = places.get(pair.first)
        if isinstance(both, FeedForward):
            first, last = both
            model.set_submodule(pair.first, first)
            model.set_submodule(pair.last, last)


def find_pairs(model: nn.Module, known: Collection[type[nn.Module]]) -> Iterator[Pair]:
    """The pairs of a network without hooks, outside of modules of the known classes."""
    places = dict(model.named_modules())
    fixed = tuple(f"{name}." if name else "" for name in places if type(places[name]) in known)
    for name, parent in places.items():
        if f"{name}.".startswith(fixed):
            continue
        lasts = {child: map_of_first_input(module) for child, module in parent.named_children()}
        calls = _calls(parent) if any(lasts.values()) else []
        for node in calls:
            path, before = lasts.get(str(node.target), ""), node.args[0]
            if not path or not isinstance(before, fx.Node) or before not in calls:
                continue
            first = f"{name}.{before.target}".lstrip(".")
            last = f"{name}.{node.target}.{path}".lstrip(".")
            there, back = (_widths(model.get_submodule(place)) for place in (first, last))
            if len(before.users) == 1 and there is not None and there[::-1] == back:
                yield Pair(first, last)


def map_of_first_input(module: nn.Module) -> str:
    """Name of the map that alone reads the first of a module's two inputs; empty without any."""
    inputs = list(inspect.signature(type(module).forward).parameters.values())[1:]
    needed = [x for x in inputs if x.default is x.empty and x.kind is x.POSITIONAL_OR_KEYWORD]
    graph = trace(module) if len(needed) == NUM_INPUTS else None
    if graph is None:
        return ""
    users = list(next(iter(graph.find_nodes(op="placeholder"))).users)
    name = str(users[0].target) if len(users) == 1 and users[0].op == "call_module" else ""
    return name if name and _widths(module.get_submodule(name)) else ""


def _widths(module: nn.Module) -> tuple[int, int] | None:
    """In and out of the only linear map in a module."""
    maps = [m for leaf in module.modules() if isinstance(m := as_linear(leaf) or leaf, nn.Linear)]
    return (maps[0].in_features, maps[0].out_features) if len(maps) == 1 else None


def _calls(parent: nn.Module) -> list[fx.Node]:
    """Calls of children that a module calls once, where it needs no input but its first."""
    try:
        nodes = _Children().trace(_Alone(parent)).find_nodes(op="call_module")
    except Exception:  # as in `trace`
        return []
    for node in nodes:
        node.target = str(node.target).removeprefix("parent.")
    count = Counter(node.target for node in nodes)
    return [node for node in nodes if node.args and count[node.target] == 1]


class _Alone(nn.Module):
    """Calls a module with one input, whatever else it may take."""

    def __init__(self, parent: nn.Module) -> None:
        super().__init__()
        self.parent = parent

    def forward(self, x: Tensor) -> Any:
        return self.parent(x)


class _Children(fx.Tracer):
    """Traces the forward of the module in :class:`_Alone`, and none of its children's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name != "parent"
