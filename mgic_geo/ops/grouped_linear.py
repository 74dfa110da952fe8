"""Block-diagonal maps of rows, and the gradient of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from mgic_geo.ops.compiled import why_not_compiled, why_not_in_autocast
from mgic_geo.ops.csrc import build
from mgic_geo.ops.operator import Kernel, Operation

ROWS_PER_SHARE = 1024
MAX_SHARES = 64
MAX_COLUMNS = 7 * 128  # inputs of a group up to which the kernel is faster than torch's product


def num_shares(rows: int) -> int:
    """Shares of the rows whose sums are added up in the end, whatever the number of threads."""
    return min(max(rows // ROWS_PER_SHARE, 1), MAX_SHARES)


class Packing(NamedTuple):
    """How a weight ``(groups, out, parts * in)`` is laid out for the kernel.

    Args:
        begins: First input channel of every piece of as many outputs as a vector has lanes,
            ``(pieces,)``.
        index: Where every number comes from in the flat weight with a zero after it,
            ``(pieces, parts, inputs, lanes)``.
        inverse: Where every number of the flat weight is in the packed one.
    """

    begins: Tensor
    index: Tensor
    inverse: Tensor

    def pack(self, weight: Tensor) -> Tensor:
        """Returns the packed weight, ``(pieces, parts, inputs, lanes)``."""
        kept = _kept.get(weight)
        if kept is None:
            return self._pack(weight)
        if not kept.holds(self, weight):
            _kept[weight] = kept = _Kept(self, weight)
        return kept.packed

    def _pack(self, weight: Tensor) -> Tensor:
        packed = weight.new_empty(self.index.shape)
        build.run("mgic_pack", weight.contiguous(), self.index, packed)
        return packed

    @property
    def inputs(self) -> int:
        """Input channels of a piece."""
        return self.index.size(2)

    def pad(self, bias: Tensor | None, width: int) -> Tensor | None:
        """Returns the bias of ``width`` outputs with zeros up to a full piece."""
        if bias is None:
            return None
        if bias.shape != (width,):
            raise ValueError(f"bias must be ({width},), got shape {tuple(bias.shape)}")
        missing = self.index.size(3) * self.index.size(0) - width
        return functional.pad(bias, (0, missing)) if missing else bias.contiguous()

    def unpack(self, sums: Tensor, shape: Sequence[int]) -> Tensor:
        """Returns the weight that several packed ones add up to, ``(shares, *packed)``."""
        weight = sums.new_empty(shape)
        build.run("mgic_unpack", sums, self.index.numel(), self.inverse, weight)
        return weight


class _Kept:
    """A packed weight, as long as the weight is what it was.

    Args:
        plan: How it is packed; ``None`` where it is to be packed at the next product.
        weight: What is packed.
    """

    def __init__(self, plan: Packing | None, weight: Tensor) -> None:
        self.plan = plan
        # its memory cannot become another weight's while this one is kept
        self.source, self.version = weight.detach(), weight._version
        self.packed = torch.empty(0) if plan is None else plan._pack(weight)

    def holds(self, plan: Packing, weight: Tensor) -> bool:
        """Whether this is that weight, packed in that way."""
        return (
            self.plan is plan
            and self.version == weight._version
            and self.source.data_ptr() == weight.data_ptr()
            and self.source.stride() == weight.stride()
        )


_kept = WeakIdKeyDictionary()


def keep_packed_(weight: Tensor) -> None:
    """Let a weight stay packed from one product to the next, until it changes.

    Worth it where nobody trains any more: twice the memory, and changes by way of ``weight.data``
    go unnoticed.
    """
    if not weight.is_inference():  # these do not count their changes
        _kept[weight] = _Kept(None, weight)


@lru_cache(maxsize=256)
def packing(groups: int, rows: int, columns: int, parts: int = 1, *, lanes: int) -> Packing:
    """Lay out ``groups`` blocks of ``rows`` outputs by ``parts`` times ``columns`` inputs."""
    width = groups * columns
    outputs = torch.arange(-(-groups * rows // lanes) * lanes).view(-1, 1, 1, lanes)
    group = (outputs // rows).clamp(max=groups - 1)
    begins = group[..., 0].view(-1) * columns
    inputs = int((group[..., -1].view(-1) * columns + columns - begins).max())
    begins = begins.clamp(max=width - inputs)
    channel = begins.view(-1, 1, 1, 1) + torch.arange(inputs).view(-1, 1)
    part = torch.arange(parts).view(-1, 1, 1)
    index = ((group * rows + outputs % rows) * parts + part) * columns + channel % columns
    there = (channel // columns == group) & (outputs < groups * rows)
    size = groups * rows * parts * columns
    index = index.where(there, size)
    inverse = torch.empty(size + 1, dtype=torch.long)
    inverse[index.view(-1)] = torch.arange(index.numel())
    return Packing(begins, index, inverse[:-1].clone())


def in_rows(x: Tensor) -> Tensor:
    """``x`` with the numbers of a row side by side."""
    return x if x.stride(1) == 1 and not x.is_neg() else x.contiguous().resolve_neg()


def why_not_multiply(weight: Tensor, **tensors: Tensor | None) -> str | None:
    """Why a product with these groups, ``(groups, out, in)``, does not run in the kernels."""
    if weight.size(2) > MAX_COLUMNS:
        return f"groups have {weight.size(2)} inputs, more than {MAX_COLUMNS}"
    return why_not_in_autocast() or why_not_compiled(**tensors, weight=weight)


def _sum_reference(x: Tensor) -> Tensor:
    return x.sum(0)


def _sum_compiled(x: Tensor) -> Tensor:
    x, shares = in_rows(x), num_shares(x.size(0))
    y, sums = x.new_empty(x.size(1)), x.new_zeros(shares, x.size(1), dtype=torch.double)
    build.run("mgic_sum_rows", x, *x.shape, y, sums, shares)
    return y


#: ``(x,)``: the sum over the rows of ``(N, C)``. Torch's order of sums, and so its rounding, is one
#: of the threads.
sum_rows = Operation(
    "mgic::sum_rows",
    _sum_reference,
    Kernel("compiled", _sum_compiled, lambda x: why_not_compiled(x=x)),
    fake=lambda x: x.new_empty(x.size(1)),
)


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    groups, _, columns = weight.shape
    if groups == 1:
        return functional.linear(x, weight[0], bias)
    y = torch.bmm(x.reshape(-1, groups, columns).transpose(0, 1), weight.transpose(1, 2))
    y = y.transpose(0, 1).flatten(1)  # (groups, N, out / groups) -> (N, out)
    return y if bias is None else y + bias.to(y.dtype)  # autocast made y narrower


def _compiled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _multiply(x, weight, bias, None)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, addend: Tensor | None) -> Tensor:
    x = in_rows(x)
    plan = packing(*weight.shape, lanes=build.lanes())
    y = x.new_empty(x.size(0), weight.size(0) * weight.size(1))
    build.run(
        *("mgic_grouped_linear", x, *x.shape, plan.begins, plan.inputs, y.size(1)),
        *(plan.pack(weight), plan.pad(bias, y.size(1)), addend, y),
    )
    return y


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.size(0), weight.size(0) * weight.size(1))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _gradients(ctx: Any, grad: Tensor, needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    grad_x = grouped_linear(grad, weight.transpose(1, 2), None) if needed[0] else None
    grad_weight = grouped_linear_weight(x, grad, weight.size(0)) if needed[1] else None
    return grad_x, grad_weight, sum_rows(grad) if ctx.has_bias else None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, grad, ctx.needs_input_grad)


#: ``(x, weight, bias)``: a block-diagonal matrix, given by its blocks ``(groups, out, in)``, times
#: rows ``(N, groups * in)``; ``bias`` is ``(groups * out,)`` or ``None``.
grouped_linear = Operation(
    "mgic::grouped_linear",
    _reference,
    Kernel("compiled", _compiled, lambda x, w, b: why_not_multiply(w, x=x, bias=b)),
    fake=_fake,
    setup=_setup,
    backward=_backward,
    flops=lambda x, weight, *_, **__: 2 * x[0] * weight.numel(),
)


def _add_reference(addend: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return addend + grouped_linear(x, weight, bias)


def _add_compiled(addend: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _multiply(x, weight, bias, addend.contiguous())


def _add_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _setup(ctx, inputs[1:], output)


def _add_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return grad, *_gradients(ctx, grad, ctx.needs_input_grad[1:])


#: ``(addend, x, weight, bias)``: :data:`grouped_linear` of ``x``, added to ``addend``, in one pass
#: over the result.
add_grouped_linear = Operation(
    "mgic::add_grouped_linear",
    _add_reference,
    Kernel(
        "compiled",
        _add_compiled,
        lambda addend, x, w, b: why_not_multiply(w, addend=addend, x=x, bias=b),
    ),
    fake=lambda addend, x, weight, bias: _fake(x, weight, bias),
    setup=_add_setup,
    backward=_add_backward,
    flops=lambda addend, x, weight, *_, **__: 2 * x[0] * weight.numel(),
)


def _weight_reference(x: Tensor, grad: Tensor, groups: int) -> Tensor:
    x, grad = x.unflatten(1, (groups, -1)), grad.unflatten(1, (groups, -1))
    return torch.bmm(grad.permute(1, 2, 0), x.transpose(0, 1))


def _weight_compiled(x: Tensor, grad: Tensor, groups: int) -> Tensor:
    x, grad = in_rows(x), grad.contiguous()
    rows, columns = grad.size(1) // groups, x.size(1) // groups
    plan = packing(groups, rows, columns, lanes=build.lanes())
    sums = grad.new_zeros(num_shares(x.size(0)), *plan.index.shape)
    build.run(
        *("mgic_grouped_linear_weight", x, *x.shape, plan.begins, plan.inputs, grad.size(1)),
        *(grad, sums, sums.size(0)),
    )
    return plan.unpack(sums, (groups, rows, columns))


def _weight_fake(x: Tensor, grad: Tensor, groups: int) -> Tensor:
    return x.new_empty(groups, grad.size(1) // groups, x.size(1) // groups)


def _weight_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _weight_backward(ctx: Any, change: Tensor) -> tuple[Tensor, Tensor, None]:
    x, grad = ctx.saved_tensors
    back = grouped_linear(grad, change.transpose(1, 2), None)
    return back, grouped_linear(x, change, None), None


#: ``(x, grad, groups)``: the gradient of the weight of :data:`grouped_linear`.
grouped_linear_weight = Operation(
    "mgic::grouped_linear_weight",
    _weight_reference,
    Kernel(
        "compiled",
        _weight_compiled,
        lambda x, grad, groups: why_not_in_autocast() or why_not_compiled(x=x, grad=grad),
    ),
    fake=_weight_fake,
    setup=_weight_setup,
    backward=_weight_backward,
    flops=lambda x, grad, groups, **_: 2 * x[0] * x[1] * grad[1] // groups,
)
