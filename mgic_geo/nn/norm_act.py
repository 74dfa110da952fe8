"""A norm and the activation behind it, in one pass over the features where that can be."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import BatchNorm

from mgic_geo.ops import native
from mgic_geo.ops.activations import ACTIVATIONS
from mgic_geo.ops.norm_kernel import STATISTICS, memory_order
from mgic_geo.ops.operator import Operator, differentiable_gradients, is_exporting, is_transformed

_PLAIN = {number: act() for act, number in ACTIVATIONS.items()}


def norm_act(norm: nn.Module, act: nn.Module | None, x: Tensor) -> Tensor:
    """Apply a norm and, behind it, an activation.

    A batch norm in training and a ReLU or hard swish are one compiled operation, forward and
    backward, where the kernels can be used; everything else is called as it is. The running
    statistics move as those of :class:`torch.nn.BatchNorm1d` do.

    Args:
        norm: Any module; ``torch.nn.BatchNorm1d`` and PyG's ``BatchNorm`` may be fused.
        act: Any module, or ``None`` for none; those of the kernels may be fused.
        x: Features.

    Shape:
        - ``x``: ``(N, C)``. Returns the same.

    Example:
        >>> norm_act(nn.BatchNorm1d(1), nn.ReLU(), torch.tensor([[-1.0], [1.0]])).round()
        tensor([[0.],
                [1.]], grad_fn=<RoundBackward0>)
    """
    batch_norm = fusable(norm, x)
    if batch_norm is None or not is_known(act):
        x = norm(x)
        return x if act is None else act(x)
    return _normalize(batch_norm, act, x)


def normalize_images(
    norm: nn.BatchNorm2d, x: Tensor, act: nn.Module | None = None
) -> Tensor | None:
    """Apply a batch norm to images by the compiled operation, if that can be.

    Args:
        norm: The norm.
        x: Images.
        act: The activation behind it, if :func:`is_known`; ``None`` for none.

    Shape:
        - ``x``: ``(B, C, H, W)``, channels-last. Returns the same, or ``None``: call
          ``torch.nn.BatchNorm2d.forward`` then. So it is where statistics are fixed, in other
          orders of memory, and where somebody transforms or compiles the computation.
    """
    usable = (
        not torch.compiler.is_compiling()
        and not is_transformed()
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and _takes_batch_statistics(norm, x)
    )
    return _normalize(norm, act, x) if usable else None


def _normalize(norm: nn.BatchNorm1d | nn.BatchNorm2d, act: nn.Module | None, x: Tensor) -> Tensor:
    activation = ACTIVATIONS[nn.Identity if act is None else type(act)]
    y, statistics = _native_norm(x, norm.weight, norm.bias, norm.eps, activation)
    mean, variance = statistics.detach()[:2]
    move_running_statistics(norm, mean, variance, x.numel() // x.size(1))
    return y


def fusable(norm: nn.Module, x: Tensor) -> nn.BatchNorm1d | None:
    """The batch norm that ``norm`` is, if it takes the batch's statistics and kernels may do that.

    Args:
        norm: Any module.
        x: What it would be called with, or a tensor like that.
    """
    batch_norm = unwrap_norm(norm)
    if (
        type(norm) in (BatchNorm, nn.BatchNorm1d)
        and type(batch_norm) is nn.BatchNorm1d
        and not any(map(is_hooked, (norm, batch_norm)))
        and x.dim() == 2
        and _takes_batch_statistics(batch_norm, x)
    ):
        return batch_norm
    return None


def unwrap_norm(norm: nn.Module) -> nn.Module:
    """Torch's batch norm inside PyG's wrapper; another norm as it is."""
    return norm.module if isinstance(norm, BatchNorm) else norm


def is_known(act: nn.Module | None) -> bool:
    """Whether the kernels apply an activation, and nobody wants to see it applied."""
    return act is None or (type(act) in ACTIVATIONS and not is_hooked(act))


def is_hooked(module: nn.Module | None) -> bool:
    """Whether somebody wants to see what goes through."""
    return module is not None and bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _takes_batch_statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether the statistics are those of ``x`` and the kernels can compute them."""
    return (
        (norm.training or norm.running_mean is None)
        and x.size(1) == norm.num_features
        and x.numel() > x.size(1)  # more than one row
        and not is_exporting()
        and not torch.is_autocast_enabled("cpu")
        and native.usable(x, *(z for z in _vectors(norm) if z is not None))
    )


def _vectors(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor | None, ...]:
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


def move_running_statistics(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor, num_rows: int
) -> None:
    """Move them as a call of ``norm`` does, towards those of a batch; ``variance`` is biased."""
    if not norm.training or norm.running_mean is None or norm.running_var is None:
        return
    share = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if share is None:  # the mean of all batches
        assert norm.num_batches_tracked is not None
        share = 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance * (num_rows / (num_rows - 1)), share)


def _norm_fake(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=memory_order(x)), x.new_empty(STATISTICS, x.size(1))


def _norm_setup(ctx, inputs, output) -> None:
    x, weight, bias, ctx.eps, ctx.activation = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, bias, output[1])


def _norm_backward(ctx, grad: Tensor, _: Tensor):
    x, weight, bias, statistics = ctx.saved_tensors
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # to differentiate again
        y = functional.batch_norm(x, None, None, weight, bias, True, 0.0, ctx.eps)
        y = _PLAIN[ctx.activation](y)
        return *differentiable_gradients(y, (x, weight, bias), grad), None, None
    grads = _native_norm_backward(grad, x, statistics, ctx.eps, ctx.activation)
    needed = ctx.needs_input_grad
    return *(g if n else None for g, n in zip(grads, needed, strict=False)), None, None


_native_norm = Operator(
    "mgic::norm_act", native.norm_act, _norm_fake, backward=_norm_backward, setup=_norm_setup
)


def _norm_backward_fake(
    grad: Tensor, x: Tensor, statistics: Tensor, eps: float, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    columns = x.new_empty(x.size(1))
    y = torch.empty_like(x, memory_format=memory_order(x))
    return y, columns, torch.empty_like(columns)


_native_norm_backward = Operator(
    "mgic::norm_act_backward", native.norm_act_backward, _norm_backward_fake
)
