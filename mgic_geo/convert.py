"""Replace the convolutions of the user's graph network by cycles."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch_geometric.nn.inits import reset

from mgic_geo.conversion import (
    NotConvertible,
    Replacement,
    Report,
    check_convertible,
    drop_hooks,
    outermost,
    require,
    rewrite,
    shared_hooks,
)
from mgic_geo.levels import Correction
from mgic_geo.nn.grouped_conv import check_caches
from mgic_geo.nn.message_passing import ConvNormAct, MGICMessagePassing
from mgic_geo.nn.structured_linear import linear_maps

Factory = Callable[[int, int], nn.Module]
PLAIN = (bool, int, float, str, tuple, type(None))


def convert(
    model: nn.Module,
    *,
    group_size: int,
    coarse_size: int | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    min_width: int = 32,
    factories: Mapping[type[nn.Module], Factory] | None = None,
    norm: str | Callable | None = "batch_norm",
    act: str | Callable | None = "relu",
    cycle: str = "multiplicative",
    gradual: bool = False,
) -> tuple[nn.Module, Report]:
    """Rewrite a graph network: :class:`MGICMessagePassing` where a convolution keeps its width.

    Inside the cycle stands the same convolution with the same options, built anew at the widths of
    the levels. Its options are read from its attributes, where its constructor's arguments are
    kept under their own names, as in PyG; what is built is compared with what was there, and a
    convolution that cannot be built alike is left. Give ``factories`` for those.

    A cycle reaches several hops (:attr:`MGICMessagePassing.num_hops`), which sampled neighborhoods
    have to have. Everything that is new has to be trained.

    A convolution that is used at several places stays one; one whose weights are used outside of
    it, too, is left. Hooks on a convolution that is replaced, and on modules in it, are dropped,
    and a warning says so.

    Args:
        model: The network, such as PyG's ``GCN``, ``GraphSAGE``, ``GIN`` or ``GAT``, or your own;
            it is left as it is, and a copy returned.
        group_size: Channels per group, :math:`s_g`.
        coarse_size: Width of the coarsest level, :math:`s_c`; ``None`` means ``group_size``.
        include: Patterns of convolution names, such as ``"convs.1"``; others are left.
        exclude: Patterns of convolution names that are left.
        min_width: Convolutions with fewer channels are left.
        factories: ``(in_channels, out_channels) -> convolution`` by class, for modules that are no
            ``MessagePassing`` or cannot be read. They have to have ``in_channels`` and
            ``out_channels``.
        norm: As :class:`MGICMessagePassing`.
        act: As :class:`MGICMessagePassing`.
        cycle: As :class:`MGICMessagePassing`. An additive one takes any convolution that is made of
            linear maps, and reaches one hop as the original does.
        gradual: Whether every original stays beside its cycle. The network then begins as the
            original; move its share from 1 to 0 while you train
            (:func:`~mgic_geo.set_blend`), and drop the originals (:func:`~mgic_geo.finish`).

    Returns:
        The network and a report that prints as a table.

    Raises:
        ValueError: If a size is below 1, a pattern fits no convolution, there is none at all, the
            model still waits for its first input, or is wrapped (``DataParallel``,
            ``DistributedDataParallel``, compiled).

    References:
        Section 5 ("a universal approach suitable for different kinds of CNNs, GCNs").

    Example:
        >>> import torch
        >>> model = pyg.GraphSAGE(16, 64, num_layers=3, out_channels=4)
        >>> new, report = convert(model, group_size=16)
        >>> print(report)
        left     convs.0 (SAGEConv, 2,112 weights): changes the width from 16 to 64
        changed  convs.1 (SAGEConv): 8,256 to 5,520 weights, channels:inner/groups \
