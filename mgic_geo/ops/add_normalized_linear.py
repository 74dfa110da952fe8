"""The correction of a cycle: a grouped map, the batch norm after it, added to features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mgic_geo.ops.batch_norm_act import (
    ACTIVATIONS,
    batch_norm_act,
    empty_statistics,
    move_running_statistics,
    train_batch_norm,
)
from mgic_geo.ops.compiled import why_not_compiled
from mgic_geo.ops.csrc import build
from mgic_geo.ops.gpu.choice import why_not_multiply_in_triton, why_not_triton
from mgic_geo.ops.grouped_linear import grouped_linear, packing, why_not_multiply
from mgic_geo.ops.host import is_readable
from mgic_geo.ops.operator import Kernel, Operation, gradients_of

MIN_ROWS = 256  # below which the parts one after another are faster


def _reference(
    addend: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    z = grouped_linear(x, weight, None)
    y, statistics = batch_norm_act(z, scale, shift, eps, ACTIVATIONS[nn.Identity])
    return addend + y, statistics


def _check_shapes(
    name: str, wide: Tensor, x: Tensor, weight: Tensor, **norm: Tensor | None
) -> None:
    groups, rows, columns = weight.shape
    if x.shape != (wide.size(0), groups * columns) or wide.size(1) != groups * rows:
        raise ValueError(
            f"x must be (N, {groups * columns}) and {name} (N, {groups * rows}), got shapes "
            f"{tuple(x.shape)} and {tuple(wide.shape)}"
        )
    for given, each in norm.items():
        if each is not None and each.size(-1) != wide.size(1):
            raise ValueError(f"{given} must have {wide.size(1)} columns, got {each.size(-1)}")


def _compiled(addend: Tensor, x: Tensor, weight: Tensor, *norm: Any) -> tuple[Tensor, Tensor]:
    _check_shapes("addend", addend, x, weight)
    addend, x = addend.contiguous(), x.contiguous()
    scale, shift = (None if each is None else each.contiguous() for each in norm[:2])
    plan, out = packing(*weight.shape, lanes=build.lanes()), addend.size(1)
    y, statistics = torch.empty_like(addend), empty_statistics(addend)
    build.run(
        *("mgic_add_normalized_linear", addend, x, *x.shape, plan.begins, plan.inputs, out),
        *(*plan.pack(weight), scale, shift, norm[2], y, statistics),
    )
    return y, statistics


def _why_not(addend: Tensor, x: Tensor, weight: Tensor, *norm: Any) -> str | None:
    if x.size(0) < MIN_ROWS:
        return f"x has fewer than {MIN_ROWS} rows"
    return why_not_multiply(weight, addend=addend, x=x, scale=norm[0], shift=norm[1])


def _triton(addend: Tensor, x: Tensor, weight: Tensor, *norm: Any) -> tuple[Tensor, Tensor]:
    from mgic_geo.ops.gpu import add_normalized_linear as kernels

    _check_shapes("addend", addend, x, weight, scale=norm[0], shift=norm[1])
    return kernels.add_normalized(addend, x, weight, *norm)


def _why_not_in_triton(rows: Tensor, x: Tensor, weight: Tensor, *norm: Tensor | None) -> str | None:
    reason = why_not_multiply_in_triton(rows, x, weight)
    if reason is None:
        reason = why_not_triton(x, *norm)  # which may be in float32
    if reason is None and (x.size(0) < 2 or not weight.numel()):
        return "x has fewer than 2 rows, or a group no outputs"
    return reason


def _fake(addend: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(addend, memory_format=torch.contiguous_format)
    return y, empty_statistics(addend)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, x, weight, scale, shift, ctx.eps = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, scale, shift, output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grads = add_normalized_linear_backward(grad, *ctx.saved_tensors, ctx.eps)
    needed = ctx.needs_input_grad
    return grad, *(g if n else None for g, n in zip(grads, needed[1:5], strict=True)), None


#: ``(addend, x, weight, scale, shift, eps)``: ``addend``, ``(N, groups * out)``, and the batch norm
#: of the map of ``x``, ``(N, groups * in)``. Returns that and ``(STATISTICS, groups * out)``: mean
#: and biased variance of the map's results, and what the way back needs beside them.
add_normalized_linear = Operation(
    "mgic::add_normalized_linear",
    _reference,
    Kernel("triton", _triton, lambda *inputs: _why_not_in_triton(*inputs[:-1])),
    Kernel("compiled", _compiled, _why_not),
    fake=_fake,
    setup=_setup,
    backward=_backward,
    flops=lambda addend, x, weight, *_, **__: 2 * 2 * x[0] * weight.numel(),
)


def _backward_reference(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    statistics: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def normalized(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        z = grouped_linear.reference(x, weight, None)
        return functional.batch_norm(z, None, None, scale, shift, True, 0.0, eps)

    ones, zeros = x.new_ones(grad.size(1)), x.new_zeros(grad.size(1))
    scale, shift = ones if scale is None else scale, zeros if shift is None else shift
    found = gradients_of(normalized, (x, weight, scale, shift), grad)
    return found[0], found[1], found[2], found[3]


def _backward_compiled(
    grad: Tensor, x: Tensor, weight: Tensor, *norm: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, statistics, eps = norm
    _check_shapes("grad", grad, x, weight)
    grad, x, statistics = grad.contiguous(), x.contiguous(), statistics.contiguous()
    groups, rows, columns = weight.shape
    plan = packing(groups, rows, columns, lanes=build.lanes())
    back = packing(groups, columns, rows, lanes=build.lanes())
    out, grad_x, grad_weight = grad.size(1), torch.empty_like(x), x.new_empty(weight.shape)
    grad_scale, grad_shift = x.new_empty(out), x.new_empty(out)
    build.run(
        *("mgic_add_normalized_linear_backward", grad, x, *x.shape, plan.begins, plan.inputs, out),
        *(*plan.pack(weight), back.begins, back.inputs, *back.pack(weight.transpose(1, 2))),
        *(statistics, eps, grad_x, plan.inverse, grad_weight, grad_scale, grad_shift),
    )
    return grad_x, grad_weight, grad_scale, grad_shift


def _backward_triton(
    grad: Tensor, x: Tensor, weight: Tensor, *norm: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from mgic_geo.ops.gpu import add_normalized_linear as kernels

    _check_shapes("grad", grad, x, weight, statistics=norm[2])
    return kernels.gradients(grad, x, weight, *norm[2:])


def _backward_fake(
    grad: Tensor, x: Tensor, weight: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = torch.empty_like(x, memory_format=torch.contiguous_format)
    width = grad.size(1)
    return rows, weight.new_empty(weight.shape), x.new_empty(width), x.new_empty(width)


#: ``(grad, x, weight, scale, shift, statistics, eps)``: gradients of ``x``, ``weight``, ``scale``
#: and ``shift`` of :data:`add_normalized_linear`.
add_normalized_linear_backward = Operation(
    "mgic::add_normalized_linear_backward",
    _backward_reference,
    Kernel(
        "triton",
        _backward_triton,
        lambda grad, x, weight, a, b, statistics, _: _why_not_in_triton(
            grad, x, weight, statistics
        ),
    ),
    Kernel(
        "compiled",
        _backward_compiled,
        lambda grad, x, weight, a, b, statistics, _: why_not_compiled(
            grad=grad, x=x, weight=weight, statistics=statistics
        ),
    ),
    fake=_backward_fake,
    flops=lambda grad, x, weight, *_, **__: 4 * 2 * x[0] * weight.numel(),
)


def train_correction(addend: Tensor, x: Tensor, weight: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """:data:`add_normalized_linear` with a norm that takes the statistics of the map's results.

    The running statistics move as in a call of ``norm``.
    """
    inputs = addend, x, weight, norm.weight, norm.bias, norm.eps
    # torch's own norm does more at once than the reference
    if not is_readable(x) and add_normalized_linear.why_not(*inputs) is not None:
        return addend + train_batch_norm(norm, None, grouped_linear(x, weight, None))
    y, statistics = add_normalized_linear(*inputs)
    mean, variance = statistics.detach()[:2]
    move_running_statistics(norm, mean, variance, len(addend))
    return y
