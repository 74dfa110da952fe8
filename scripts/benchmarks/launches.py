"""How many operations a GPU would run for something, and how often the host would wait for it.

Every operation of PyTorch that computes is at least one kernel launch on a GPU, 5 to 10 microseconds
of the host, however small its tensors are; every value that the host reads makes it wait until the
GPU has done all that was queued. Both are counted here on a processor, on the path that a GPU takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mgic_geo.ops.host import as_on_device
from scripts.benchmarks.kernels import operations

# these read a value, or a shape that depends on values
READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "unique_dim", "_unique2")
READS += ("unique_consecutive", "masked_select", "repeat_interleave")
# these allocate or say how memory is looked at
NO_LAUNCH = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
NO_LAUNCH += ("_unsafe_view", "_reshape_alias", "lift_fresh", "scalar_tensor", "promote_types")


@dataclass(frozen=True)
class Launches:
    """What one run of something launches; prints as a table, the most frequent first.

    Args:
        operations: Calls by name of the operation.
        reads: Calls that make the host wait, by name; they are among ``operations`` as well.
    """

    operations: Counter[str]
    reads: Counter[str]

    def __str__(self) -> str:
        """Totals, and a row for each operation."""
        total, waits = self.operations.total(), self.reads.total()
        rows = [f"{total:6}  operations, {waits} of which read a value"]
        return "\n".join([*rows, *(f"{n:6}  {name}" for name, n in self.operations.most_common())])


def count_launches(run: Callable[[], object]) -> Launches:
    """Count the operations of one run as a GPU would see them, inside of ours as well.

    Views and allocations launch nothing and do not count.

    Example:
        >>> print(count_launches(lambda: torch.ones(2).add(1).view(1, 2).sum().item()))
             4  operations, 1 of which read a value
             1  ones
             1  add
             1  sum
             1  _local_scalar_dense
    """
    with as_on_device(), _Counting() as counts:
        run()
    names = Counter({name: n for name, n in counts.names.items() if name not in NO_LAUNCH})
    return Launches(names, Counter({name: names[name] for name in READS if names[name]}))


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names = Counter[str]()
        self.references = {operation.name: operation.reference for operation in operations()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        if name in self.references:
            inside: AbstractContextManager[Any] = self
            with inside:
                return self.references[name](*args, **kwargs)
        if not func.is_view:
            self.names[name.partition("::")[2]] += 1
        return func(*args, **kwargs)
