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
from mgic_vision.conversion.parts import ChannelScale, is_split_attention
from mgic_vision.conversion.squeeze import PRODUCTS, is_squeeze
from mgic_vision.layers import Permute
from mgic_vision.tracing import Shallow

ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
DIFFERENCES = {operator.sub, operator.isub, torch.sub, "sub", "sub_"}
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
#: What may stand between modules, in words.
OPERATIONS = "sums, products, activations and the order of axes between modules"
ONE_USE = "act(x + f(x)) whose f stands for itself"
#: What makes one number of those of one channel and place.
POINTWISE = {*ADDITIONS, *DIFFERENCES, *PRODUCTS, *PERMUTATIONS, *NOTHING, *ELEMENTWISE}


class Blocks(fx.Tracer):
    """Records modules that are copied as one, and what stands between them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is called as a whole: one with weights of its own, or with none."""
        own = any(True for _ in m.parameters(recurse=False))
        every = any(True for _ in m.parameters())
        outside = super().is_leaf_module(m, module_qualified_name)
        return outside or own or not every or is_squeeze(m) or is_split_attention(m)


def trace(block: nn.Module) -> fx.Graph | None:
    """The graph of a block without hooks; ``None`` where its course depends on values."""
    try:
        graph = Blocks().trace(block)
    except Exception:  # whatever the forward of the user's module does not take
        return None
    for node in graph.nodes:
        if _does_nothing(node, block):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)
    return graph


def _does_nothing(node: fx.Node, block: nn.Module) -> bool:
    """Whether a node is an identity, or the first summand of a loop that starts from zero."""
    if node.op == "call_module":
        return type(block.get_submodule(str(node.target))) is nn.Identity
    return is_call(node, ADDITIONS) and len(node.args) == 2 and 0 in node.args


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


def name_of(node: fx.Node) -> str:
    """What a node calls, as its user wrote it."""
    return getattr(node.target, "__name__", str(node.target))


def _is_half(node: fx.Node) -> bool:
    """Whether a node divides channels in as many parts at any width, or is one of these."""
    if is_call(node, (operator.getitem,)):
        return isinstance(node.args[1], int) and _is_half(node.all_input_nodes[0])
    return is_call(node, (torch.chunk, "chunk"))


def summands(node: fx.Node) -> list[fx.Node]:
    """What a sum adds up, through sums of which nothing else is made."""
    plain = is_call(node, ADDITIONS) and not node.kwargs
    if not (plain and len(node.args) == len(node.all_input_nodes) == 2):
        return [node]
    return [
        found
        for part in node.all_input_nodes
        for found in (summands(part) if len(part.users) == 1 else [part])
    ]


def subgraph(start: fx.Node, ends: list[fx.Node], block: nn.Module) -> fx.GraphModule:
    """The sum of nodes as a module that takes ``start``.

    Raises:
        NotConvertible: If something on the way works on more than every number alone and is none of
            the block's modules, or is used elsewhere, too.
    """
    inside, left = set[fx.Node](), list(ends)
    while left:
        node = left.pop()
        if node is not start and node not in inside:
            inside.add(node)
            left += node.all_input_nodes
    for node in filter(inside.__contains__, start.graph.nodes):  # always for the same reason
        known = node.op == "call_module" or is_call(node, POINTWISE) or _is_half(node)
        require(known, f"does not understand `{name_of(node)}`", known=OPERATIONS)
        alone = node in ends or inside.issuperset(node.users)
        require(alone, f"uses {node.name} in two places", known=ONE_USE)
    graph = fx.Graph()
    copies = {start: graph.placeholder("x")}
    for node in start.graph.nodes:
        if node in inside:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    first, *others = (copies[node] for node in ends)
    for node in others:
        first = graph.call_function(operator.add, (first, node))
    graph.output(first)
    return fx.GraphModule(block, graph, "Branch")


def chain_between(end: fx.Node, start: fx.Node) -> list[fx.Node]:
    """Nodes one after another from ``start``, which is left out, to ``end``.

    Raises:
        NotConvertible: If several ways lead there.
    """
    found, reached = list[fx.Node](), reached_from(start)
    while end is not start:
        before = [node for node in end.all_input_nodes if node in reached]
        require(len(before) == 1, f"several ways lead to {end.name}")
        found.insert(0, end)
        end = before[0]
        alone = end is start or len(end.users) == 1
        require(alone, f"uses {end.name} in two places", known=ONE_USE)
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
        require(len(factors) == 1, f"does not understand `{name_of(node)}`", known=OPERATIONS)
        value = value_of(factors[0], block)
        if value.dim() == 4:
            value = value[0]
        return ChannelScale(nn.Parameter(value.detach().clone(), value.requires_grad))
    raise NotConvertible(f"does not understand `{name_of(node)}`; known is {OPERATIONS}")


def value_of(node: fx.Node, block: nn.Module) -> Tensor:
    """A tensor that is computed from parameters of the block alone."""

    def value(argument: Any) -> Any:
        return value_of(argument, block) if isinstance(argument, fx.Node) else argument

    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        return getattr(block.get_submodule(path), name)
    computed = node.op in ("call_method", "call_function")
    require(computed, f"does not understand `{name_of(node)}`", known=OPERATIONS)
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
