"""Residual blocks and feed-forward maps, recognized by what they compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mgic_geo.conversion import NotConvertible, require
from mgic_vision.conversion.narrow import as_linear, branch_widths, is_depthwise, leaves
from mgic_vision.conversion.parts import ChannelScale, Parts, sequence, taken_apart
from mgic_vision.conversion.tracer import (
    ADDITIONS,
    ELEMENTWISE,
    HALVES,
    NOTHING,
    PERMUTATIONS,
    PRODUCTS,
    as_module,
    chain_between,
    is_call,
    is_scale,
    is_shell,
    is_silent,
    name_of,
    nodes_between,
    reached_from,
    subgraph,
    summands,
    the_input,
    the_output,
    trace,
)
from mgic_vision.cost import without_hooks
from mgic_vision.layers import Permute

#: What a block is made of; raises :class:`NotConvertible` if it cannot be a cycle.
Split = Callable[[Any], Parts]
#: How the user splits blocks of a class of theirs.
Splits = Mapping[type[Any], Split]  # not Module: the keys of a mapping are invariant
RESIDUAL = "act(x + f(x))"
NO_SHORTCUT = f"changes width or resolution, or has no shortcut; known is {RESIDUAL}"


def find_blocks(model: nn.Module, splits: Splits) -> dict[str, Split]:
    """The outermost modules that are blocks, convertible or not, in order.

    Args:
        model: The network; ``""`` is itself.
        splits: Classes that are blocks, whatever they compute.

    Returns:
        By name, how a copy of the block is split: by the graph that it was found by.
    """
    shadow, found = without_hooks(model), dict[str, Split]()
    _find(shadow, "", splits, found, set())
    modules = dict(shadow.named_modules())
    kinds = {type(modules[name]) for name, split in found.items() if not isinstance(split, Refusal)}
    for name, module in modules.items():  # others of their kind, which have no shortcut
        inside = any(not outer or f"{name}.".startswith(f"{outer}.") for outer in found)
        around = any(outer.startswith(f"{name}.") for outer in found)
        if type(module) in kinds and not (inside or around):
            found[name] = Refusal(NO_SHORTCUT)
    return {name: found[name] for name in modules if name in found}


def _find(
    module: nn.Module, name: str, splits: Splits, found: dict[str, Split], seen: set[nn.Module]
) -> bool:
    """Add the blocks in a module, or itself; whether one fits."""
    if module in seen:
        return False
    seen.add(module)
    if type(module) in splits:
        found[name] = splits[type(module)]
        return True
    reason = ""
    try:
        split = split_traced(module)
        if split is not None:
            found[name] = split
            return True
    except NotConvertible as error:
        reason = str(error)
    inside = dict[str, Split]()
    for child, part in module.named_children():
        _find(part, f"{name}.{child}".lstrip("."), splits, inside, seen)
    fits = not all(isinstance(split, Refusal) for split in inside.values())
    found |= {name: Refusal(reason)} if reason and not fits else inside
    return fits


def nearest(model: nn.Module) -> str:
    """What comes nearest to a block in a network without any, and what it lacks."""
    inner = dict[type[nn.Module], tuple[str, nn.Module]]()
    count = Counter[type[nn.Module]]()
    for name, module in without_hooks(model).named_modules():
        if may_be_block(module) and not type(module).__module__.startswith("torch.nn"):
            inner.setdefault(type(module), (name, module))
            count[type(module)] += 1
    known = f"known are {RESIDUAL} and maps to a wider layer and back"
    if not count:
        return known
    name, module = inner[count.most_common(1)[0][0]]
    place = f"{type(module).__name__} ({name or 'the model itself'})"
    return f"{known}; nearest is {place}, in which {_what_is_missing(module)}"


def _what_is_missing(module: nn.Module) -> str:
    graph = trace(module)
    if graph is None:
        return "the course depends on values"
    end = the_output(graph)
    if the_input(graph) is None or end is None:
        return "there is more than one input or output"
    while len(end.all_input_nodes) == 1:
        (end,) = end.all_input_nodes
    if not end.all_input_nodes:
        return "x is not added"
    return f"`{name_of(end)}` is in the place of the sum"


@dataclass(frozen=True)
class Refusal:
    """Leaves a block."""

    reason: str

    def __call__(self, block: nn.Module) -> Parts:
        """Raise the reason."""
        raise NotConvertible(self.reason)


@dataclass(frozen=True)
class Traced:
    """Splits copies of a block by the graph that the block was found by."""

    graph: fx.Graph

    def __call__(self, block: nn.Module) -> Parts:
        """Split one of them."""
        parts = read(block, self.graph)
        assert parts is not None  # of the block it was not
        return parts


def split_traced(block: nn.Module) -> Split | None:
    """How copies of a block are split; ``None`` if it is none.

    Raises:
        NotConvertible: If it is one that cannot be a cycle.
    """
    if not may_be_block(block) or is_shell(block):
        return None
    graph = trace(block)
    return None if graph is None or read(block, graph) is None else Traced(graph)


def may_be_block(module: nn.Module) -> bool:
    """Whether a module has parts, maps among them, and calls them itself."""
    if not list(module.children()) or isinstance(module, nn.ModuleList | nn.ModuleDict):
        return False
    return any(isinstance(m, nn.Conv2d | nn.Linear) or as_linear(m) for m in module.modules())


def read(block: nn.Module, graph: fx.Graph) -> Parts | None:
    """Parts of a block, by its graph; ``None`` if it is none.

    Raises:
        NotConvertible: If it is one that cannot be a cycle.
    """
    start, end = the_input(graph), the_output(graph)
    if start is None or end is None:
        return None
    return _residual(block, start, end) or _feed_forward(block, graph, start)


def _residual(block: nn.Module, start: fx.Node, end: fx.Node) -> Parts | None:
    """``act(shortcut(x) + after(branch(x)))``."""
    total, last = end, list[fx.Node]()
    while not is_call(total, ADDITIONS):
        if len(total.all_input_nodes) != 1 or total.op not in ("call_module", *CALLS):
            return None
        last.insert(0, total)
        (total,) = total.all_input_nodes
    added = summands(total)
    shortcuts = [node for node in added if _is_shortcut(node, start, block)]
    others = [node for node in added if node not in shortcuts]
    if len(added) > 1 and not shortcuts:
        _check_shortcut(block, start, others)
    if len(shortcuts) != 1 or not others:
        return None
    act = sequence(*_modules(last, block))
    branch, after = _take_off_after(_path(block, start, others))
    is_image = any(isinstance(m, nn.Conv2d) for m in branch.modules())
    shortcut = _modules(chain_between(shortcuts[0], start), block)
    parts = Parts(branch, after=after, act=act, is_image=is_image, shortcut=sequence(*shortcut))
    branch_widths(parts.branch)
    return parts


def _is_shortcut(node: fx.Node, start: fx.Node, block: nn.Module) -> bool:
    """Whether a node is the input, or a norm of it, as in MobileOne."""
    while node is not start:
        if node.op != "call_module" or len(node.all_input_nodes) != 1:
            return False
        module = block.get_submodule(str(node.target))
        if not (isinstance(module, _BatchNorm) or is_silent(module)):
            return False
        (node,) = node.all_input_nodes
    return True


def _path(block: nn.Module, start: fx.Node, ends: list[fx.Node]) -> list[nn.Module]:
    """What gives the sum of ``ends``, in order: what branches inside is one module."""
    tail = list[fx.Node]()
    while len(ends) == 1 and ends[0] is not start:
        (end,) = ends
        if not _follows(end, start):
            break
        tail.insert(0, end)
        ends = [node for node in end.all_input_nodes if node in reached_from(start)]
    whole = [] if ends == [start] else [subgraph(start, ends, block)]
    return [*whole, *_modules(tail, block)]


def _follows(node: fx.Node, start: fx.Node) -> bool:
    """Whether a node works on one result, of which nothing else is made."""
    before = [other for other in node.all_input_nodes if other in reached_from(start)]
    return len(before) == 1 and (before[0] is start or len(before[0].users) == 1)


def _modules(chain: list[fx.Node], block: nn.Module) -> list[nn.Module]:
    modules = [m for node in chain if (m := as_module(node, block)) is not None]
    return [part for module in modules for part in taken_apart(module)]


CALLS = ("call_function", "call_method")


def _check_shortcut(block: nn.Module, start: fx.Node, added: list[fx.Node]) -> None:
    """Say why a block with something on its shortcut is left.

    Raises:
        NotConvertible: If all that is added up begins at the input.
    """
    for node in added:
        try:
            chain_between(node, start)
        except NotConvertible:
            return  # the end of something larger
    shrinks = any(isinstance(m, nn.Conv2d) and max(m.stride) > 1 for m in block.modules())
    stays = not shrinks and not _changes_width(block)
    require(stays, "changes width or resolution", known=f"{RESIDUAL}, x as it is")
    require(False, f"adds {len(added)} branches of x, and not x itself", known=RESIDUAL)


def _changes_width(block: nn.Module) -> bool:
    return any(
        isinstance(m, nn.Conv2d) and m.groups == 1 and m.in_channels != m.out_channels
        for m in block.modules()
    )


def _take_off_after(modules: list[nn.Module]) -> tuple[nn.Sequential, nn.Sequential]:
    """Divide a chain into what maps and what scales or drops the result of that."""
    branch, after, order = list(modules), list[nn.Module](), list[nn.Module]()
    while branch:
        module = branch[-1]
        if isinstance(module, Permute) and not order:
            order.append(branch.pop())
        elif is_scale(module) and not order:
            after.insert(0, branch.pop())
        elif is_scale(module) and next(module.parameters()).dim() == 1:
            after.insert(0, _as_image_scale(branch.pop()))
        elif is_silent(module):
            after.insert(0, branch.pop())
        else:
            break
    return sequence(*branch, *order), sequence(*after)


def _as_image_scale(scale: nn.Module) -> nn.Module:
    """The same numbers for images, whose channels are in front of height and width."""
    (numbers,) = scale.parameters()
    value = numbers.detach().clone().reshape(-1, 1, 1)
    return ChannelScale(nn.Parameter(value, numbers.requires_grad))


def _feed_forward(block: nn.Module, graph: fx.Graph, start: fx.Node) -> Parts | None:
    """A map of every place alone, out to a wider layer and back; gates are allowed in between."""
    known = {*ELEMENTWISE, *PRODUCTS, *PERMUTATIONS, *NOTHING, *HALVES}
    calls = list(nodes_between(graph, start))
    if not all(node.op == "call_module" or node.target in known for node in calls):
        return None
    try:
        maps = [
            leaf
            for leaf in leaves(block)
            if isinstance(leaf, nn.Conv2d | nn.Linear) or as_linear(leaf) is not None
        ]
        outer, inner = branch_widths(block)
    except NotConvertible:
        return None
    if inner <= outer or sum(map(_is_dense, maps)) < 2:
        return None
    if not all(_is_dense(leaf) or is_depthwise(leaf) for leaf in maps):
        return None
    is_image = any(isinstance(leaf, nn.Conv2d) for leaf in maps)
    return Parts(block, is_image=is_image, is_residual=False)


def _is_dense(leaf: nn.Module) -> bool:
    return not isinstance(leaf, nn.Conv2d) or (leaf.groups == 1 and leaf.kernel_size == (1, 1))
