"""A grouped map and the batch norm behind it, added to features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula

from mgic_geo.nn.grouped_linear import grouped_linear
from mgic_geo.ops import native
from mgic_geo.ops.norm_kernel import STATISTICS
from mgic_geo.ops.operator import Operator, differentiable_gradients


def _fake(
    addend: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(addend, memory_format=torch.contiguous_format)
    return y, x.new_empty(STATISTICS, addend.size(1))


def _setup(ctx, inputs, output) -> None:
    _, x, weight, scale, shift, ctx.eps = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, scale, shift, output[1])


def _backward(ctx, grad: Tensor, _: Tensor):
    x, weight, scale, shift, statistics = ctx.saved_tensors
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # to differentiate again
        y = functional.batch_norm(
            grouped_linear(x, weight), None, None, scale, shift, True, 0.0, ctx.eps
        )
        grads = differentiable_gradients(y, (x, weight, scale, shift), grad)
    else:
        grads = _gradients(grad, x, weight, statistics, ctx.eps)
    needed = ctx.needs_input_grad
    return grad, *(g if n else None for g, n in zip(grads, needed[1:5], strict=True)), None


#: ``(addend, x, weight, scale, shift, eps)``: what native.add_normalized_linear says.
add_normalized_linear = Operator(
    "mgic::add_normalized_linear",
    native.add_normalized_linear,
    _fake,
    backward=_backward,
    setup=_setup,
)


def _gradients_fake(
    grad: Tensor, x: Tensor, weight: Tensor, *others: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = torch.empty_like(x, memory_format=torch.contiguous_format)
    width = grad.size(1)
    return rows, weight.new_empty(weight.shape), x.new_empty(width), x.new_empty(width)


_gradients = Operator(
    "mgic::add_normalized_linear_backward", native.add_normalized_linear_backward, _gradients_fake
)


@register_flop_formula(torch.ops.mgic.add_normalized_linear)
def _flops(addend: torch.Size, x: torch.Size, weight: torch.Size, *args, **kwargs) -> int:
    return 2 * 2 * x[0] * weight.numel()


@register_flop_formula(torch.ops.mgic.add_normalized_linear_backward)
def _backward_flops(grad: torch.Size, x: torch.Size, weight: torch.Size, *args, **kwargs) -> int:
    return 4 * 2 * x[0] * weight.numel()
