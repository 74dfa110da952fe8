"""Operators of our own: what PyTorch has to know of them, and what their backward passes share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing
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
        self.names = tuple(inspect.signature(kernel).parameters)
        self.registered = torch.library.custom_op(name, kernel, mutates_args=())
        self.registered.register_fake(self._on_one_device(fake))
        self.direct = kernel
        if backward is not None:
            self.registered.register_autograd(backward, setup_context=setup)
            self.direct = _differentiable(name, kernel, backward, setup)

    def __call__(self, *inputs: Any) -> Any:
        """Compute."""
        if is_observed(inputs):
            return self.registered(*inputs)
        return self.registered(*inputs) if self._check_devices(inputs) else self.direct(*inputs)

    def _check_devices(self, inputs: Sequence[Any]) -> bool:
        """Whether the tensors have no content.

        Raises:
            ValueError: They are on several devices.
        """
        first = None
        for x in inputs:
            if isinstance(x, Tensor):
                if first is None:
                    first = x.device
                elif x.device != first:
                    break
        else:
            return first is not None and first.type == "meta"
        found = ", ".join(
            f"{name} on {x.device}"
            for name, x in zip(self.names, inputs, strict=False)
            if isinstance(x, Tensor)
        )
        raise ValueError(f"all tensors must be on one device, got {found}")

    def _on_one_device(self, fake: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fake)
        def checked(*inputs: Any) -> Any:
            self._check_devices(inputs)
            return fake(*inputs)

        return checked


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
    return is_traced() or is_in_torch_dispatch_mode() or not _PLAIN.issuperset(map(type, inputs))


def is_traced() -> bool:
    """Whether operations are recorded rather than run: no value is known yet.

    Example:
        >>> is_traced()
        False
    """
    return torch.compiler.is_compiling() or is_tracing()


def is_exporting() -> bool:
    """Whether a file is being written that knows PyTorch's own operators only."""
    return torch.compiler.is_exporting() or (is_tracing() and torch.onnx.is_in_onnx_export())


def check_values(**tensors: Tensor | None) -> None:
    """Raise where what a result depends on is not there.

    Raises:
        ValueError: A tensor is on the meta device, outside of a compiler or exporter.
    """
    for name, tensor in tensors.items():
        if tensor is not None and type(tensor) in _PLAIN and tensor.is_meta and not is_traced():
            raise ValueError(f"{name} must have values, got a tensor on meta")


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
