"""What every cycle of a network costs, beside the dense block it stands for."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mgic_geo import GroupedLinear, WidthChange, num_weights
from mgic_geo.conversion import computed_tensors, drop_hooks
from mgic_geo.levels import Level, MGICBlock
from mgic_vision.layers import DepthwiseConv2d

COLUMNS = (
    *("block", "widths", "groups", "group widths"),
    *("weights", "of dense", "multiply-adds", "of dense", "R and P"),
)
ACTIVATIONS = nn.Hardswish | nn.Hardsigmoid | nn.ReLU6  # those that are many operations there
NUM_TEXTS = 4  # columns that are set to the left


@runtime_checkable
class HasInputSize(Protocol):
    """A network that says what it takes: channels, height and width."""

    input_size: tuple[int, int, int] | None


@dataclass(frozen=True)
class Cost:
    """Weights and multiply-adds for one input."""

    weights: int = 0
    multiply_adds: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.weights + other.weights, self.multiply_adds + other.multiply_adds)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.weights - other.weights, self.multiply_adds - other.multiply_adds)

    def __str__(self) -> str:
        return f"{self.weights:,} weights, {self.multiply_adds:,} multiply-adds"


@dataclass(frozen=True)
class BlockSummary:
    """One cycle of a network.

    Args:
        name: Of the :class:`~mgic_geo.MGICBlock` in its network.
        levels: Widths and groups of every level, the finest first.
        total: All of the cycle.
        transfers: Its restrictions and prolongations alone.
        dense: The finest level's layer without groups, which the cycle stands for.
    """

    name: str
    levels: tuple[Level, ...]
    total: Cost
    transfers: Cost
    dense: Cost

    @property
    def pays(self) -> bool:
        """Whether the cycle has fewer weights than the dense block."""
        return self.total.weights < self.dense.weights

    def row(self) -> tuple[str, ...]:
        """One cell for every one of the table's columns; widths and groups as outer:inner."""
        return (
            self.name,
            " ".join(_pair(level.outer, level.inner) for level in self.levels),
            " ".join(str(level.groups) for level in self.levels),
            " ".join(
                _pair(level.outer // level.groups, level.inner // level.groups)
                for level in self.levels
            ),
            f"{self.total.weights:,}",
            f"{self.total.weights / self.dense.weights:.2f}",
            f"{self.total.multiply_adds:,}",
            f"{self.total.multiply_adds / self.dense.multiply_adds:.2f}",
            f"{self.transfers.multiply_adds:,}",
        )


@dataclass(frozen=True)
class Summary:
    """A network's cycles and its whole cost; prints as a table.

    Args:
        blocks: One for every cycle, in the order of the network.
        total: All of the network.
        transfers: All restrictions and prolongations.
        input_size: Shape of the input that was counted for, without the batch.
    """

    blocks: tuple[BlockSummary, ...]
    total: Cost
    transfers: Cost
    input_size: tuple[int, ...]

    @property
    def without_transfers(self) -> Cost:
        """The other way of counting: the network without restrictions and prolongations."""
        return self.total - self.transfers

    def __str__(self) -> str:
        rows = [COLUMNS, *(block.row() for block in self.blocks)]
        sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(size) if column < NUM_TEXTS else cell.rjust(size)
                for column, (cell, size) in enumerate(zip(row, sizes, strict=True))
            )
            for row in rows
        ]
        num_dear = sum(not block.pays for block in self.blocks)
        verdict = f"{num_dear} of {len(self.blocks)} cycles have more weights than the dense block"
        size = "x".join(map(str, self.input_size))
        return "\n".join(
            (
                *([*lines, verdict] if self.blocks else ["no cycles"]),
                f"network, input {size}: {self.total}",
                f"without R and P: {self.without_transfers}",
            )
        )


