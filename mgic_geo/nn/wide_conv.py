"""Narrow convolutions as one wide convolution with block-diagonal linear maps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch_geometric.nn.dense.linear import reset_bias_, reset_weight_
from torch_geometric.nn.inits import glorot, reset

from mgic_geo.nn.clones import like, own_state
from mgic_geo.nn.conv_copies import GroupedConv
from mgic_geo.nn.grouped_linear import GroupedLinear


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
        self.weight_initializer = vars(first).get("weight_initializer")
        self.bias_initializer = vars(first).get("bias_initializer")
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
            parts = [dict(own_state(peer))[name].detach() for peer in peers]
            axis = 1 if tensor.dim() == 3 else 0  # (1, heads, channels) or (channels,)
            setattr(module, name, like(tensor, torch.cat(parts, axis)))
    noted = vars(module)
    out = "heads" if "heads" in noted else "out_channels"
    for name in {"in_channels", out, "num_features", "channel_list"} & noted.keys():
        noted[name] = wider(noted[name])
    return module


def is_widenable(conv: Any) -> bool:
    """Whether :class:`WideConv` keeps the groups of this narrow convolution apart.

    Example:
        >>> is_widenable(pyg.SAGEConv(4, 4)), is_widenable(pyg.SAGEConv(4, 4, normalize=True))
        (True, False)
    """
    rule = WIDE.get(type(conv))
    elementwise = ("add", "sum", "mean", "min", "max", "mul")
    return rule is not None and conv.aggr in elementwise and rule(conv)


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
