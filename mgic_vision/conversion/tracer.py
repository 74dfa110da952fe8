"""The graph of a block: which modules and functions its input goes through."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from mgic_geo.conversion import NotConvertible, require
from mgic_vision.conversion.parts import ChannelScale, is_squeeze
from mgic_vision.layers import Permute
from mgic_vision.tracing import Shallow

ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
PERMUTATIONS = {torch.permute, "permute"}
HALVES = {torch.chunk, "chunk", operator.getitem}
NOTHING = {"contiguous", "clone"}
#: Functions that work on every number alone, as modules.
ELEMENTWISE: dict[Any, Callable[[], nn.Module]] = {
    **dict.fromkeys((functional.relu, torch.relu, "relu", "relu_"), nn.ReLU),
    **dict.fromkeys((functional.relu6,), nn.ReLU6),
    **dict.fromkeys((functional.gelu,), nn.GELU),
    **dict.fromkeys((functional.silu,), nn.SiLU),
    **dict.fromkeys((functional.hardswish,), nn.Hardswish),
    **dict.fromkeys((torch.sigmoid, functional.sigmoid, "sigmoid"), nn.Sigmoid),
    **dict.fromkeys((torch.tanh, functional.tanh, "tanh"), nn.Tanh),
}


class Blocks(fx.Tracer):
    """Records modules that are copied as one, and what stands between them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is called as a whole: one with weights of its own, or with none."""
        own = any(True for _ in m.parameters(recurse=False))
        every = any(True for _ in m.parameters())
        outside = super().is_leaf_module(m, module_qualified_name)
        return outside or own or not every or is_squeeze(m)


def trace(block: nn.Module) -> fx.Graph | None:
    """The graph of a block without hooks; ``None`` where its course depends on values."""
    try:
        graph = Blocks().trace(block)
    except Exception:  # whatever the forward of the user's module does not take
        return None
    for node in graph.find_nodes(op="call_module"):
        if type(block.get_submodule(str(node.target))) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return graph


def the_input(graph: fx.Graph) -> fx.Node | None:
    """The only argument of a block that is used."""
    used = [node for node in graph.nodes if node.op == "placeholder" and node.users]
    return used[0] if len(used) == 1 else None


def the_output(graph: fx.Graph) -> fx.Node | None:
    """What a block returns, if that is one tensor."""
    (node,) = (node for node in graph.nodes if node.op == "output")
    return node.args[0] if isinstance(node.args[0], fx.Node) else None


def is_call(node: fx.Node, of: Any) -> bool:
    """Whether a node calls one of the functions or methods."""
    return node.op in ("call_function", "call_method") and node.target in of


def reached_from(*starts: fx.Node) -> set[fx.Node]:
    """The nodes that are computed from these, and themselves."""
    found, left = set(starts), list(starts)
    while left:
        new = [user for user in left.pop().users if user not in found]
        found |= set(new)
        left += new
    return found


def chain_between(end: fx.Node, start: fx.Node) -> list[fx.Node]:
    """Nodes one after another from ``start``, which is left out, to ``end``.

    Raises:
        NotConvertible: If several ways lead there.
    """
    found, reached = list[fx.Node](), reached_from(start)
    while end is not start:
        before = [node for node in end.all_input_nodes if node in reached]
        require(len(before) == 1, f"is no chain of modules: several ways lead to {end.name}")
        found.insert(0, end)
        end = before[0]
        alone = end is start or len(end.users) == 1
        require(alone, f"is no chain of modules: {end.name} is used twice")
    return found


def as_module(node: fx.Node, block: nn.Module) -> nn.Module | None:
    """A node of a chain as a module: the block's own, or a new one for a function.

    Returns:
        ``None`` where it does nothing.

    Raises:
        NotConvertible: If it is not understood.
    """
    if node.op == "call_module":
        return block.get_submodule(str(node.target))
    if is_call(node, ELEMENTWISE):
        return ELEMENTWISE[node.target]()
    if is_call(node, PERMUTATIONS):
        order: Any = node.args[1] if isinstance(node.args[1], tuple) else node.args[1:]
        return Permute(*order)
    if is_call(node, NOTHING):
        return None
    if is_call(node, PRODUCTS):
        factors = _without_input(node)
        require(len(factors) == 1, f"does not understand {node.name}")
        value = value_of(factors[0], block)
        if value.dim() == 4:
            value = value[0]
        return ChannelScale(nn.Parameter(value.detach().clone(), value.requires_grad))
    raise NotConvertible(f"does not understand {node.name}")


def value_of(node: fx.Node, block: nn.Module) -> Tensor:
    """A tensor that is computed from parameters of the block alone."""

    def value(argument: Any) -> Any:
        return value_of(argument, block) if isinstance(argument, fx.Node) else argument

    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        return getattr(block.get_submodule(path), name)
    require(node.op in ("call_method", "call_function"), f"does not understand {node.name}")
    arguments = [value(argument) for argument in node.args]
    if node.op == "call_method":
        return getattr(arguments[0], str(node.target))(*arguments[1:], **node.kwargs)
    return cast(Callable[..., Any], node.target)(*arguments, **node.kwargs)


def is_silent(module: nn.Module) -> bool:
    """Whether a module gives what it gets in evaluation, as those that drop at random do."""
    if any(True for _ in module.parameters()):
        return False
    x = torch.linspace(-9, 9, 10, device="cpu").view(1, 1, 2, 5)
    try:
        return torch.equal(copy.deepcopy(module).eval()(x), x)
    except Exception:  # it takes something else
        return False


def is_scale(module: nn.Module) -> bool:
    """Whether a module multiplies every channel by a number of its own, as layer scale does."""
    if isinstance(module, ChannelScale):
        return True
    if _is_torchs(module) or len(list(module.parameters())) != 1:
        return False
    graph = trace(module)
    output = None if graph is None else the_output(graph)
    if output is None or not is_call(output, PRODUCTS):
        return False
    return len(_without_input(output)) == 1 and len(output.all_input_nodes) == 2


def is_shell(module: nn.Module) -> bool:
    """Whether a module does nothing but call one other: a block is that one."""
    try:
        calls = [node for node in Shallow().trace(module).nodes if node.op.startswith("call")]
    except Exception:  # as in `trace`
        return False
    return len(calls) == 1 and calls[0].op == "call_module"


def nodes_between(graph: fx.Graph, start: fx.Node) -> Iterator[fx.Node]:
    """All calls that depend on an input."""
    reached = reached_from(start)
    return (node for node in graph.nodes if node.op.startswith("call") and node in reached)


def _without_input(node: fx.Node) -> list[fx.Node]:
    """What a node takes that is computed from parameters alone."""
    reached = reached_from(*node.graph.find_nodes(op="placeholder"))
    return [other for other in node.all_input_nodes if other not in reached]


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn")
