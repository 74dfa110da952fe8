"""Batch norm and the activation after it, in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mgic_geo.ops.compiled import why_not_compiled, why_not_in_autocast
from mgic_geo.ops.csrc import build
from mgic_geo.ops.csrc.call import read_constant
from mgic_geo.ops.host import is_readable
from mgic_geo.ops.operator import Kernel, Operation, gradients_of

STATISTICS = read_constant("norm.h", "STATISTICS")

#: Activations of the kernels, by their numbers in activations.h.
ACTIVATIONS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.Hardswish: 2}
FUNCTIONS: dict[int, Callable[[Tensor], Tensor]] = {
    0: lambda x: x,
    1: functional.relu,
    2: functional.hardswish,
}


def memory_order(x: Tensor) -> torch.memory_format:
    """The order in which the channels of a row, or of a pixel, are side by side."""
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


def in_memory(x: Tensor) -> Tensor:
    """``x`` with its axes in the order of memory: the channels last."""
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x


def _exact(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def empty_statistics(x: Tensor) -> Tensor:
    """Room for those of every channel of ``x``: in half precision they would decide on the result.

    Example:
        >>> empty_statistics(torch.ones(2, 3).half()).dtype
        torch.float32
    """
    return x.new_empty(STATISTICS, x.size(1), dtype=_exact(x))


def _rows_of(x: Tensor) -> tuple[int, int]:
    if x.dim() not in (2, 4) or not x.numel():
        raise ValueError(f"x must be (N, C) or (B, C, H, W), none of them 0, got {tuple(x.shape)}")
    return x.numel() // x.size(1), x.size(1)


def _normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    for name, each in (("weight", weight), ("bias", bias)):
        if each is not None and each.shape != (x.size(1),):
            raise ValueError(f"{name} must be ({x.size(1)},), got shape {tuple(each.shape)}")
    y, mean, scale = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
    return FUNCTIONS[activation](y), mean, scale


def _reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: int
) -> tuple[Tensor, Tensor]:
    y, mean, inverse = _normalize(x, weight, bias, eps, activation)
    with torch.no_grad():
        scale = inverse if weight is None else inverse * weight
        shift = torch.zeros_like(mean) if bias is None else bias.to(mean.dtype)
        variance = inverse.square().reciprocal() - eps
        rows = mean, variance, scale, shift, torch.zeros_like(mean)
    return y, torch.stack(rows).to(_exact(x))


def _compiled(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: int
) -> tuple[Tensor, Tensor]:
    x = x.contiguous(memory_format=memory_order(x))
    weight, bias = (None if each is None else each.contiguous() for each in (weight, bias))
    rows, channels = _rows_of(x)
    y, statistics = torch.empty_like(x), empty_statistics(x)
    build.run(
        *("mgic_norm", in_memory(x), rows, channels, weight, bias, eps, activation),
        *(in_memory(y), statistics),
    )
    return y, statistics


def _why_not(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: int
) -> str | None:
    if not x.is_contiguous(memory_format=memory_order(x)):
        return "x is not contiguous, images channels-last"
    return why_not_in_autocast() or why_not_compiled(x=x, weight=weight, bias=bias)


def _fake(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, activation: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=memory_order(x)), empty_statistics(x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, ctx.eps, ctx.activation = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, bias, output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grads = batch_norm_act_backward(grad, *ctx.saved_tensors, ctx.eps, ctx.activation)
    needed = ctx.needs_input_grad
    return *(g if n else None for g, n in zip(grads, needed, strict=False)), None, None


#: ``(x, weight, bias, eps, activation)``: every channel of ``(N, C)``, or of images
#: ``(B, C, H, W)``, normalized over rows or pixels, and one of :data:`ACTIVATIONS` after it.
#: Returns that and ``(STATISTICS, C)``: mean, biased variance, and what the way back needs.
batch_norm_act = Operation(
    "mgic::batch_norm_act",
    _reference,
    Kernel("compiled", _compiled, _why_not),
    fake=_fake,
    setup=_setup,
    backward=_backward,
)


def _backward_reference(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    eps: float,
    activation: int,
) -> tuple[Tensor, Tensor, Tensor]:
    ones, zeros = x.new_ones(x.size(1)), x.new_zeros(x.size(1))
    found = gradients_of(
        lambda x, weight, bias: _normalize(x, weight, bias, eps, activation)[0],
        (x, ones if weight is None else weight, zeros if bias is None else bias),
        grad,
    )
    return found[0], found[1], found[2]


def _backward_compiled(grad: Tensor, x: Tensor, *norm: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, statistics, eps, activation = norm
    order = memory_order(x)
    grad, x = grad.contiguous(memory_format=order), x.contiguous(memory_format=order)
    rows, channels = _rows_of(x)
    grad_x = torch.empty_like(x)
    grad_weight, grad_bias = x.new_empty(channels), x.new_empty(channels)
    build.run(
        *("mgic_norm_backward", in_memory(grad), in_memory(x), rows, channels),
        *(statistics.contiguous(), eps, activation, in_memory(grad_x), grad_weight, grad_bias),
    )
    return grad_x, grad_weight, grad_bias


def _backward_fake(grad: Tensor, x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    columns = x.new_empty(x.size(1))
    y = torch.empty_like(x, memory_format=memory_order(x))
    return y, columns, torch.empty_like(columns)


#: ``(grad, x, weight, bias, statistics, eps, activation)``: gradients of ``x``, ``weight`` and
#: ``bias`` of :data:`batch_norm_act`.
batch_norm_act_backward = Operation(
    "mgic::batch_norm_act_backward",
    _backward_reference,
    Kernel(
        "compiled",
        _backward_compiled,
        lambda grad, x, w, b, statistics, *_: why_not_compiled(
            grad=grad, x=x, statistics=statistics
        ),
    ),
    fake=_backward_fake,
)


def takes_batch_statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether a call of ``norm`` normalizes by the statistics of ``x``, and these are there."""
    return (
        (norm.training or norm.running_mean is None)
        and x.dim() > 1
        and x.size(1) == norm.num_features
        and x.numel() > x.size(1)  # more than one row
    )


def train_batch_norm(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, act: nn.Module | None, x: Tensor
) -> Tensor:
    """A batch norm that :func:`takes_batch_statistics` of ``x``, and one of :data:`ACTIVATIONS`.

    The running statistics move as in a call of ``norm``.
    """
    activation = ACTIVATIONS[nn.Identity if act is None else type(act)]
    if not is_readable(x) and norm.momentum is not None:  # no kernel: torch's own moves them, too
        if norm.training and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        moved = (norm.running_mean, norm.running_var) if norm.training else (None, None)
        y = functional.batch_norm(x, *moved, norm.weight, norm.bias, True, norm.momentum, norm.eps)
        return FUNCTIONS[activation](y)
    y, statistics = batch_norm_act(x, norm.weight, norm.bias, norm.eps, activation)
    mean, variance = statistics.detach()[:2]
    move_running_statistics(norm, mean, variance, x.numel() // x.size(1))
    return y


def move_running_statistics(
    norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, variance: Tensor, num_rows: int
) -> None:
    """Move them as a call of ``norm`` does, towards those of a batch; ``variance`` is biased."""
    if not norm.training or norm.running_mean is None or norm.running_var is None:
        return
    share: float | Tensor | None = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if share is None:  # the mean of all batches
        assert norm.num_batches_tracked is not None
        share = norm.num_batches_tracked.to(norm.running_mean.dtype).reciprocal()
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(
        (variance * (num_rows / (num_rows - 1))).to(norm.running_var.dtype), share
    )
