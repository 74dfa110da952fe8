"""Attention over channels, recognized by what it computes."""

from __future__ import annotations

import operator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from mgic_geo.levels import Correction
from mgic_vision.conversion.parts import PartsAttention

PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
MEANS = {torch.mean, torch.amax, "mean", "amax"}
POOLS = {functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d}
#: What tells of a tensor without its values.
SHAPES = {getattr, "size", "dim", "new_zeros", "new_ones"}
PLACES = ({2, 3}, {-2, -1})

_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def is_squeeze(module: nn.Module) -> bool:
    """Whether this is attention over channels: ``x * g(pool(x))``, a factor a channel.

    Example:
        >>> class Squeeze(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.gate = nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1))
        ...     def forward(self, x):
        ...         return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        >>> is_squeeze(Squeeze()), is_squeeze(Squeeze().gate)
        (True, False)
    """
    if module not in _known:
        _known[module] = isinstance(module, PartsAttention) or _scales_by_pooled(module)
    return _known[module]


def _scales_by_pooled(module: nn.Module) -> bool:
    other = isinstance(module, _BatchNorm | Correction)  # need not be traced, which takes long
    own = not (other or type(module).__module__.startswith("torch.nn."))
    wide = any(isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1 for m in module.modules())
    if not own or wide or not (list(module.children()) and list(module.parameters())):
        return False
    try:
        graph = fx.Tracer().trace(module)
    except Exception:  # whatever the forward of the user's module does not take
        return False
    used = [node for node in graph.find_nodes(op="placeholder") if node.users]
    product: Any = next(iter(graph.find_nodes(op="output"))).args[0]
    if len(used) != 1 or not isinstance(product, fx.Node) or product.target not in PRODUCTS:
        return False
    factors = [node for node in product.args if isinstance(node, fx.Node) and node is not used[0]]
    return len(factors) == 1 == product.args.count(used[0]) and _is_pooled(factors[0], module)


def _is_pooled(factor: fx.Node, module: nn.Module) -> bool:
    """Whether the input reaches a factor by way of pools alone, and at all."""
    seen, left, pooled = set[fx.Node](), [factor], False
    node: Any
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        if _pools(node, module):
            pooled = True
        elif node.op == "placeholder":
            return False
        elif node.target == "expand_as":
            left.append(node.args[0])
        elif node.target not in SHAPES:
            left += node.all_input_nodes
    return pooled


def _pools(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node takes the mean or the maximum over height and width."""
    if node.op == "call_module":
        pool: Any = module.get_submodule(str(node.target))
        adaptive = isinstance(pool, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
        return adaptive and pool.output_size in (1, (1, 1))
    asked = dict(zip(("input", "where"), node.args, strict=False)) | node.kwargs
    if node.target in POOLS:
        return asked.get("where", asked.get("output_size")) in (1, (1, 1))
    where = asked.get("where", asked.get("dim"))
    return node.target in MEANS and isinstance(where, tuple | list) and set(where) in PLACES
