"""Operators of our own: what PyTorch has to know of them, and what their backward passes share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


class Operator:
    """An operator that compilers, exporters, modes and tensor subclasses see as one.

    Where none of these looks on, it is called past PyTorch's dispatcher, whose way to an operator
    written in Python takes some 30 microseconds. Training a network of narrow cycles pays that
    hundreds of times a step.

    Args:
        name: ``"namespace::name"``, for ``torch.ops``.
        kernel: What it computes; its annotations are the operator's signature, and its results are
            new tensors.
        fake: The same for tensors without content: shapes and types.
        backward: ``(ctx, *grads) -> gradients of the inputs``; ``None`` for an operator that is
            only called where no gradients are recorded.
        setup: ``(ctx, inputs, output)``, keeps what ``backward`` needs.

    Example:
        >>> def double(x: Tensor) -> Tensor:
        ...     return 2 * x
        >>> twice = Operator(
        ...     "mgic_example::double",
        ...     double,
        ...     torch.empty_like,
        ...     backward=lambda ctx, grad: twice(grad),
        ...     setup=lambda ctx, inputs, output: None,
        ... )
        >>> x = torch.ones(1, requires_grad=True)
        >>> torch.autograd.grad(twice(x), x)
        (tensor([2.]),)
    """

    def __init__(
        self,
        name: str,
        kernel: Callable[..., Any],
        fake: Callable[..., Any],
        *,
        backward: Callable[..., Any] | None = None,
        setup: Callable[[Any, tuple[Any, ...], Any], None] | None = None,
    ) -> None:
        self.registered = torch.library.custom_op(name, kernel, mutates_args=())
        self.registered.register_fake(fake)
        self.direct = kernel
        if backward is not None:
            self.registered.register_autograd(backward, setup_context=setup)
            self.direct = _differentiable(name, kernel, backward, setup)

    def __call__(self, *inputs: Any) -> Any:
        """Compute."""
        return self.registered(*inputs) if is_observed(inputs) else self.direct(*inputs)


def _differentiable(
    name: str,
    kernel: Callable[..., Any],
    backward: Callable[..., Any],
    setup: Callable[[Any, tuple[Any, ...], Any], None] | None,
) -> Callable[..., Any]:
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = kernel(*inputs)
        if setup is not None:
            setup(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name.rpartition(":")[2], (torch.autograd.Function,), methods).apply


_PLAIN = frozenset((Tensor, nn.Parameter, type(None), bool, int, float, str))


def is_observed(inputs: tuple[Any, ...]) -> bool:
    """Whether somebody wants to see the operator rather than have its result."""
    return (
        torch.compiler.is_compiling()
        or is_in_torch_dispatch_mode()
        or not _PLAIN.issuperset(map(type, inputs))
    )


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation is at work, which an operator stops.

    Example:
        >>> is_transformed(), torch.func.vmap(lambda x: x + is_transformed())(torch.zeros(1))
        (False, tensor([1.]))
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def differentiable_gradients(
    y: Tensor, inputs: Sequence[Tensor | None], grad: Tensor
) -> list[Tensor | None]:
    """Gradients that can be differentiated again; ``None`` for inputs that need none.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> differentiable_gradients(x**2, (x, None), torch.ones(1))
        [tensor([6.], grad_fn=<MulBackward0>), None]
    """
    needing = [x for x in inputs if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(y, needing, grad, create_graph=True))
    return [next(found) if x is not None and x.requires_grad else None for x in inputs]
