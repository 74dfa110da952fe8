"""The one way to define an operation: a reference in plain PyTorch, and kernels beside it.

The reference reads like the definition and works everywhere: on every device, in every precision,
under ``torch.func``, while a program is exported. A kernel is faster and says in words where it
does not apply. Nothing outside of operations asks whether a kernel may run; :func:`explain` prints
what ran and why.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils.flop_counter import register_flop_formula

REFERENCE = "reference"
ELSEWHERE = ""
_RECORDED = "gradients are recorded, and it computes none"


@dataclass(frozen=True, eq=False)
class Kernel:
    """A faster implementation of an operation.

    Args:
        name: As :func:`explain` prints it.
        run: Takes the inputs of the operation, returns new tensors and records no gradients.
        why_not: Takes the same; says in words why ``run`` does not apply, ``None`` where it does.
            :data:`ELSEWHERE` where it is for other devices, which is no news. The words hold no
            sizes of inputs: those would be constants of what a compiler makes of the call.
    """

    name: str
    run: Callable[..., Any]
    why_not: Callable[..., str | None]


class Operation:
    """An operation that runs in the first of its kernels that applies, and else as its reference.

    Compilers, dispatch modes and tensor subclasses see a kernel as one operator,
    ``torch.ops.namespace.name``. Where none of these is at work the kernel is called without
    PyTorch's dispatcher, which takes some 30 microseconds to reach an operator written in Python:
    training a network of narrow cycles pays that hundreds of times a step.

    Args:
        name: ``"namespace::name"``, for ``torch.ops``.
        reference: The definition in plain PyTorch, differentiable any number of times. Its
            annotations are the signature of the operator.
        kernels: In order of preference.
        fake: Results for inputs without content: shapes and types.
        setup: ``(ctx, inputs, output)``: keeps what ``backward`` needs.
        backward: ``(ctx, *grads) -> gradients of the inputs``, made of operations. A kernel without
            it does not run where gradients are recorded.
        flops: ``(*shapes) -> int``: operations of a call, for PyTorch's flop counter.
        opaque: The course of the reference depends on values, so that compilers must see it as one
            operator, too.

    Raises:
        ValueError: When called: tensors are on several devices.
        RuntimeError: When called: no kernel applies and ``MGIC_KERNELS=require`` asks for one.

    Example:
        >>> def double(x: Tensor) -> Tensor:
        ...     return 2 * x
        >>> twice = Operation(
        ...     "mgic_example::double",
        ...     double,
        ...     Kernel("sum", lambda x: x + x, lambda x: "x is empty" if not x.numel() else None),
        ...     fake=torch.empty_like,
        ...     setup=lambda ctx, inputs, output: None,
        ...     backward=lambda ctx, grad: twice(grad),
        ... )
        >>> x = torch.ones(1, requires_grad=True)
        >>> torch.autograd.grad(twice(x), x)
        (tensor([2.]),)
        >>> torch.func.grad(lambda x: twice(x).sum())(torch.ones(1))
        tensor([2.])
        >>> print(explain(twice, torch.ones(0)))
        operation             implementation  calls  why no faster one ran
        mgic_example::double  reference           1  sum: x is empty
    """

    def __init__(
        self,
        name: str,
        reference: Callable[..., Any],
        *kernels: Kernel,
        fake: Callable[..., Any],
        setup: Callable[[Any, tuple[Any, ...], Any], None] | None = None,
        backward: Callable[..., Any] | None = None,
        flops: Callable[..., int] | None = None,
        opaque: bool = False,
    ) -> None:
        self.name, self.reference, self.kernels, self.opaque = name, reference, kernels, opaque
        self.names = tuple(inspect.signature(reference).parameters)
        signature = torch.library.infer_schema(reference, mutates_args=())
        self.registered = torch.library.custom_op(name, self.run, mutates_args=(), schema=signature)
        self.registered.register_fake(self._on_one_device(fake))
        self.registered.register_vmap(self._run_batch)
        self.has_backward = backward is not None
        self.recorded = dict[Kernel, Callable[..., Any]]()
        if backward is not None:
            self.registered.register_autograd(backward, setup_context=setup)
            for kernel in kernels:
                self.recorded[kernel] = _differentiable(name, kernel.run, backward, setup)
        if flops is not None:
            find = attrgetter(name.replace("::", "."))
            register_flop_formula(find(torch.ops))(flops)

    def __call__(self, *inputs: Any) -> Any:
        """Compute."""
        transformed = is_transformed()
        if not self.opaque and (transformed or is_exporting()):
            why = "a torch.func transform" if transformed else "an exporter"
            return self._fall_back(inputs, f"{why} needs plain PyTorch")
        if transformed:
            return self.registered(*inputs)
        recorded = _is_recorded(inputs)
        kernel, reason = self._choose(inputs, recorded)
        if kernel is None and not self.opaque:
            return self._fall_back(inputs, reason)
        if is_observed(inputs):
            return self.registered(*inputs)
        if kernel is None:
            return self._fall_back(inputs, reason)
        self._check_devices(inputs)
        note(self.name, kernel.name, reason)
        return (self.recorded[kernel] if recorded and self.has_backward else kernel.run)(*inputs)

    def run_first(self, *inputs: Any) -> Any:
        """Run the first kernel, for who knows that it applies and that nothing records the call."""
        if is_in_torch_dispatch_mode():
            return self.registered(*inputs)
        note(self.name, self.kernels[0].name, None)
        return self.kernels[0].run(*inputs)

    def why_not(self, *inputs: Any) -> str | None:
        """Why no kernel would run for these inputs, in words; ``None`` where one would."""
        return self._choose(inputs, _is_recorded(inputs))[1]

    def _choose(self, inputs: Sequence[Any], recorded: bool) -> tuple[Kernel | None, str | None]:
        """The kernel to run, and why those in front of it do not."""
        reasons = []
        for kernel in self.kernels:
            reason = kernel.why_not(*inputs)
            if reason is None and recorded and not (self.has_backward or self.opaque):
                reason = _RECORDED
            if reason is None:
                return kernel, "; ".join(reasons) or None
            if reason != ELSEWHERE:
                reasons.append(f"{kernel.name}: {reason}")
        return None, "; ".join(reasons)

    def _fall_back(self, inputs: Sequence[Any], reason: str | None) -> Any:
        if self.kernels and _are_kernels_required():
            raise RuntimeError(
                f"MGIC_KERNELS=require, but no kernel of {self.name} applies: {reason}"
            )
        self._check_devices(inputs)
        note(self.name, REFERENCE, reason)
        return self.reference(*inputs)

    def run(self, *inputs: Any) -> Any:
        """What the registered operator computes, without gradients."""
        kernel, reason = self._choose(inputs, False)
        note(self.name, REFERENCE if kernel is None else kernel.name, reason)
        return (self.reference if kernel is None else kernel.run)(*inputs)

    def _run_batch(self, info: Any, dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        """One call for each entry of a batch of ``torch.func.vmap``."""
        results = [
            self.registered(
                *(x if d is None else x.select(d, i) for x, d in zip(inputs, dims, strict=True))
            )
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = [torch.stack(parts) for parts in zip(*results, strict=True)]
        return type(results[0])(stacked), type(results[0])([0] * len(stacked))

    def _check_devices(self, inputs: Sequence[Any]) -> None:
        first = None
        for x in inputs:
            if not isinstance(x, Tensor):
                continue
            if first is None:
                first = x.device
            elif x.device != first:
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
    run: Callable[..., Any],
    backward: Callable[..., Any],
    setup: Callable[[Any, tuple[Any, ...], Any], None] | None,
) -> Callable[..., Any]:
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = run(*inputs)
        if setup is not None:
            setup(ctx, inputs, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name.rpartition(":")[2], (torch.autograd.Function,), methods).apply


@torch.compiler.assume_constant_result
def _are_kernels_required() -> bool:
    return os.environ.get("MGIC_KERNELS") == "require"


def gradients_of(
    reference: Callable[..., Tensor], inputs: Sequence[Tensor | None], grad: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of a reference, the reference of an operation that computes them.

    Args:
        reference: Of the inputs.
        inputs: Tensors; ``None`` for one that is not there.
        grad: Of the reference's result.

    Returns:
        One for each input that is there, differentiable where gradients are recorded.

    Example:
        >>> gradients_of(torch.mul, (torch.tensor([3.0]), torch.tensor([2.0])), torch.ones(1))
        (tensor([2.]), tensor([3.]))
    """
    record = _is_recorded((*inputs, grad))
    with torch.enable_grad():
        inputs = [
            x if x is None or (record and x.requires_grad) else x.detach().requires_grad_()
            for x in inputs
        ]
        there = [x for x in inputs if x is not None]
        return torch.autograd.grad(reference(*inputs), there, grad, create_graph=record)