def summary(model: nn.Module, input_size: tuple[int, ...] | None = None) -> Summary:
    """Where multigrid-in-channels pays in a network and where it does not.

    Counts on a copy without values, so that neither the network nor memory is touched. Convolutions
    and linear maps count, grouped or not. Norms, activations, pooling and interpolation do not, nor
    products that no module of their own makes, such as those of attention.

    Args:
        model: Any network; one without cycles gives an empty table.
        input_size: Shape of one input; ``None`` for the network's own ``input_size``, the paper's.

    Raises:
        ValueError: If ``input_size`` is neither given nor known.

    References:
        Section 3.4; Table 5's multiply-adds leave out those of R and P.

    Example:
        >>> from mgic_vision import create_model
        >>> report = summary(create_model("mgic_resnet56"))
        >>> print(report.blocks[-1].levels[0])
            0     64     64      8      8  finest
        >>> report.blocks[-1].total.weights, report.blocks[-1].dense.weights
        (19840, 73984)
        >>> report.total.multiply_adds, report.without_transfers.multiply_adds
        (66466432, 64254592)
    """
    if input_size is None:
        input_size = model.input_size if isinstance(model, HasInputSize) else None
    if input_size is None:
        raise ValueError("input_size must be given for a model without one of its own")
    layers = _multiply_adds(model, input_size)
    blocks = tuple(
        _summarize(name, module, layers)
        for name, module in model.named_modules()
        if isinstance(module, MGICBlock)
    )
    total = Cost(num_weights(model), layers.total())
    transfers = sum((block.transfers for block in blocks), Cost())
    return Summary(blocks, total, transfers, tuple(input_size))


def _summarize(name: str, block: MGICBlock, layers: Counter[str]) -> BlockSummary:
    transfers = _cost(block.restrict, f"{name}.restrict", layers)
    for number, prolong in enumerate(block.prolong):
        transfers += _cost(prolong, f"{name}.corrections.{number}.transfer", layers)
    dense = _dense(block.layers[0], f"{name}.layers.0", layers)
    return BlockSummary(name, block.levels, _cost(block, name, layers), transfers, dense)


def _cost(module: nn.Module, name: str, layers: Counter[str]) -> Cost:
    parts = (f"{name}.{part}".strip(".") for part, _ in module.named_modules())
    return Cost(num_weights(module), sum(layers[part] for part in parts))


def _dense(layer: nn.Module, name: str, layers: Counter[str]) -> Cost:
    """The cost of a layer with every grouped map replaced by a dense one."""
    cost = _cost(layer, name, layers)
    for part, grouped in layer.named_modules():
        if isinstance(grouped, nn.Conv2d | GroupedLinear) and not _filters_channels(grouped):
            more, work = grouped.groups - 1, layers[f"{name}.{part}".strip(".")]
            cost += Cost(more * grouped.weight.numel(), more * work)
    return cost


def _filters_channels(layer: nn.Module) -> bool:
    """Whether a map has no groups but channels, also in the dense block."""
    if isinstance(layer, DepthwiseConv2d):
        return True
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size == (1, 1):
        return False
    return layer.groups == layer.in_channels


def _multiply_adds(model: nn.Module, input_size: tuple[int, ...]) -> Counter[str]:
    """Multiply-adds of every convolution and linear map, grouped or not, by name, for one input."""
    shadow, x = without_values(model, input_size)
    shadow.eval()
    counts: Counter[str] = Counter()

    def count(layer: Any, _: Any, output: Tensor, *, name: str) -> None:
        if layer.weight is None:  # a change of width where there is none
            return
        groups_first = isinstance(layer, GroupedLinear | WidthChange)
        rows = layer.out_channels if groups_first else layer.weight.size(0)
        # each of the outputs is a sum over one row of the weight
        counts[name] += output.numel() * (layer.weight.numel() // rows)

    for name, module in shadow.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | GroupedLinear | WidthChange):
            module.register_forward_hook(partial(count, name=name))
    with torch.no_grad():
        shadow(x)
    return counts


def without_values(model: nn.Module, input_size: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    """A copy of ``model`` and an input of its precision, on the meta device: nothing is copied.

    Norms and activations, which would take most of the time there, pass on what they get.
    """
    shadow = without_hooks(model)
    for module in shadow.modules():
        if _keeps_shape(module):
            vars(module)["forward"] = _pass_on
    floating = (x.dtype for x in shadow.parameters() if x.is_floating_point())
    return shadow, torch.empty(1, *input_size, device="meta", dtype=next(floating, None))


def _keeps_shape(module: nn.Module) -> bool:
    """Whether a module is a norm, perhaps with its activation, or an activation, and no more."""
    inside = any(True for child in module.children() for _ in child.parameters())
    return isinstance(module, _BatchNorm | nn.LayerNorm | ACTIVATIONS) and not inside


def _pass_on(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def without_hooks(model: nn.Module) -> nn.Module:
    """A copy of ``model`` on the meta device without the user's hooks, which expect values."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"))
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    for key, tensor in computed_tensors(model).items():
        memo[key] = torch.empty_like(tensor, device="meta")
    shadow = copy.deepcopy(model, memo)
    drop_hooks(shadow)
    return shadow


def _pair(outer: int, inner: int) -> str:
    return str(outer) if outer == inner else f"{outer}:{inner}"
