"""What conversions of graph and image networks share: which blocks, and what became of them."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _WrappedHook

from mgic_geo.blending import Blend
from mgic_geo.cost import num_weights
from mgic_geo.levels import Level, check_counts, check_cycle, level_plan
from mgic_geo.ops.inputs import check_module

_log = logging.getLogger(__name__)

#: Classes that hold a network, and where.
WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


class NotConvertible(ValueError):
    """Why a block is left as it is."""


def require(fits: object, reason: str, *, known: str = "") -> None:
    """Leave the block where something does not fit.

    Args:
        fits: Whether it does.
        reason: What is in the way.
        known: What would have been taken in its place.

    Raises:
        NotConvertible: With the reason.
    """
    if not fits:
        raise NotConvertible(f"{reason}; known is {known}" if known else reason)


def check_convertible(
    model: nn.Module, *, group_size: int, coarse_size: int | None, min_width: int, cycle: str
) -> None:
    """Refuse what no conversion takes.

    Raises:
        ValueError: If it is no network, wrapped in something that rewrites or copies it in its own
            ways, a size is below 1, or the cycle is unknown.
    """
    check_module(model)
    check_counts(min_width=min_width)
    level_plan(1, group_size=group_size, coarse_size=coarse_size)  # checks them
    check_cycle(cycle)
    for name, module in model.named_modules():
        inside = WRAPPERS.get(type(module).__name__)
        if inside is not None:
            place = ".".join(filter(None, (name, inside)))
            raise ValueError(
                f"{name or 'the model'} is wrapped in {type(module).__name__}: convert what is "
                f"inside, model.{place}, and wrap that again"
            )


@dataclass(frozen=True)
class Row:
    """One block that is known.

    Args:
        name: In its network.
        kind: Its class.
        before: Its weights.
        after: Weights of what replaced it; ``None`` where it was left.
        levels: Of the cycle, the finest first.
        reason: Why it was left.
        also: Its other names, where one module is used at several places.
    """

    name: str
    kind: str
    before: int
    after: int | None = None
    levels: tuple[Level, ...] = ()
    reason: str = ""
    also: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = " = ".join((self.name or "the model itself", *self.also))
        if self.after is None:
            return f"left     {name} ({self.kind}, {self.before:,} weights): {self.reason}"
        widths = " > ".join(f"{x.outer}:{x.inner}/{x.groups}" for x in self.levels)
        return (
            f"changed  {name} ({self.kind}): {self.before:,} to {self.after:,} weights, "
            f"channels:inner/groups {widths}"
        )


@dataclass(frozen=True)
class Report:
    """What became of a network; prints as one line a block.

    Args:
        rows: One for every block that is known, in the order of the network.
        weights_before: Of the network as it was.
        weights_after: Of the new one.
        multiply_adds_before: For one input; ``None`` where they were not counted.
        multiply_adds_after: Likewise.
        shared_weights: What several blocks share, counted once for every block but one.
    """

    rows: tuple[Row, ...]
    weights_before: int
    weights_after: int
    multiply_adds_before: int | None = None
    multiply_adds_after: int | None = None
    shared_weights: int = 0

    @property
    def changed(self) -> tuple[Row, ...]:
        """The blocks that are cycles now."""
        return tuple(row for row in self.rows if row.after is not None)

    @property
    def left(self) -> tuple[Row, ...]:
        """The blocks that are known and were left."""
        return tuple(row for row in self.rows if row.after is None)

    @property
    def unknown_weights(self) -> int:
        """Weights outside the blocks that are known: stem, head, attention and the like."""
        return self.weights_before - sum(row.before for row in self.rows) + self.shared_weights

    def __str__(self) -> str:
        lines = [*map(str, self.rows)]
        lines.append(f"not in a block that is known: {self.unknown_weights:,} weights")
        lines.append(_change("weights", self.weights_before, self.weights_after))
        if self.multiply_adds_before and self.multiply_adds_after is not None:
            lines.append(
                _change("multiply-adds", self.multiply_adds_before, self.multiply_adds_after)
            )
        return "\n".join(lines)


def _change(what: str, before: int, after: int) -> str:
    share = f" ({after / before:.1%})" if before else ""
    return f"{what}: {before:,} to {after:,}{share}"


def outermost(model: nn.Module, is_block: Callable[[nn.Module], object]) -> list[str]:
    """Names of the modules that are blocks, none inside another; ``""`` is the model itself."""
    names: list[str] = []
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in names)
        if not inside and is_block(module):
            names.append(name)
    return names


def fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether one of the names fits one of the patterns."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


@dataclass(frozen=True)
class Replacement:
    """What takes the place of a block.

    Args:
        module: The new module.
        levels: Of its cycle, the finest first.
        kept: Modules of the block that live on in it, with their hooks.
    """

    module: nn.Module
    levels: tuple[Level, ...]
    kept: frozenset[nn.Module] = frozenset()


#: From a block of the copy to what takes its place; raises :class:`NotConvertible` to leave it.
Make = Callable[[nn.Module], Replacement]


def rewrite(
    model: nn.Module,
    makers: Mapping[str, Make],
    *,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    gradual: bool = False,
    nearest: str = "",
) -> tuple[nn.Module, Report]:
    """Replace the blocks of a copy of ``model``, and report without multiply-adds.

    A block that is used at several places is made once and put at all of them. Hooks on modules
    that do not live on are dropped, with a warning.

    Args:
        model: The network; it is left as it is.
        makers: By the name of the block.
        include: Patterns of names; others are left. It is enough that one name of a block fits.
        exclude: Patterns of names that are left; likewise.
        gradual: Whether the block stays beside what takes its place, in a
            :class:`~mgic_geo.blending.Blend`. The report is of the network without it.
        nearest: What comes nearest to a block, where none is known.

    Raises:
        ValueError: No block is known, or a pattern fits none; with what there is.
    """
    if not makers:
        advice = f": {nearest}" if nearest else ""
        raise ValueError(f"{type(model).__name__} has no block that is known here{advice}")
    places = {name: find_places(model, name) for name in makers}
    known = [*chain(*places.values())]
    for pattern in (*(include or ()), *(exclude or ())):
        if not fits(known, [pattern]):
            raise ValueError(f"no known block fits {pattern!r}; there are {', '.join(known)}")
    new: nn.Module = copy.deepcopy(model, computed_tensors(model))
    rows, kept = [], 0
    for name, found in places.items():
        block = new.get_submodule(name)
        kind, before, also = type(block).__name__, num_weights(block), found[1:]
        try:
            require(include is None or fits(found, include), "not in `include`")
            require(not fits(found, exclude or ()), "in `exclude`")
            check_untied(new, block, found)
            own = copy.deepcopy(block, shared_hooks(block)) if gradual else block
            made = makers[name](own)
        except NotConvertible as reason:
            rows.append(Row(name, kind, before, reason=str(reason), also=also))
            continue
        rows.append(Row(name, kind, before, num_weights(made.module), made.levels, also=also))
        if gradual:
            replacement: nn.Module = Blend(block, made.module)
            kept += before
        else:
            replacement = made.module
            _warn_of_hooks(name, block, made.kept)
        for place in found:
            if place:
                new.set_submodule(place, replacement)
            else:
                new = replacement
    parameters = {p for name in makers for p in model.get_submodule(name).parameters()}
    shared = sum(row.before for row in rows) - sum(p.numel() for p in parameters)
    weights = num_weights(model), num_weights(new) - kept
    return new, Report(tuple(rows), *weights, shared_weights=shared)


def find_places(model: nn.Module, name: str) -> tuple[str, ...]:
    """All names of the module called ``name``.

    Example:
        >>> relu = nn.ReLU()
        >>> find_places(nn.Sequential(relu, nn.Sequential(relu)), "0")
        ('0', '1.0')
    """
    module = model.get_submodule(name)
    every = model.named_modules(remove_duplicate=False)
    return tuple(place for place, found in every if found is module)


def check_untied(model: nn.Module, block: nn.Module, places: Sequence[str]) -> None:
    """Leave a block whose weights are also used elsewhere: what is made anew is not tied to them.

    Raises:
        NotConvertible: With the name that they have elsewhere.
    """
    own = {id(tensor) for tensor in chain(block.parameters(), block.buffers())}
    for name, tensor in chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    ):
        inside = any(not place or name.startswith(f"{place}.") for place in places)
        require(inside or id(tensor) not in own, f"shares weights with {name}, outside of it")


def user_hooks(module: nn.Module, block: nn.Module) -> list[Callable]:
    """Hooks that the user registered on ``module``.

    Not those that make it what it is: methods of the modules of ``block``, and what computes pruned
    and normalized weights.
    """
    hooks = [_unwrapped(hook) for found in _hook_dictionaries(module) for hook in found.values()]
    own = {id(part) for part in block.modules()} if hooks else set()
    return [
        hook
        for hook in hooks
        if not (inspect.ismethod(hook) and id(hook.__self__) in own)
        and not type(hook).__module__.startswith("torch.nn.utils.")
    ]


def computed_tensors(module: nn.Module) -> dict[int, Any]:
    """For ``copy.deepcopy``, which refuses what hooks computed from parameters: copies of these.

    Such are the weights that ``torch.nn.utils.prune`` and ``weight_norm`` put on modules.

    Example:
        >>> from torch.nn.utils import prune
        >>> linear = prune.random_unstructured(nn.Linear(2, 2), "weight", amount=1)
        >>> new = copy.deepcopy(linear, computed_tensors(linear))
        >>> bool((new.weight == linear.weight).all())
        True
    """
    found = (value for part in module.modules() for value in vars(part).values())
    computed = (value for value in found if isinstance(value, Tensor) and not value.is_leaf)
    return {id(tensor): tensor.detach().clone() for tensor in computed}


def shared_hooks(block: nn.Module) -> dict[int, Any]:
    """For ``copy.deepcopy``: copies of ``block`` call what the user registered, not copies of it.

    Example:
        >>> import torch
        >>> block, seen = nn.Sequential(nn.ReLU()), []
        >>> handle = block[0].register_forward_pre_hook(lambda module, inputs: seen.append(module))
        >>> new = copy.deepcopy(block, shared_hooks(block))
        >>> y = new(torch.ones(1))
        >>> seen == [new[0]]
        True
    """
    return {id(hook): hook for module in block.modules() for hook in user_hooks(module, block)}


def drop_hooks(block: nn.Module, *, inside: bool = True) -> None:
    """Remove the user's hooks from ``block`` and, if ``inside``, from the modules inside it."""
    for module in block.modules() if inside else (block,):
        dropped = {id(hook) for hook in user_hooks(module, block)}
        for found in _hook_dictionaries(module):
            for key in [key for key, hook in found.items() if id(_unwrapped(hook)) in dropped]:
                del found[key]
        if not module._backward_hooks:
            module._is_full_backward_hook = None  # else hooks of the other kind are refused


def _warn_of_hooks(name: str, block: nn.Module, kept: frozenset[nn.Module]) -> None:
    for path, module in block.named_modules():
        if module not in kept and user_hooks(module, block):
            _log.warning(
                "the hooks on %s are dropped: convert replaces this module, register them again",
                ".".join(filter(None, (name, path))) or "the model itself",
            )


def _hook_dictionaries(module: nn.Module) -> list[dict[int, Callable]]:
    """Of torch, and of PyG's message passing."""
    every = (value for name, value in vars(module).items() if name.endswith("_hooks"))
    return [value for value in every if isinstance(value, dict)]  # of graph modules some are lists


def _unwrapped(hook: Callable) -> Callable:
    """What was registered: torch wraps some hooks together with their module."""
    return hook.hook if isinstance(hook, _WrappedHook) else hook
