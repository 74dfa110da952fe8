"""How many operations a GPU would run for something, and how often the host would wait for it.

Every operation of PyTorch that computes is at least one kernel launch on a GPU, 5 to 10
microseconds of the host, however small its tensors are; every value that the host reads makes it
wait until the GPU has done all that was queued. Both are counted on a processor, on the path that a
GPU takes.

``python -m scripts.benchmarks.launches NETWORK [CLOUDS] [POINTS]`` prints those of a training step.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from mgic_geo import create_model
from mgic_geo.ops.host import as_on_device
from scripts.benchmarks.kernels import operations

# these read a value, or a shape that depends on values
READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "unique_dim", "_unique2")
READS += ("unique_consecutive", "masked_select", "repeat_interleave", "bincount")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")  # with a mask these read, too
# these allocate or say how memory is looked at
NO_LAUNCH = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
NO_LAUNCH += ("_unsafe_view", "_reshape_alias", "lift_fresh", "scalar_tensor", "promote_types")


NAMES = ("dgcnn", "diffgcn", "mgic_dgcnn", "mgic_diffgcn", "pointnet", "random_graph")
NETWORKS = {name: partial(create_model, name) for name in NAMES} | {
    "mgic_dgcnn, additive": partial(create_model, "mgic_dgcnn", cycle="additive"),
}


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
    return Launches(counts.names, +counts.reads)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names, self.reads = Counter[str](), Counter[str]()
        self.operations = {operation.name: operation for operation in operations()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        again: AbstractContextManager[Any] = self
        with again:  # sees what is inside of these, too
            if name in self.operations:
                return self.operations[name].run(*args, **kwargs)
            inside = func.decompose(*args, **kwargs)
            if inside is not NotImplemented:
                return inside
        name = name.partition("::")[2]
        if not func.is_view and name not in NO_LAUNCH:
            self.names[name] += 1
            self.reads[name] += name in READS or (name in INDEXING and _has_mask(args[1]))
        return func(*args, **kwargs)


def _has_mask(indices: Sequence[Tensor | None]) -> bool:
    """Whether a tensor of truth values selects, so that they decide on the shape."""
    return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in indices)


def training_step(name: str, clouds: int, points: int) -> Callable[[], object]:
    """Forward and backward of one of :data:`NETWORKS`, its number of clouds given."""
    model = NETWORKS[name]()
    batch = torch.arange(clouds).repeat_interleave(points)
    pos, target = torch.rand(clouds * points, 3), torch.arange(clouds) % 10
    return lambda: functional.cross_entropy(model(pos, batch, clouds), target).backward()


def main(name: str, clouds: str = "4", points: str = "24") -> None:
    """Print what a training step launches."""
    print(count_launches(training_step(name, int(clouds), int(points))))


if __name__ == "__main__":
    main(*sys.argv[1:])
