"""Any graph convolution made grouped: independent narrow convolutions side by side."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch_geometric import EdgeIndex
from torch_geometric.nn.dense.linear import reset_bias_, reset_weight_
from torch_geometric.nn.inits import glorot, reset
from torch_geometric.utils import is_sparse

from mgic_geo.grouped_linear import GroupedLinear, check_groups


def make_grouped_conv(
    conv: Callable[..., nn.Module],
    in_channels: int,
    out_channels: int,
    groups: int,
    *,
    strategy: str = "auto",
    **kwargs: Any,
) -> nn.Module:
    """Build the grouped form of a graph convolution.

    It equals ``groups`` narrow convolutions, each on its own contiguous channels, with their
    outputs side by side; everything but ``x`` (adjacency, edge weights, size) goes to all of them.
    A convolution whose signature names ``groups`` does this itself. For others there are three
    ways, equal in value:

    - ``"wide"``, :class:`WideConv`: one convolution with block-diagonal linear maps. The fastest,
      and right only for the classes of :data:`WIDE`: in others, groups would mix.
    - ``"vmap"``, :class:`VmapConv`: one call over the stacked parameters of the copies.
    - ``"loop"``, :class:`LoopConv`: the copies one by one, whatever they do.

    ``"auto"`` takes the first of these that is right: ``groups=``, wide, vmap, loop.

    Args:
        conv: Class or factory, called ``conv(in_channels, out_channels, **kwargs)`` with the
            widths of one group, once a group; where its signature names ``groups``, once, with the
            full widths and ``groups=groups``.
        in_channels: Channels in.
        out_channels: Channels out.
        groups: Independent groups; 1 gives the plain ``conv(in_channels, out_channels, **kwargs)``.
        strategy: ``"auto"``, ``"wide"``, ``"vmap"`` or ``"loop"``.
        **kwargs: Keyword arguments of ``conv``.

    Cost:
        The weights and multiply-adds of ``groups`` narrow convolutions: a dense convolution with
        :math:`K` weights in its linear maps keeps :math:`K` / ``groups``.

    Raises:
        ValueError: If ``strategy`` is unknown or would mix groups, a width is below 1, ``groups``
            does not divide both, or attention heads make the copies wider than a group.

    Example:
        >>> make_grouped_conv(pyg.SAGEConv, 16, 32, 4)
        WideConv(
          16, 32, groups=4
          (conv): SAGEConv(16, 32, aggr=mean)
        )
        >>> make_grouped_conv(lambda i, o: pyg.GATConv(i, o // 2, heads=2, edge_dim=3), 16, 32, 4)
        VmapConv(
          16, 32, groups=4
          (conv): GATConv(4, 4, heads=2)
        )
    """
    if strategy not in ("auto", *STRATEGIES):
        raise ValueError(f"strategy must be one of {['auto', *STRATEGIES]}, got {strategy!r}")
    if min(in_channels, out_channels) < 1:
        raise ValueError(f"widths must be at least 1, got {in_channels} and {out_channels}")
    check_groups(in_channels, out_channels, groups)
    if groups == 1:
        return conv(in_channels, out_channels, **kwargs)
    if strategy == "auto" and names_groups(conv):
        return conv(in_channels, out_channels, groups=groups, **kwargs)

    widths = in_channels // groups, out_channels // groups
    convs = [conv(*widths, **copy.deepcopy(kwargs)) for _ in range(groups)]
    if strategy == "auto":
        rules = {"wide": is_widenable, "vmap": is_stackable}
        strategy = next((name for name, rule in rules.items() if rule(convs[0])), "loop")
    elif strategy == "wide" and not is_widenable(convs[0]):
        raise ValueError(
            f"strategy 'wide' would mix the groups of {convs[0]}, take 'vmap' or 'loop'; "
            f"it is right for {', '.join(kind.__name__ for kind in WIDE)} and common options"
        )
    return STRATEGIES[strategy](in_channels, out_channels, convs)


def names_groups(conv: Callable[..., nn.Module]) -> bool:
    """Whether the signature of a class or factory names ``groups``; ``**kwargs`` does not count.

    Example:
        >>> names_groups(pyg.GCNConv), names_groups(lambda i, o, *, groups=1: nn.Identity())
        (False, True)
    """
    try:
        parameter = inspect.signature(conv).parameters.get("groups")
    except ValueError:  # builtins without a signature
        return False
    keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return parameter is not None and parameter.kind in keyword


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
    drawn for each group. Where vmap has no rule (sparse adjacency, ``EdgeIndex``, ``torch.export``)
    the groups run one by one. Arguments and shapes are those of :class:`GroupedConv`; ``convs`` are
    copied.

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
        compressed = is_sparse(edge_index) or isinstance(edge_index, EdgeIndex)
        if compressed or torch.compiler.is_exporting():
            slices = [{k: tensor[i] for k, tensor in state.items()} for i in range(self.groups)]
            outputs = [run(s, each_side(itemgetter(i), inputs)) for i, s in enumerate(slices)]
            return torch.cat(outputs, -1)
        in_dims = (0, each_side(lambda _: 0, inputs))
        grouped = vmap(run, in_dims, out_dims=-2, randomness="different")(state, inputs)
        return grouped.flatten(-2)  # (N, g, out / g) -> (N, out)


class WideConv(GroupedConv):
    """Narrow convolutions as one wide convolution with block-diagonal linear maps.

    ``conv`` is PyG's own class at the full width, attention with the heads of all groups, its state
    under PyG's names. Only for convolutions that treat channels (or heads) alike and apart outside
    their linear maps, which :func:`is_widenable` knows. Arguments and shapes are those of
    :class:`GroupedConv`; ``convs`` are copied.

    Example:
        >>> conv = WideConv(4, 8, [pyg.GCNConv(2, 4), pyg.GCNConv(2, 4)])
        >>> conv.conv.lin.weight.shape
        torch.Size([2, 4, 2])
    """

    def __init__(self, in_channels: int, out_channels: int, convs: Sequence[nn.Module]) -> None:
        super().__init__(in_channels, out_channels, convs)
        self.conv = copy.deepcopy(convs[0])
        wide: dict[nn.Module, nn.Module] = {}  # a module used twice stays one module
        for path, module in list(self.conv.named_modules(remove_duplicate=False)):
            if module not in wide:
                peers = [conv.get_submodule(path) for conv in convs]
                linear = isinstance(module, nn.Linear | pyg.Linear)
                wide[module] = BlockLinear(peers) if linear else widened(module, peers)
            if wide[module] is not module:
                self.conv.set_submodule(path, wide[module])

    def reset_parameters(self) -> None:
        """Draw all parameters again, each block from its own narrow widths."""
        reset(self.conv)
        for name, parameter in self.conv.named_parameters(recurse=False):
            if name.startswith("att"):
                for block in parameter.detach().chunk(self.groups, 1):
                    glorot(block)

    def forward(self, x: Any, edge_index: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run the wide convolution."""
        return self._checked(self.conv(x, edge_index, *args, **kwargs), self.out_channels)


class BlockLinear(GroupedLinear):
    """Linear maps of equal shape, each on its own channels; drawn as each would be alone.

    Args:
        linears: ``torch.nn.Linear`` or PyG's ``Linear``, whose initializers are kept.
    """

    weight_initializer: str | None = None
    bias_initializer: str | None = None

    def __init__(self, linears: Sequence[Any]) -> None:
        first, groups = linears[0], len(linears)
        rows, columns = first.weight.shape
        bias = first.bias is not None
        super().__init__(columns * groups, rows * groups, groups=groups, bias=bias)
        self.weight_initializer = getattr(first, "weight_initializer", None)
        self.bias_initializer = getattr(first, "bias_initializer", None)
        self.weight = like(first.weight, torch.stack([x.weight.detach() for x in linears]))
        if bias:
            self.bias = like(first.bias, torch.cat([x.bias.detach() for x in linears]))

    def reset_parameters(self) -> None:
        """Draw weight and bias again, from the inputs of one block."""
        fan_in = self.in_channels // self.groups
        reset_weight_(self.weight, fan_in, self.weight_initializer)
        reset_bias_(self.bias, fan_in, self.bias_initializer)


def widened(module: nn.Module, peers: Sequence[nn.Module]) -> nn.Module:
    """Widen a module without linear maps of its own, in place: its vectors and the widths it notes.

    What has no channels stays: counts of batches, and GINConv's ``eps``.
    """

    def wider(width: Any) -> Any:
        if isinstance(width, int):
            return width * len(peers)
        return type(width)(wider(w) for w in width)

    for name, tensor in own_state(module):
        if tensor.dim() > 0 and name != "eps":
            parts = [getattr(peer, name).detach() for peer in peers]
            axis = 1 if tensor.dim() == 3 else 0  # (1, heads, channels) or (channels,)
            setattr(module, name, like(tensor, torch.cat(parts, axis)))
    noted = vars(module)
    out = "heads" if "heads" in noted else "out_channels"
    for name in {"in_channels", out, "num_features", "channel_list"} & noted.keys():
        noted[name] = wider(noted[name])
    return module


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


def is_widenable(conv: Any) -> bool:
    """Whether :class:`WideConv` keeps the groups of this narrow convolution apart.

    Example:
        >>> is_widenable(pyg.SAGEConv(4, 4)), is_widenable(pyg.SAGEConv(4, 4, normalize=True))
        (True, False)
    """
    rule = WIDE.get(type(conv))
    elementwise = ("add", "sum", "mean", "min", "max", "mul")
    return rule is not None and conv.aggr in elementwise and rule(conv)


def is_stackable(conv: nn.Module) -> bool:
    """Whether :class:`VmapConv` runs this narrow convolution, at full speed on index adjacency."""
    refused = (nn.RNNBase, nn.RNNCellBase, pyg.MultiAggregation, pyg.HypergraphConv)
    cached = getattr(conv, "cached", False)  # what is cached inside vmap is of no use outside
    return not cached and not any(isinstance(module, refused) for module in conv.modules())


def is_channelwise(network: Any) -> bool:
    """Whether a network is linear maps and, between them, functions of one channel each."""
    known = (
        *(nn.Sequential, nn.ModuleList, nn.Linear, nn.BatchNorm1d, nn.Dropout, nn.Identity),
        *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Tanh),
        *(pyg.MLP, pyg.Linear, pyg.BatchNorm),
    )
    return isinstance(network, nn.Module) and all(
        type(module) in known
        and (not isinstance(module, pyg.MLP) or isinstance(module.act, nn.Module | None))
        for module in network.modules()
    )


def _always(conv: Any) -> bool:
    return True


def _plain_attention(conv: Any) -> bool:
    return conv.concat and conv.edge_dim is None


ATTENTION = (pyg.GATConv, pyg.GATv2Conv, pyg.SuperGATConv, pyg.TransformerConv)

#: Convolutions that have a wide form, each with the options under which it keeps groups apart.
WIDE: dict[type[nn.Module], Callable[[Any], bool]] = {
    pyg.GCNConv: _always,
    pyg.GraphConv: _always,
    pyg.TAGConv: _always,
    pyg.ChebConv: _always,
    pyg.SGConv: _always,
    pyg.SSGConv: _always,
    pyg.LEConv: _always,
    pyg.ClusterGCNConv: _always,
    pyg.MFConv: _always,
    pyg.SAGEConv: lambda conv: not conv.normalize,
    pyg.GINConv: lambda conv: not isinstance(conv.eps, nn.Parameter) and is_channelwise(conv.nn),
    pyg.ResGatedGraphConv: lambda conv: conv.edge_dim is None and is_channelwise(conv.act),
    pyg.GATConv: _plain_attention,
    pyg.GATv2Conv: _plain_attention,
    pyg.TransformerConv: lambda conv: _plain_attention(conv) and not conv.beta,
}

STRATEGIES: dict[str, Callable[..., GroupedConv]] = {
    "wide": WideConv,
    "vmap": VmapConv,
    "loop": LoopConv,
}