def _is_recorded(inputs: Sequence[Any]) -> bool:
    """Whether gradients are recorded; a compiler derives backward passes by itself."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return any(isinstance(x, Tensor) and x.requires_grad for x in inputs)


_PLAIN = frozenset((Tensor, nn.Parameter, type(None), bool, int, float, str, list))


def is_observed(inputs: Sequence[Any]) -> bool:
    """Whether a mode, a compiler or a tensor subclass wants to see the operator."""
    return is_traced() or is_in_torch_dispatch_mode() or not _PLAIN.issuperset(map(type, inputs))


def is_traced() -> bool:
    """Whether operations are recorded rather than run: no value is known yet.

    Example:
        >>> is_traced()
        False
    """
    return torch.compiler.is_compiling() or is_tracing()


def is_exporting() -> bool:
    """Whether a program is written in PyTorch's own operators only."""
    return torch.compiler.is_exporting() or (is_tracing() and torch.onnx.is_in_onnx_export())


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation is at work.

    Example:
        >>> is_transformed(), torch.func.vmap(lambda x: x + is_transformed())(torch.zeros(1))
        (False, tensor([1.]))
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def hooks_of(module: nn.Module) -> tuple[dict[int, Callable[..., Any]], ...]:
    """Tables of the hooks that see what goes through a module."""
    return (
        *(module._forward_hooks, module._forward_pre_hooks),
        *(module._backward_hooks, module._backward_pre_hooks),
    )


