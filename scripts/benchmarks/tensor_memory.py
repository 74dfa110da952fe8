"""Bytes of the tensors that a run keeps alive, counted as they come and go.

Works on any device, and on ``meta``, where nothing is computed. Scratch memory inside a convolution
is no tensor and is not seen.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class MemoryCounter(TorchDispatchMode):
    """Follows the storage of every tensor made inside; what was there before does not count.

    Example:
        >>> with MemoryCounter() as memory:
        ...     x = torch.ones(1000)
        ...     for _ in range(3):
        ...         x = x + 1
        >>> memory.live, memory.peak
        (4000, 8000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and take note of the storages of what it returns."""
        # views share the storage of an input, operations in place return it
        before = {s._cdata for s in map(_storage, tree_iter((args, kwargs))) if s is not None}
        result = func(*args, **(kwargs or {}))
        for storage in map(_storage, tree_iter(result)):
            if storage is None or storage._cdata in before or storage._cdata in self._known:
                continue
            self._known.add(storage._cdata)
            self.live += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _forget(self, storage: int, num_bytes: int) -> None:
        self._known.discard(storage)
        self.live -= num_bytes


def kept_bytes(run: Callable[[], object]) -> int:
    """Bytes that stay alive with what a run returns, such as all that waits for a backward pass."""
    with MemoryCounter() as memory:
        result = run()
    kept = memory.live
    del result
    return kept


def _storage(value: Any) -> torch.UntypedStorage | None:
    return value.untyped_storage() if isinstance(value, torch.Tensor) else None
