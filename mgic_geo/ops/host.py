"""When the host may read a value: what is free on a processor makes it wait for another device.

A step of training queues its operations on a GPU without waiting for any. A single look at a value,
``int(batch.max())`` say, makes the host wait until all of them are done, and cannot be recorded in
a CUDA graph. So implementations whose course depends on values run where values are readable, and
checks of values run on the device, where they raise later, as those of PyTorch's own indexing do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_batchedtensor, is_gradtrackingtensor

_as_device: ContextVar[bool] = ContextVar("as_device", default=False)


def is_readable(x: Tensor) -> bool:
    """Whether the host reads values of ``x`` without waiting for a device.

    Example:
        >>> is_readable(torch.ones(1)), is_readable(torch.ones(1, device="meta"))
        (True, False)
        >>> torch.vmap(lambda x: x + is_readable(x))(torch.zeros(2))  # of many at once
        tensor([0., 0.])
    """
    return x.is_cpu and not is_as_on_device() and not _is_batched(x)


def _is_batched(x: Tensor) -> bool:
    if not torch._C._are_functorch_transforms_active():
        return False
    while is_gradtrackingtensor(x):
        x = get_unwrapped(x)
    return is_batchedtensor(x)


def is_as_on_device() -> bool:
    """Whether :func:`as_on_device` is at work, of which compilers do not know."""
    return not torch.compiler.is_compiling() and _as_device.get()


def why_not_on_host(x: Tensor) -> str | None:
    """Why an implementation whose course depends on values does not run, in words."""
    return None if is_readable(x) else f"reading a value on {x.device} waits"


@contextmanager
def as_on_device() -> Iterator[None]:
    """Treat tensors on a processor as if they were on another device.

    What a GPU would run can be counted and tested with it where there is none.

    Example:
        >>> with as_on_device():
        ...     is_readable(torch.ones(1))
        False
    """
    token = _as_device.set(True)
    try:
        yield
    finally:
        _as_device.reset(token)


def check(valid: Tensor, message: Callable[[], str], on_device: str) -> None:
    """Raise where a condition does not hold: at once on a processor, elsewhere when it is known.

    Args:
        valid: The condition.
        message: What is wrong, with the values found; asked for on a processor only.
        on_device: The same without values. A GPU prints it and ends the computation, as it does
            for an index that is out of range.

    Shape:
        - ``valid``: ``()``, bool.

    Raises:
        ValueError: It does not hold, on a processor.

    Example:
        >>> check(torch.tensor(True), lambda: "never", "never")
    """
    if not is_readable(valid):
        torch.ops.aten._assert_async.msg(valid, on_device)
    elif not valid:
        raise ValueError(message())
