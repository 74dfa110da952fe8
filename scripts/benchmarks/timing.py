"""Contenders timed side by side in one process, and the ratios between them.

A machine has slow minutes. Timing one contender after the other turns them into differences, so
here every round runs each contender once, in an order drawn anew, and a ratio compares runs of the
same round.
"""

import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

WARM_UP = 2  # rounds that do not count


Run = Callable[[], object]
Clock = Callable[[Run], float]  # seconds of one run
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Pair:
    """Two contenders to compare: how many times as long ``slow`` takes as ``fast``."""

    slow: str
    fast: str

    def __str__(self) -> str:
        return f"{self.slow} / {self.fast}"


@dataclass(frozen=True)
class Suite:
    """What a benchmark wants timed.

    Args:
        title: What one run of a contender is.
        contenders: What is timed, by name, in the order of the table.
        pairs: Ratios to report.
        notes: What a reader has to know to read the numbers.
        threads: How many it needs, whatever was asked for; ``None`` leaves that open.
        curves: By name, sizes and their contenders: how time grows with size is reported.
    """

    title: str
    contenders: Mapping[str, Run]
    pairs: Sequence[Pair] = ()
    notes: Sequence[str] = ()
    threads: int | None = None
    curves: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Bytes:
    """Bytes by contender, which need no repetition; the rest is as in :class:`Suite`."""

    title: str
    amounts: Mapping[str, int]
    pairs: Sequence[Pair] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some samples."""

    median: float
    low: float
    high: float


def spread(samples: Sequence[float]) -> Spread:
    """Median and quartiles, by linear interpolation between samples.

    Example:
        >>> spread([4.0, 1.0, 2.0, 3.0, 5.0])
        Spread(median=3.0, low=2.0, high=4.0)
    """
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high)


def race(
    contenders: Mapping[Name, Run],
    *,
    repeats: int,
    settle: int = 0,
    on_round: Callable[[int], None] = lambda number: None,
    clock: Clock | None = None,
) -> dict[Name, list[float]]:
    """Time every contender ``repeats`` times, interleaved.

    Args:
        contenders: What is timed, by name.
        repeats: Rounds that count, after :data:`WARM_UP` that do not.
        settle: Runs of a contender in every round before the one that is timed. A loop runs the
            same again and again; without this, each run meets caches full of another's data.
        on_round: Called after every round with its number, 1 being the first that counts.
        clock: Times one run; ``None`` for :func:`wall_seconds`.

    Returns:
        Seconds of every run by name; the same place in two lists is the same round.

    Raises:
        ValueError: If ``repeats`` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    order, clock = random.Random(0), clock or wall_seconds
    samples: dict[Name, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.freeze()  # what is there already need not be looked at in every round
    gc.disable()
    try:
        for number in range(1 - WARM_UP, repeats + 1):
            for name, run in order.sample(list(contenders.items()), len(contenders)):
                gc.collect()  # so that nobody pays for another's garbage
                for _ in range(settle):
                    run()
                seconds = clock(run)
                if number > 0:
                    samples[name].append(seconds)
            on_round(number)
    finally:
        gc.enable()
        gc.unfreeze()
    return samples


def wall_seconds(run: Run) -> float:
    """Seconds that pass during one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratios(samples: Mapping[str, Sequence[float]], pair: Pair) -> list[float]:
    """How many times as long one contender took as the other, round by round.

    Example:
        >>> ratios({"a": [6.0, 8.0], "b": [2.0, 4.0]}, Pair("a", "b"))
        [3.0, 2.0]
    """
    runs = zip(samples[pair.slow], samples[pair.fast], strict=True)
    return [slow / fast for slow, fast in runs]


def exponents(samples: Mapping[str, Sequence[float]], curve: Mapping[int, str]) -> list[float]:
    """The power of its size with which the time of a contender grows, fitted round by round.

    Example:
        >>> exponents({"a": [1.0, 2.0], "b": [4.0, 4.0]}, {8: "a", 16: "b"})
        [2.0, 1.0]
    """
    sizes = [math.log2(size) for size in curve]
    rounds = zip(*(samples[name] for name in curve.values()), strict=True)
    return [statistics.linear_regression(sizes, [*map(math.log2, times)]).slope for times in rounds]


Batch = tuple[Sequence[Any], Tensor]  # what a network is called with, and the classes to find
MakeOptimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]

SGD: MakeOptimizer = partial(torch.optim.SGD, lr=0.01, momentum=0.9, fused=True)
ADAMW: MakeOptimizer = partial(torch.optim.AdamW, lr=1e-3, fused=True)


def training_step(
    model: nn.Module, batches: Sequence[Batch], make_optimizer: MakeOptimizer = SGD
) -> Callable[[], object]:
    """Forward, cross-entropy, backward and a step of the optimizer, on one batch after another."""
    optimizer, endless = make_optimizer(model.train().parameters()), itertools.cycle(batches)

    def step() -> None:
        inputs, targets = next(endless)
        optimizer.zero_grad()
        functional.cross_entropy(model(*inputs), targets).backward()
        optimizer.step()

    return step


def inference(model: nn.Module, inputs: Sequence[Any]) -> Callable[[], object]:
    """The forward pass alone, in evaluation mode."""
    model.eval()
    return torch.inference_mode()(lambda: model(*inputs))


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix and sparse products in one run, as they are executed.

    Zeros that a product multiplies count; the search for neighbors, norms and maxima do not.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def count_bytes(run: Callable[[], object]) -> int:
    """Bytes that the operations of one run read and write at least: each tensor once an operation.

    Views move nothing. What an operation reads twice from the memory is counted once, and what
    caches keep between two operations is counted all the same.
    """
    with _Traffic() as traffic:
        run()
    return traffic.bytes


class _Traffic(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            moved = {id(x): x for x in tree_iter((args, kwargs, result)) if isinstance(x, Tensor)}
            self.bytes += sum(x.numel() * x.element_size() for x in moved.values())
        return result
