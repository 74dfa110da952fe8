"""Which samples make a batch, and a loader that can continue in the middle of an epoch."""

import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from signal import SIG_DFL, SIG_IGN, SIGCHLD, SIGINT, signal
from threading import current_thread, main_thread
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datasets.image_files import ImageFileError
from scripts.training.reliability.errors import LoaderError, TrainingError
from scripts.training.reliability.seeds import derive_seed

SMALLEST = 2  # batch norm needs two values to have a variance


class ShuffledBatches:
    """Training batches of ``(epoch, index)``, in an order that depends on seed and epoch only.

    No sample is dropped. What is left over at the end is a smaller batch, or joins the batch
    before it where any rank would get less than two samples. Every rank gets as many batches as
    the others.

    Args:
        indices: Samples of the data set to draw from.
        batch_size: Samples in a batch, for each rank.
        seed: Together with the epoch, all that the order depends on.
        rank: This process.
        world_size: Number of processes.
        replaced: Pairs of epoch and batch that are left out: the next batch stands in for each.
        labels: The class of each index, to draw all classes equally often: the epoch stays as long,
            samples of rare classes are in it several times, of common ones not all.

    Raises:
        ValueError: Not even one batch of two samples for each rank.

    Example:
        >>> batches = ShuffledBatches(range(5), 2, seed=0)
        >>> [len(batch) for batch in batches]
        [2, 3]
    """

    def __init__(
        self,
        indices: Sequence[int],
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        replaced: Collection[tuple[int, int]] = (),
        labels: Sequence[int] | None = None,
    ):
        if batch_size < SMALLEST:
            raise ValueError(
                f"batch_size must be at least {SMALLEST} in training, because batch norm has no "
                f"variance of one value; got {batch_size}"
            )
        least = SMALLEST * world_size
        if len(indices) < least:
            raise ValueError(
                f"training needs at least {least} samples, {SMALLEST} for each of {world_size} "
                f"processes; got {len(indices)}"
            )
        self.indices = np.asarray(indices)
        self.labels = None if labels is None else np.asarray(labels)
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.replaced = frozenset(replaced)
        self.epoch = 0
        self.start = 0
        self.cuts = list(range(0, len(indices), batch_size * world_size))
        if len(self.cuts) > 1 and len(indices) - self.cuts[-1] < least:
            self.cuts.pop()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.cuts)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of this epoch from number ``start`` on."""
        generator = np.random.default_rng(derive_seed(self.seed, "order", self.epoch))
        order = generator.permutation(self._drawn(generator))
        bounds = list(pairwise([*self.cuts, len(order)]))
        for number in range(self.start, len(bounds)):
            begin, end = bounds[self._stand_in(number)]
            share = order[begin:end][self.rank :: self.world_size]
            yield [(self.epoch, int(index)) for index in share]

    def _drawn(self, generator: np.random.Generator) -> np.ndarray:
        """Return the samples of an epoch, each once, or all classes equally often."""
        if self.labels is None:
            return self.indices
        classes = np.unique(self.labels)
        share = -(-len(self.indices) // len(classes))
        members = (self.indices[self.labels == label] for label in classes)
        drawn = [np.resize(generator.permutation(each), share) for each in members]
        return np.stack(drawn, axis=1).ravel()[: len(self.indices)]

    def _stand_in(self, number: int) -> int:
        """Return the batch itself, or else the next one of the epoch that is not left out."""
        for ahead in range(len(self)):
            other = (number + ahead) % len(self)
            if (self.epoch, other) not in self.replaced:
                return other
        raise TrainingError(f"every batch of epoch {self.epoch + 1} has been left out")


class OrderedBatches:
    """Evaluation batches of indices in order, dealt whole to the ranks.

    No sample is repeated to make the shares equal, and each batch holds what it would hold in a
    single process: the metrics of several processes are those of one.

    Example:
        >>> list(OrderedBatches(range(5), 2, rank=0, world_size=2))
        [[0, 1], [4]]
    """

    start = 0

    def __init__(
        self, indices: Sequence[int], batch_size: int, *, rank: int = 0, world_size: int = 1
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        batches = [list(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size)]
        self.batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def _start_worker(worker: int) -> None:
    """Prepare a process that loads data.

    Ctrl-C reaches the whole group; the parent stops at the end of a batch, which needs us. A batch
    that cannot be handed over, as without room in ``/dev/shm``, is one it would wait for for ever.
    """
    signal(SIGINT, SIG_IGN)
    Queue._on_queue_feeder_error = staticmethod(_give_up)


def _give_up(error: Exception, batch: Any) -> None:
    """End this process, which the parent notices; called where a batch cannot be sent to it."""
    print(f"error: a batch cannot leave the process that loaded it: {error}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)


class ResumableLoader:
    """A ``DataLoader`` that knows how many batches it has delivered, and continues after them.

    Batches that workers have prefetched do not count, so a run continues exactly whatever
    ``num_workers`` was or is.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: ShuffledBatches | OrderedBatches,
        collate: Callable[[list[Any]], Any],
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
    ):
        self.sampler, self.batch_sampler = batches, None  # where Lightning looks for set_epoch
        self.delivered = 0
        self._skip = 0
        self._loader = DataLoader(
            dataset,
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # or it would draw from the global one
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        """Start the epoch, or continue it once after :meth:`load_state_dict`.

        As a generator it does so with the first batch only, when Lightning has set the epoch.
        """
        self.delivered, self._skip = self._skip, 0
        self.sampler.start = self.delivered
        try:
            batches = iter(self._loader)
        except OSError as error:
            raise LoaderError(
                f"the data-loading processes cannot be started: {error}; --data.num_workers 0 does "
                "without them"
            ) from error
        if current_thread() is main_thread():
            # torch's own raises in whatever line runs; next() looks for the dead every five seconds
            signal(SIGCHLD, SIG_DFL)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except ImageFileError as error:
                # from another process it comes as a traceback, of which it is the last line
                line = str(error).strip().splitlines()[-1]
                raise TrainingError(line.rpartition(f"{ImageFileError.__name__}: ")[2]) from error
            except (RuntimeError, OSError, EOFError) as error:
                if not self._process_died(error):
                    raise
                raise LoaderError(
                    f"a data-loading process died: {error}. The checkpoints are kept: continue "
                    "with --resume, and fewer --data.num_workers if memory was short"
                ) from error
            self.delivered += 1
            yield batch

    def _process_died(self, error: Exception) -> bool:
        """Whether a process died: torch says so, or it did amid handing over a batch.

        Its connection is then gone a moment before it is.
        """
        if isinstance(error, RuntimeError):
            return str(error).startswith("DataLoader worker")
        workers = getattr(self._iterator, "_workers", [])
        return bool(wait([worker.sentinel for worker in workers], timeout=1))

    @property
    def _iterator(self) -> Any:
        """Lightning stops the workers of a loader through this attribute."""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, value: None) -> None:
        self._loader._iterator = value

    def state_dict(self) -> dict[str, int]:
        """Tell how far the epoch has come."""
        return {"delivered": self.delivered}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next epoch that is started begin after the batches delivered before."""
        self._skip = state["delivered"]