64:64/4 > 32:32/2 > 16:16/1
        left     convs.2 (SAGEConv, 516 weights): changes the width from 64 to 4
        not in a block that is known: 0 weights
        weights: 10,884 to 8,148 (74.9%)
        >>> new(torch.rand(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 4])
    """
    sizes: dict[str, Any] = {"group_size": group_size, "coarse_size": coarse_size}
    check_convertible(model, **sizes, min_width=min_width, cycle=cycle)
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError("the model takes widths from its first input: run it once before")
    factories = factories or {}
    names = outermost(model, lambda module: is_convolution(module, factories))

    def make(conv: Any) -> Replacement:
        channels = _width(conv)
        require(channels >= min_width, f"{channels} channels, below min_width {min_width}")
        try:
            check_caches(conv)
        except ValueError as error:
            raise NotConvertible(str(error)) from error
        require(cycle != "additive" or linear_maps(conv), "is not made of linear maps")
        made = MGICMessagePassing(
            channels,
            channels,
            factories.get(type(conv)) or read_factory(conv, channels),
            **sizes,
            norm=copy.deepcopy(norm),
            act=act,
            cycle=cycle,
        )
        _separate(made)
        made.to(next(conv.parameters())).train(conv.training)
        return Replacement(made, made.levels)

    makers = dict.fromkeys(names, make)
    return rewrite(model, makers, include=include, exclude=exclude, gradual=gradual)


def _separate(made: MGICMessagePassing) -> None:
    """Give each level its own norm and activation, where `norm` or `act` is a module."""
    for module in made.modules():
        if isinstance(module, ConvNormAct):
            module.norm, module.act = copy.deepcopy(module.norm), copy.deepcopy(module.act)
        elif isinstance(module, Correction):
            module.norm = copy.deepcopy(module.norm)


def is_convolution(module: nn.Module, factories: Mapping[type[nn.Module], Factory]) -> bool:
    """Whether this is a convolution with weights that is not a cycle already."""
    if type(module) in factories:
        return True
    known = isinstance(module, pyg.MessagePassing) and not isinstance(module, MGICMessagePassing)
    return known and any(True for _ in module.parameters())


def read_factory(conv: Any, channels: int) -> Factory:
    """How to build a convolution like ``conv`` at other widths.

    Args:
        conv: With ``channels`` channels in and out.
        channels: Its width.

    Raises:
        NotConvertible: If what is built at its own width differs from it.
    """
    options = _read_options(conv)

    def make_conv(in_channels: int, out_channels: int) -> nn.Module:
        def scale(option: Any) -> Any:
            is_network = isinstance(option, nn.Module)
            if is_network:
                return narrow_network(option, in_channels, channels)
            return copy.deepcopy(option)

        chosen = {name: scale(option) for name, option in options.items()}
        takes = inspect.signature(type(conv)).parameters
        if "in_channels" in takes:
            heads = conv.heads if vars(conv).get("concat") else 1
            require(
                out_channels % heads == 0,
                f"{out_channels} channels of a group cannot be shared by {heads} heads",
            )
            chosen |= {"in_channels": in_channels, "out_channels": out_channels // heads}
        return type(conv)(**chosen)

    try:
        alike = _describe(make_conv(channels, channels)) == _describe(conv)
    except (TypeError, ValueError) as error:
        raise NotConvertible(f"cannot be built anew ({error}); give `factories`") from error
    require(alike, "its options cannot be read from its attributes; give `factories`")
    return make_conv


def narrow_network(network: nn.Module, new: int, old: int) -> nn.Module:
    """A copy of an inner network with all widths scaled from ``old`` to ``new``, drawn anew.

    Raises:
        NotConvertible: If it has more than linear maps and what has one number a channel.
    """

    def scale(width: int) -> int:
        require(width * new % old == 0, f"its width {width} cannot be scaled by {new}/{old}")
        return width * new // old

    narrow = copy.deepcopy(network, shared_hooks(network))
    drop_hooks(narrow)
    for module in narrow.modules():
        for name, tensor in module.named_parameters(recurse=False):
            require(
                tensor.dim() < 2 or isinstance(module, nn.Linear | pyg.Linear),
                f"does not understand {type(module).__name__} in its network",
            )
            shape = [scale(size) for size in tensor.shape]
            setattr(module, name, nn.Parameter(tensor.new_ones(shape), tensor.requires_grad))
        for name, tensor in module.named_buffers(recurse=False):
            require(tensor.dim() < 2, f"does not understand {name} of {type(module).__name__}")
            if tensor.dim() == 1:
                setattr(module, name, tensor.new_zeros(scale(tensor.numel())))
        noted = vars(module)
        widths = {"in_features", "out_features", "in_channels", "out_channels", "num_features"}
        for name in widths & noted.keys():
            noted[name] = scale(noted[name])
        if "channel_list" in noted:
            noted["channel_list"] = [scale(width) for width in noted["channel_list"]]
    reset(narrow)
    return narrow


def _width(conv: Any) -> int:
    """Channels in and out, where they are the same.

    Raises:
        NotConvertible: Otherwise.
    """
    network = dict(conv.named_children()).get("nn")
    if isinstance(network, nn.Module):
        linear = [m for m in network.modules() if isinstance(m, nn.Linear | pyg.Linear)]
        require(linear, f"does not understand {type(network).__name__}")
        widths = linear[0].weight.size(1), linear[-1].weight.size(0)
    else:
        widths = vars(conv).get("in_channels"), vars(conv).get("out_channels")
        require(all(isinstance(width, int) for width in widths), f"has the widths {widths}")
        if vars(conv).get("concat"):
            widths = widths[0], widths[1] * conv.heads
    require(widths[0] != -1, "was made without a width, which its class does not note later")
    require(widths[0] == widths[1], f"changes the width from {widths[0]} to {widths[1]}")
    return int(widths[0])  # type: ignore[arg-type]


def _read_options(conv: Any) -> dict[str, Any]:
    """The constructor's arguments but for the widths, as far as attributes tell them."""
    options: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(conv)).parameters.items():
        if name in ("in_channels", "out_channels") or parameter.kind is parameter.VAR_KEYWORD:
            continue
        if name == "bias":
            options[name] = any(part.endswith("bias") for part, _ in conv.named_parameters())
        elif name == "eps" and hasattr(conv, "initial_eps"):
            options[name] = conv.initial_eps
        elif name == "train_eps":
            options[name] = isinstance(conv.eps, nn.Parameter)
        else:  # whatever the class calls its options, and not all are noted
            value = getattr(conv, name, parameter)
            if value is not parameter and not isinstance(value, Tensor):
                options[name] = value
    return options


def _describe(conv: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes of the state and which of it is the same, and the plain attributes."""
    state = conv.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(state.items())}
    shapes = {name: (tensor.shape, first[id(tensor)]) for name, tensor in state.items()}
    plain = {
        name: value
        for name, value in vars(conv).items()
        if isinstance(value, PLAIN) and not name.startswith("_") and name != "training"
    }
    return shapes, plain
