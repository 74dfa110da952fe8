"""Narrow convolutions side by side: one after another, or stacked in one call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch_geometric import EdgeIndex
from torch_geometric.nn.inits import reset
from torch_geometric.utils import is_sparse

ATTENTION = (pyg.GATConv, pyg.GATv2Conv, pyg.SuperGATConv, pyg.TransformerConv)
BATCH_NORMS = (nn.BatchNorm1d, nn.SyncBatchNorm)


class GroupedConv(nn.Module):
    """What the three grouped forms share: widths, and a look at what comes out.

    Args:
        in_channels: Channels in, of all groups together.
        out_channels: Channels out, of all groups together.
        convs: One narrow convolution a group, alike but for their parameters.

    Shape:
        - ``x``: ``(N, in_channels)``, or a pair of such for a bipartite graph, the second of which
          may be ``None`` where the convolution allows it. Returns ``(N, out_channels)``.

    Raises:
        ValueError: If ``convs`` do not return one tensor of ``out_channels / len(convs)`` channels
            each: for attention heads at construction, for others in ``forward``.
    """

    def __init__(self, in_channels: int, out_channels: int, convs: Sequence[nn.Module]) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, len(convs)
        first: Any = convs[0]
        if isinstance(first, ATTENTION) and first.concat:
            width = first.heads * first.out_channels
            if width * self.groups != out_channels:
                raise self._mismatch(f"{width}, {first.heads} heads of {first.out_channels}")

    def _split(self, x: Any) -> Any:
        """Give ``x``, or both sides of a bipartite ``x``, a leading axis of groups."""

        def split(x: Tensor) -> Tensor:
            if x.size(-1) != self.in_channels:
                raise ValueError(
                    f"x must have {self.in_channels} channels last, got shape {tuple(x.shape)}"
                )
            return x.unflatten(-1, (self.groups, -1)).movedim(-2, 0)

        return each_side(split, x)

    def _checked(self, out: Any, width: int) -> Tensor:
        if not isinstance(out, Tensor):
            raise self._mismatch(f"a {type(out).__name__}")
        if out.size(-1) != width:
            raise self._mismatch(out.size(-1))
        return out

    def _mismatch(self, got: object) -> ValueError:
        return ValueError(
            f"for in_channels={self.in_channels}, out_channels={self.out_channels} and groups="
            f"{self.groups}, the convolution of one group must return one tensor with "
            f"{self.out_channels // self.groups} channels, got {got}"
        )

    def extra_repr(self) -> str:
        """Widths and groups, as ``torch.nn.Linear`` shows them."""
        return f"{self.in_channels}, {self.out_channels}, groups={self.groups}"


class LoopConv(GroupedConv):
    """Narrow convolutions one after another, each on its own channels.

    The definition of a grouped convolution, and the form for what the others cannot run.
    Arguments and shapes are those of :class:`GroupedConv`; ``convs`` are kept as they are.

    Example:
        >>> conv = LoopConv(4, 8, [pyg.GraphConv(2, 4), pyg.GraphConv(2, 4)])
        >>> conv(torch.ones(3, 4), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, convs: Sequence[nn.Module]) -> None:
        super().__init__(in_channels, out_channels, convs)
        self.convs = nn.ModuleList(convs)

    def reset_parameters(self) -> None:
        """Draw the parameters of every copy again."""
        for conv in self.convs:
            reset(conv)

    def forward(self, x: Any, edge_index: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run every copy on its channels."""
        inputs, width = self._split(x), self.out_channels // self.groups
        outputs = []
        for i, conv in enumerate(self.convs):
            out = conv(each_side(itemgetter(i), inputs), edge_index, *args, **kwargs)
            outputs.append(self._checked(out, width))
        return torch.cat(outputs, -1)


class VmapConv(GroupedConv):
    """Narrow convolutions as one call over their stacked parameters.

    ``conv`` is the first copy with a leading axis of groups on every parameter and buffer, so
    training mode, device, dtype and running statistics are handled as in any module. Dropout is
    drawn for each group. Where vmap has no rule (sparse adjacency, ``EdgeIndex``, ``torch.export``,
    batch norm under autocast) the groups run one by one. Arguments and shapes are those of
    :class:`GroupedConv`; ``convs`` are copied.

    Example:
        >>> conv = VmapConv(4, 8, [pyg.GATConv(2, 4), pyg.GATConv(2, 4)])
        >>> conv.conv.bias.shape
        torch.Size([2, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, convs: Sequence[nn.Module]) -> None:
        super().__init__(in_channels, out_channels, convs)
        self.conv = copy.deepcopy(convs[0])
        copies = [state_of(conv) for conv in convs]
        stacked = {
            id(tensor): like(tensor, torch.stack([state[name].detach() for state in copies]))
            for name, tensor in state_of(self.conv).items()
        }
        for module in self.conv.modules():
            for name, tensor in own_state(module):
                setattr(module, name, stacked[id(tensor)])

    def reset_parameters(self) -> None:
        """Draw the parameters of every copy again, each from its own narrow widths."""
        state = state_of(self.conv)
        stacked = {name: tensor.data for name, tensor in state.items()}
        for i in range(self.groups):
            for name, tensor in state.items():
                tensor.data = stacked[name][i]  # a view: what is drawn lands in the stack
            reset(self.conv)
        for name, tensor in state.items():
            tensor.data = stacked[name]

    def forward(self, x: Any, edge_index: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run all copies at once."""

        def run(state: dict[str, Tensor], x: Any) -> Tensor:
            inputs = (x, edge_index, *args)
            # tying would leave a module used twice with the last slice; every name is in `state`
            out = functional_call(self.conv, state, inputs, kwargs, tie_weights=False)
            return self._checked(out, self.out_channels // self.groups)

        state, inputs = state_of(self.conv), self._split(x)
        if torch.compiler.is_exporting() or self._lacks_rule(edge_index):
            slices = [{k: tensor[i] for k, tensor in state.items()} for i in range(self.groups)]
            outputs = [run(s, each_side(itemgetter(i), inputs)) for i, s in enumerate(slices)]
            return torch.cat(outputs, -1)
        in_dims = (0, each_side(lambda _: 0, inputs))
        grouped = vmap(run, in_dims, out_dims=-2, randomness="different")(state, inputs)
        return grouped.flatten(-2)  # (N, g, out / g) -> (N, out)

    def _lacks_rule(self, edge_index: Any) -> bool:
        compressed = is_sparse(edge_index) or isinstance(edge_index, EdgeIndex)
        if compressed or not torch.is_autocast_enabled(edge_index.device.type):
            return compressed
        # vmap hands batch norm features in half precision beside statistics in float32
        return any(isinstance(module, BATCH_NORMS) for module in self.conv.modules())


def is_stackable(conv: nn.Module) -> bool:
    """Whether :class:`VmapConv` runs this narrow convolution, at full speed on index adjacency."""
    refused = (nn.RNNBase, nn.RNNCellBase, pyg.MultiAggregation, pyg.HypergraphConv)
    cached = getattr(conv, "cached", False)  # what is cached inside vmap is of no use outside
    return not cached and not any(isinstance(module, refused) for module in conv.modules())


def like(tensor: Tensor, values: Tensor) -> Any:
    """``values`` as a parameter where ``tensor`` is one, trained where that is."""
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(values, tensor.requires_grad) if is_parameter else values


def own_state(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers that the module itself holds, not its children."""
    named = module.named_parameters, module.named_buffers
    return [item for items in named for item in items(recurse=False, remove_duplicate=False)]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name: a shared module's once, a shared parameter's every time."""
    return {
        f"{path}.{name}".lstrip("."): tensor
        for path, child in module.named_modules()
        for name, tensor in own_state(child)
    }


def each_side(function: Callable[[Tensor], Any], x: Any) -> Any:
    """Apply ``function`` to ``x``, or to the sides of a bipartite ``x`` that are not ``None``."""
    if isinstance(x, Tensor):
        return function(x)
    return None if x is None else tuple(each_side(function, side) for side in x)