def is_hooked(*modules: nn.Module | None) -> bool:
    """Whether a hook, or a ``forward`` of its own, wants to see what goes through a module.

    Hooks on the modules of all networks do not count: ``FlopCounterMode`` has some, and is to count
    what runs without it.
    """
    return any(
        module is not None and (any(hooks_of(module)) or has_own_forward(module))
        for module in modules
    )


def has_own_forward(module: nn.Module) -> bool:
    """Whether another ``forward`` was put in the place of its class's, as accelerate does.

    Example:
        >>> module = nn.ReLU()
        >>> module.forward = lambda x: x
        >>> has_own_forward(module), has_own_forward(nn.ReLU())
        (True, False)
    """
    return "forward" in vars(module)


def computes_as(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module computes what one of these classes does; a subclass may do otherwise.

    Example:
        >>> class Doubled(nn.Linear):
        ...     def forward(self, x):
        ...         return 2 * super().forward(x)
        >>> [computes_as(kind(1, 1), nn.Linear) for kind in (nn.Linear, Doubled)]
        [True, False]
    """
    return type(module).forward in [k.forward for k in kinds] and not has_own_forward(module)


def may_skip(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a kernel may compute what a module of one of these classes does, without its call.

    Example:
        >>> may_skip(nn.Linear(1, 1), nn.Linear), may_skip(nn.Linear(1, 1), nn.ReLU)
        (True, False)
    """
    return computes_as(module, *kinds) and not any(hooks_of(module))


def check_values(**tensors: Tensor | None) -> None:
    """Raise where what a result depends on is not there.

    Raises:
        ValueError: A tensor is on the meta device, outside of a compiler or exporter.
    """
    for name, tensor in tensors.items():
        if tensor is not None and type(tensor) in _PLAIN and tensor.is_meta and not is_traced():
            raise ValueError(f"{name} must have values, got a tensor on meta")


_notes: ContextVar[Counter[tuple[str, str, str]] | None] = ContextVar("notes", default=None)


def note(operation: str, implementation: str, reason: str | None) -> None:
    """Tell :func:`explain` what ran, and why nothing faster did."""
    counts = None if torch.compiler.is_compiling() else _notes.get()
    if counts is not None:
        counts[operation, implementation, reason or ""] += 1


@contextmanager
def noting() -> Iterator[Counter[tuple[str, str, str]]]:
    """Count operations, implementations and reasons meanwhile."""
    counts: Counter[tuple[str, str, str]] = Counter()
    token = _notes.set(counts)
    try:
        yield counts
    finally:
        _notes.reset(token)


@dataclass(frozen=True)
class Explanation:
    """What ran in one call; prints as a table.

    Args:
        calls: Number of calls by operation, implementation and reason.
    """

    calls: Counter[tuple[str, str, str]]

    def __str__(self) -> str:
        """One row for each operation, implementation and reason, in the order of first calls."""
        head = ("operation", "implementation", "calls", "why no faster one ran")
        rows = [(name, ran, str(n), reason) for (name, ran, reason), n in self.calls.items()]
        wide = [max(len(row[column]) for row in (head, *rows)) for column in range(3)]
        return "\n".join(
            f"{name:<{wide[0]}}  {ran:<{wide[1]}}  {count:>{wide[2]}}  {reason}".rstrip()
            for name, ran, count, reason in (head, *rows)
        )


def explain(model: Callable[..., Any], *inputs: Any, **kwargs: Any) -> Explanation:
    """Say which implementation of every operation one call of a network runs, and why.

    Args:
        model: Called once, as it is: in its mode, recording gradients where they are.
        *inputs: Passed to the model.
        **kwargs: Passed to the model.

    Example:
        >>> from mgic_geo import GroupedLinear
        >>> layer = GroupedLinear(8, 8, groups=2).double()
        >>> print(explain(layer, torch.ones(3, 8).double()))
        operation             implementation  calls  why no faster one ran
        mgic::grouped_linear  reference           1  compiled: x is torch.float64, not float32
    """
    with noting() as counts:
        model(*inputs, **kwargs)
    return Explanation(counts)
