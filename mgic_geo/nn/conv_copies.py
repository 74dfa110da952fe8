"""Narrow convolutions side by side: one after another, or stacked in one call."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.func import vmap
from torch_geometric import EdgeIndex
from torch_geometric.nn.inits import reset
from torch_geometric.utils import is_sparse

from mgic_geo.nn.clones import ATOMS, clone_with, like, own_state, state_of, update_buffers

ATTENTION = (pyg.GATConv, pyg.GATv2Conv, pyg.SuperGATConv, pyg.TransformerConv)
BATCH_NORMS = (nn.BatchNorm1d, nn.SyncBatchNorm)

logger = logging.getLogger(__name__)
LOGGED: set[tuple[type[nn.Module], str]] = set()  # what has been said, and of which class
LOCK = threading.Lock()


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
    drawn for each group. Arguments and shapes are those of :class:`GroupedConv`; ``convs`` are
    copied, and have to be alike in everything but registered tensors (:func:`why_not`).

    A call runs a fresh clone of ``conv`` (:func:`clone_with`), so that threads can share a model.
    Buffers are updated in place. Anything else that ``forward`` keeps on the module, such as a
    cache or an attention loss, is dropped with the clone, and a logged warning says so.

    Where vmap has no rule (sparse adjacency, ``EdgeIndex``, ``torch.export``, batch norm under
    autocast) the groups run one by one. So they do where vmap fails; this too is logged.

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
        """Draw the parameters of every copy again, each from its own narrow widths.

        Nothing is written before all copies are drawn.
        """
        state, drawn = state_of(self.conv), []
        for i in range(self.groups):
            # by id: a tensor with two names stays one
            own = {id(stack): like(stack, stack.detach()[i].clone()) for stack in state.values()}
            clone = clone_with(self.conv, {name: own[id(stack)] for name, stack in state.items()})
            reset(clone)
            drawn.append(state_of(clone))
        with torch.no_grad():
            for name, stack in state.items():
                stack.copy_(torch.stack([copy_[name] for copy_ in drawn]))

    def forward(self, x: Any, edge_index: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run all copies at once."""

        def run(state: dict[str, Tensor], x: Any) -> Tensor:
            clone = clone_with(self.conv, state)
            held = attributes(clone)
            out = clone(x, edge_index, *args, **kwargs)
            update_buffers(clone, state)
            warn_of_dropped(held)
            return self._checked(out, self.out_channels // self.groups)

        inputs = self._split(x)
        if torch.compiler.is_exporting() or self._lacks_rule(edge_index):
            return self._one_by_one(run, inputs)
        if torch.compiler.is_compiling():
            return self._at_once(run, inputs)
        return self._at_once_where_possible(run, inputs)

    def _at_once(self, run: Callable[..., Tensor], inputs: Any) -> Tensor:
        in_dims = (0, each_side(lambda _: 0, inputs))
        stacked = vmap(run, in_dims, out_dims=-2, randomness="different")
        return stacked(state_of(self.conv), inputs).flatten(-2)  # (N, g, out / g) -> (N, out)

    def _one_by_one(self, run: Callable[..., Tensor], inputs: Any) -> Tensor:
        state, outputs = state_of(self.conv), []
        for i in range(self.groups):
            own = {name: stack[i] for name, stack in state.items()}
            outputs.append(run(own, each_side(itemgetter(i), inputs)))
        return torch.cat(outputs, -1)

    def _at_once_where_possible(self, run: Callable[..., Tensor], inputs: Any) -> Tensor:
        buffers = [(buffer, buffer.clone()) for buffer in self.conv.buffers()]
        try:
            return self._at_once(run, inputs)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(".")
        with torch.no_grad():
            for buffer, before in buffers:  # the attempt must not count as a batch
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
        # outside of `except`: what is the user's own error is raised here, without vmap's
        out = self._one_by_one(run, inputs)
        warn_once(
            type(self.conv),
            f"runs its groups one by one, since vmap failed ({reason}): take strategy='loop'",
        )
        return out

    def _lacks_rule(self, edge_index: Any) -> bool:
        compressed = is_sparse(edge_index) or isinstance(edge_index, EdgeIndex)
        if compressed or not torch.is_autocast_enabled(edge_index.device.type):
            return compressed
        # vmap hands batch norm features in half precision beside statistics in float32
        return any(isinstance(module, BATCH_NORMS) for module in self.conv.modules())


def attributes(module: nn.Module) -> list[tuple[nn.Module, dict[str, Any]]]:
    """What every module of a tree holds now; nothing while compiling."""
    if torch.compiler.is_compiling():
        return []
    return [(part, vars(part).copy()) for part in module.modules()]


def warn_of_dropped(held: list[tuple[nn.Module, dict[str, Any]]]) -> None:
    """Log an attribute that a call has set on a clone, which is about to be dropped."""
    for part, before in held:
        for name, value in vars(part).items():
            was = before.get(name)
            if value is was:
                continue
            is_equal = type(value) is type(was) and type(value) in ATOMS and value == was
            if not is_equal:
                warn_once(
                    type(part),
                    f"sets `{name}` in forward, which stacked copies drop: take strategy='loop'",
                )


def warn_once(kind: type[nn.Module], sentence: str) -> None:
    """Log what a class does, the first time that it does it."""
    topic = kind, sentence.partition(" ")[0]
    with LOCK:
        if topic in LOGGED:
            return
        LOGGED.add(topic)
    logger.warning("%s %s", kind.__name__, sentence)


def each_side(function: Callable[[Tensor], Any], x: Any) -> Any:
    """Apply ``function`` to ``x``, or to the sides of a bipartite ``x`` that are not ``None``."""
    if isinstance(x, Tensor):
        return function(x)
    return None if x is None else tuple(each_side(function, side) for side in x)
