"""Any graph convolution made grouped: independent narrow convolutions side by side."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from mgic_geo.conv_copies import GroupedConv, LoopConv, VmapConv, is_stackable
from mgic_geo.grouped_linear import check_groups
from mgic_geo.wide_conv import WIDE, WideConv, is_widenable


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
