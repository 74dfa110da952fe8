"""What ``torch.fx`` records of modules that look at their inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch import fx, nn

Forward = TypeVar("Forward", bound=Callable[..., Any])


def leaf_of_fx(forward: Forward) -> Forward:
    """Let ``torch.fx`` record calls of a module as a whole, as it does those of PyTorch's own.

    A tracer passes something that has neither shape nor type, which a ``forward`` that asks for
    them cannot take. Tracers of other libraries, such as torchvision's for features, know nothing
    of ours.

    Args:
        forward: Of a module; takes one tensor.

    Example:
        >>> class Flat(nn.Module):
        ...     @leaf_of_fx
        ...     def forward(self, x):
        ...         return x.flatten(1) if x.dim() > 2 else x
        >>> [node.op for node in fx.symbolic_trace(nn.Sequential(Flat())).graph.nodes]
        ['placeholder', 'call_module', 'output']
    """

    @functools.wraps(forward)
    def call(self: nn.Module, x: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, fx.Proxy) and not (args or kwargs):
            path = x.tracer.path_of_module(self)  # type: ignore[attr-defined]  # every Tracer has it
            if path:  # not where it is all that is traced
                return x.tracer.create_proxy("call_module", path, (x,), {})
        return forward(self, x, *args, **kwargs)

    return call  # type: ignore[return-value]


class Shallow(fx.Tracer):
    """Traces the forward of one module and none of its children's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Every module is one."""
        return True
