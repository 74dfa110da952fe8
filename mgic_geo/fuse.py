"""The form of a graph network, or of one on vectors, that is deployed."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_geometric.nn import BatchNorm

from mgic_geo.conversion import computed_tensors
from mgic_geo.levels import Correction, MGICBlock, Residual
from mgic_geo.nn.conv_copies import BATCH_NORMS
from mgic_geo.nn.correction import GraphCorrection
from mgic_geo.nn.diff_conv import DiffGCNConv
from mgic_geo.nn.grouped_linear import GroupedLinear
from mgic_geo.nn.linear import MGICLinear
from mgic_geo.nn.message_passing import ConvNormAct, MGICMessagePassing
from mgic_geo.nn.norm_act import unwrap_norm
from mgic_geo.nn.structured_linear import MULTIPLIED_OUT, StructuredLinear
from mgic_geo.nn.width_change import WidthChange
from mgic_geo.ops.grouped_linear import keep_packed_
from mgic_geo.ops.inputs import check_module
from mgic_geo.ops.operator import computes_as, has_own_forward

LINEAR = (nn.Linear, GroupedLinear, DiffGCNConv)
Last = nn.Linear | GroupedLinear | DiffGCNConv

Model = TypeVar("Model", bound=nn.Module)


def fuse(model: Model) -> Model:
    r"""An equal network for inference alone, with less to compute.

    A batch norm with fixed statistics is a scale :math:`a` and a shift :math:`b` of every channel,
    and :math:`a (W x + c) + b = (a W) x + (a c + b)`. So every norm goes into the map in front of
    it: linear and grouped maps, differential convolutions, and a cycle's prolongations
    :math:`N_j P_j`. The norm after a whole cycle goes into its finest layer. Norms after edge
    convolutions stay: a point without neighbors gets 0 from those, not a shift. So do those after a
    map that stands at several places, and after an additive cycle that is not multiplied out. A
    norm as wide as the map before it is one over its outputs: in ``(B, N, C)``, where PyTorch's
    batch norm is over ``N``, these are two widths.

    A cycle of linear maps alone, such as a whole :class:`MGICLinear` and every map of an additive
    :class:`MGICMessagePassing`, is one matrix. It is multiplied out up to a width of 256, where one
    dense product is faster than those of the levels: such a network is as fast as its dense twin,
    and has as many weights.

    Args:
        model: A network of this package, trained. It is left as it is.

    Returns:
        A network in evaluation mode whose parameters need no gradients; its values are those of
        ``model.eval()`` up to rounding. It is a network as others are: it may be moved, cast,
        copied, saved and fused again, and its state may be replaced by that of another fused
        network. Weights stay as the kernels want them from call to call until they change; what
        writes to them by way of ``weight.data`` goes unnoticed.

    Example:
        >>> from mgic_geo import create_model
        >>> model = create_model("mgic_diffgcn", k=4).eval()
        >>> pos = torch.rand(20, 3)
        >>> torch.testing.assert_close(fuse(model)(pos), model(pos), rtol=1e-4, atol=1e-4)
    """
    check_module(model)
    with torch.inference_mode(False):  # tensors made in it do not count their changes
        fused = copy.deepcopy(model, computed_tensors(model)).eval().requires_grad_(False)
        _multiply_out(fused)
        shared = _shared_modules(fused)
        for module in list(fused.modules()):
            _fold_children(module, shared)
        for module in fused.modules():
            if isinstance(module, GroupedLinear):
                keep_packed_(module.weight)
    return fused


def _shared_modules(model: nn.Module) -> set[nn.Module]:
    """Modules that stand at several places: what follows at one of them is not their part."""
    places = Counter(child for module in model.modules() for child in module._modules.values())
    return {module for module, count in places.items() if module is not None and count > 1}


def _fold_children(module: nn.Module, shared: set[nn.Module]) -> None:
    if isinstance(module, ConvNormAct) and computes_as(module, ConvNormAct):
        last = _last_layer(module.conv, shared)
        _fold_child(module, "norm", last)
        _fold_relu(module, last)
    elif isinstance(module, nn.Sequential) and computes_as(module, nn.Sequential):
        for before, name in zip(module, list(module._modules)[1:], strict=False):
            _fold_child(module, name, _last_layer(before, shared))
    elif isinstance(module, Correction) and computes_as(module, Correction, GraphCorrection):
        _fold_child(module, "norm", _last_layer(module.transfer, shared))


def _multiply_out(module: nn.Module) -> None:
    """Put a dense map in the place of every cycle below that is linear and narrow enough."""
    for name, child in module._modules.items():  # what stands at several places at each of them
        matrix = None if child is None else _matrix_of(child)
        if matrix is not None:
            setattr(module, name, _dense(*matrix))
        elif child is not None:
            _multiply_out(child)


def _dense(weight: Tensor, bias: Tensor | None) -> GroupedLinear:
    dense = GroupedLinear(weight.size(1), weight.size(0), bias=bias is not None)
    dense.weight = nn.Parameter(weight.unsqueeze(0).contiguous(), requires_grad=False)
    dense.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return dense.eval()


def _matrix_of(module: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """The dense weight and the bias of a cycle, if it is linear and dense is as fast."""
    if isinstance(module, StructuredLinear) and computes_as(module, StructuredLinear):
        return (module.weight[0], module.bias) if module.width <= MULTIPLIED_OUT else None
    if not isinstance(module, MGICLinear) or (
        max(module.channels, module.out_channels) > MULTIPLIED_OUT
    ):
        return None
    leaves = [child for child in module.modules() if not any(True for _ in child.children())]
    if any(map(has_own_forward, module.modules())) or not all(
        computes_as(leaf, GroupedLinear, WidthChange, nn.Identity)
        or (computes_as(leaf, nn.BatchNorm1d) and leaf.running_mean is not None)
        for leaf in leaves
    ):
        return None
    some, precise = next(module.parameters()), copy.deepcopy(module).double()
    units = torch.eye(module.channels, dtype=torch.double, device=some.device)
    shift = precise(torch.zeros_like(units[:1]))[0]
    return (precise(units) - shift).t().to(some.dtype), shift.to(some.dtype)


def _fold_child(parent: nn.Module, name: str, last: Last | None) -> None:
    """Put the norm ``parent.name`` into the layer before, if it is one and that can take it."""
    linear, norm = _map_of(last), _plain_norm(parent.get_submodule(name))
    if linear is None or norm is None or norm.running_mean is None or norm.running_var is None:
        return
    if norm.num_features != _width(linear):  # a norm over another axis
        return
    scale = (_precise(norm.running_var) + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * _precise(norm.weight)
    shift = -scale * _precise(norm.running_mean)
    shift = shift if norm.bias is None else shift + _precise(norm.bias)
    _scale_and_shift(linear, scale, shift)
    setattr(parent, name, nn.Identity())


def _precise(x: Tensor) -> Tensor:
    """For what is rounded to half precision only once it is done."""
    return x.float() if x.dtype in (torch.half, torch.bfloat16) else x


def _fold_relu(layer: ConvNormAct, last: Last | None) -> None:
    """Let the map in front of a ReLU do it, or do it in place, where nothing is between them."""
    acts = type(layer.act) is nn.ReLU and not has_own_forward(layer.act)
    if not acts or type(layer.norm) is not nn.Identity or last is None:
        return
    if isinstance(last, DiffGCNConv):
        last.relu, layer.act = True, nn.Identity()
    else:
        layer.act = nn.ReLU(inplace=True)


def _scale_and_shift(linear: nn.Linear | GroupedLinear, scale: Tensor, shift: Tensor) -> None:
    old = linear.weight
    rows = _precise(old).view(scale.numel(), -1)  # of an output each, in both kinds
    weight = (rows * scale.unsqueeze(1)).view_as(old)
    bias = shift if linear.bias is None else _precise(linear.bias) * scale + shift
    linear.weight = nn.Parameter(weight.to(old.dtype), requires_grad=False)
    linear.bias = nn.Parameter(bias.to(old.dtype), requires_grad=False)


def _map_of(last: Last | None) -> nn.Linear | GroupedLinear | None:
    """The linear map of a layer, if another weight can take the place of its own."""
    linear = last.lin if isinstance(last, DiffGCNConv) else last
    # what is pruned or normalized is computed from other parameters
    return linear if linear is not None and "weight" in linear._parameters else None


def _last_layer(module: nn.Module, shared: set[nn.Module]) -> Last | None:
    """The layer whose result is the module's, if it is linear and nobody else has it."""
    known = computes_as(module, *LINEAR, MGICMessagePassing, MGICLinear, MGICBlock)
    if module in shared or not known:
        return None
    if isinstance(module, LINEAR):
        return None if isinstance(module, DiffGCNConv) and module.lin in shared else module
    if isinstance(module, MGICMessagePassing | MGICLinear):
        return _last_layer(module.block, shared)
    assert isinstance(module, MGICBlock)
    sums = module.cycle == "additive" or isinstance(module.layers[0], Residual)
    return None if sums else _last_layer(module.layers[0], shared)


def _width(linear: nn.Linear | GroupedLinear) -> int:
    return linear.out_features if isinstance(linear, nn.Linear) else linear.out_channels


def _plain_norm(module: nn.Module) -> _BatchNorm | None:
    """Torch's batch norm inside PyG's wrapper."""
    norm = unwrap_norm(module)
    known = computes_as(module, BatchNorm, *BATCH_NORMS) and computes_as(norm, *BATCH_NORMS)
    return norm if known and isinstance(norm, _BatchNorm) else None
