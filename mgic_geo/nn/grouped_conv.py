"""Any graph convolution made grouped: independent narrow convolutions side by side."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch_geometric.nn as pyg
from torch import nn
from torch.nn.parameter import is_lazy

from mgic_geo.levels import check_counts
from mgic_geo.nn.conv_copies import GroupedConv, LoopConv, VmapConv
from mgic_geo.nn.grouped_linear import check_groups
from mgic_geo.nn.held_values import description, loose_tensor
from mgic_geo.nn.wide_conv import WIDE, WideConv, is_widenable

#: Where PyG's convolutions keep the graph that ``cached=True`` saves; others keep features there.
GRAPH_CACHES = {"_cached_edge_index", "_cached_adj_t"}


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
    - ``"vmap"``, :class:`VmapConv`: one call over the stacked parameters of the copies, which
      have to be alike but for parameters and buffers.
    - ``"loop"``, :class:`LoopConv`: the copies one by one, whatever they do.

    ``"auto"`` takes the first of these that is right: ``groups=``, wide, vmap, loop.

    Inside a cycle, ``cached=True`` is right where the graph is kept (``GCNConv``, ``EGConv`` and
    others). ``SGConv`` and ``SSGConv`` keep propagated features, those of the very first call: the
    coarser levels, which reach the finest one through its features, would stop counting.

    Args:
        conv: Class or factory, called ``conv(in_channels, out_channels, **kwargs)`` with the
            widths of one group, once a group; where its signature names ``groups``, once, with the
            full widths and ``groups=groups``.
        in_channels: Channels in.
        out_channels: Channels out.
        groups: Independent groups; 1 gives the plain ``conv(in_channels, out_channels, **kwargs)``.
        strategy: ``"auto"``, ``"wide"``, ``"vmap"`` or ``"loop"``.
        **kwargs: Keyword arguments of ``conv``; every call gets copies of them.

    Cost:
        The weights and multiply-adds of ``groups`` narrow convolutions: a dense convolution with
        :math:`K` weights in its linear maps keeps :math:`K` / ``groups``.

    Raises:
        ValueError: If ``strategy`` is unknown or would not be right for ``conv``, a width is below
            1, ``groups`` does not divide both, attention heads make the copies wider than a group,
            or ``conv`` caches features.

    Example:
        >>> import torch_geometric.nn as pyg
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
    check_strategy(strategy)
    check_counts(in_channels=in_channels, out_channels=out_channels)
    check_groups(in_channels, out_channels, groups)

    def make(*widths: int, **named: int) -> nn.Module:
        made = conv(*widths, **named, **copy.deepcopy(kwargs))
        check_caches(made)
        return made

    if groups == 1:
        return make(in_channels, out_channels)
    if strategy == "auto" and names_groups(conv):
        return make(in_channels, out_channels, groups=groups)
    convs = [make(in_channels // groups, out_channels // groups) for _ in range(groups)]
    return STRATEGIES[choose(strategy, convs)](in_channels, out_channels, convs)


def check_strategy(strategy: str) -> None:
    """Refuse an unknown strategy.

    Raises:
        ValueError: If it is unknown.
    """
    if strategy not in ("auto", *STRATEGIES):
        raise ValueError(f"strategy must be one of {['auto', *STRATEGIES]}, got {strategy!r}")


def check_caches(conv: nn.Module) -> None:
    """Refuse a convolution that keeps the features of its first call.

    PyG has no type for this: its convolutions note ``cached`` and have attributes for what they
    keep, such as ``_cached_x``, from the start.

    Raises:
        ValueError: If it does.
    """
    for module in conv.modules():
        names = {name for name in vars(module) if "cache" in name} - {"cached", *GRAPH_CACHES}
        if names and is_cached(module):
            raise ValueError(
                f"{type(module).__name__} keeps features of its first call in "
                f"{', '.join(sorted(names))}, so that the coarser levels of a cycle would stop "
                "counting: take cached=False"
            )


def is_cached(module: nn.Module) -> bool:
    """Whether a module was made with PyG's ``cached=True``."""
    flag = vars(module).get("cached")
    return isinstance(flag, int) and flag != 0


def choose(strategy: str, convs: Sequence[nn.Module]) -> str:
    """Check the strategy against the narrow convolutions, or pick the first that is right.

    Raises:
        ValueError: If ``strategy`` would change the values of these convolutions.
    """
    if strategy == "auto":
        suits = {"wide": True, "vmap": is_stackable(convs[0])}
        return next((name for name in suits if suits[name] and not why_not(name, convs)), "loop")
    if reason := why_not(strategy, convs):
        raise ValueError(reason)
    return strategy


def why_not(strategy: str, convs: Sequence[nn.Module]) -> str | None:
    """Why a strategy would change the values of these convolutions."""
    if strategy == "loop":
        return None
    kind = type(convs[0]).__name__
    if any(map(is_lazy, [*convs[0].parameters(), *convs[0].buffers()])):
        return f"strategy {strategy!r} has to know the widths of {kind}, take 'loop'"
    first, *others = map(description, convs)
    for other in others:
        if first != other:
            unlike = {name for name, _ in set(first) ^ set(other)}
            return (
                f"strategy {strategy!r} would run all groups like the first {kind}, "
                f"and they differ in {', '.join(sorted(unlike))}: take 'loop'"
            )
    if strategy == "wide" and not is_widenable(convs[0]):
        return (
            f"strategy 'wide' would mix the groups of {convs[0]}, take 'vmap' or 'loop'; "
            f"it is right for {', '.join(known.__name__ for known in WIDE)} and common options"
        )
    if strategy == "vmap" and (name := loose_tensor(convs[0])) is not None:
        return (
            f"strategy 'vmap' would take `{name}` of the first {kind} for all groups, "
            "as torch does not know of it there: take 'loop', or register a buffer or submodule"
        )
    return None


def is_stackable(conv: nn.Module) -> bool:
    """Whether :class:`VmapConv` is of use for this narrow convolution.

    It is not where vmap has no rule (and would try every time), nor where something is to be kept
    from call to call: a cached graph, or ``SuperGATConv``'s attention for its own loss.
    """
    no_rule = nn.RNNBase, nn.RNNCellBase, pyg.MultiAggregation, pyg.HypergraphConv
    refused = *no_rule, pyg.SuperGATConv
    return not any(isinstance(m, refused) or is_cached(m) for m in conv.modules())


def names_groups(conv: Callable[..., nn.Module]) -> bool:
    """Whether the signature of a class or factory names ``groups``; ``**kwargs`` does not count.

    Example:
        >>> import torch_geometric.nn as pyg
        >>> names_groups(pyg.GCNConv), names_groups(lambda i, o, *, groups=1: nn.Identity())
        (False, True)
    """
    try:
        parameter = inspect.signature(conv).parameters.get("groups")
    except ValueError:  # builtins without a signature
        return False
    keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return parameter is not None and parameter.kind in keyword


STRATEGIES: dict[str, Callable[..., GroupedConv]] = {
    "wide": WideConv,
    "vmap": VmapConv,
    "loop": LoopConv,
}
