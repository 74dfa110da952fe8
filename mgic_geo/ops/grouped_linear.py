"""Block-diagonal maps of rows, and the gradient of their weights."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from mgic_geo.ops.compiled import why_not_compiled, why_not_in_autocast
from mgic_geo.ops.csrc import build
from mgic_geo.ops.gpu.choice import why_not_multiply_in_triton
from mgic_geo.ops.host import is_readable
from mgic_geo.ops.operator import ELSEWHERE, Kernel, Operation

MAX_COLUMNS = 7 * 128  # inputs of a group up to which the kernel is faster than torch's product


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

    def pack(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """What a kernel takes: the weight and how to pack it, or a packed one and ``None``."""
        if not _kept or weight not in _kept:
            return weight.contiguous(), self.index
        kept = _kept[weight]
        if kept is None or not kept.holds(self, weight):
            _kept[weight] = kept = _Kept(self, weight)
        return kept.packed, None

    def lay_out(self, weight: Tensor) -> Tensor:
        """Returns the packed weight, ``(pieces, parts, inputs, lanes)``."""
        return torch.cat([weight.flatten(), weight.new_zeros(1)])[self.index]

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


class _Kept:
    """A packed weight, as long as the weight is what it was."""

    def __init__(self, plan: Packing, weight: Tensor) -> None:
        self.plan = plan
        # its memory cannot become another weight's while this one is kept
        self.source, self.version = weight.detach(), weight._version
        self.packed = plan.lay_out(self.source)

    def holds(self, plan: Packing, weight: Tensor) -> bool:
        """Whether this is that weight, packed in that way."""
        return (
            self.plan is plan
            and self.version == weight._version
            and self.source.data_ptr() == weight.data_ptr()
            and self.source.stride() == weight.stride()
        )


_kept = WeakIdKeyDictionary()  # from weights that stay packed to _Kept, None until a product


def keep_packed_(weight: Tensor) -> None:
    """Let a weight stay packed from one product to the next, until it changes.

    Worth it where nobody trains any more: twice the memory, and changes by way of ``weight.data``
    go unnoticed.
    """
    if not weight.is_inference():  # these do not count their changes
        _kept[weight] = None


@lru_cache(maxsize=256)
def packing(groups: int, rows: int, columns: int, parts: int = 1, *, lanes: int) -> Packing:
    """Lay out ``groups`` blocks of ``rows`` outputs by ``parts`` times ``columns`` inputs."""
    width, count = groups * columns, partial(torch.arange, device="cpu")
    outputs = count(-(-groups * rows // lanes) * lanes).view(-1, 1, 1, lanes)
    group = (outputs // rows).clamp(max=groups - 1)
    begins = group[..., 0].view(-1) * columns
    inputs = int((group[..., -1].view(-1) * columns + columns - begins).max())
    begins = begins.clamp(max=width - inputs)
    channel = begins.view(-1, 1, 1, 1) + count(inputs).view(-1, 1)
    part = count(parts).view(-1, 1, 1)
    index = ((group * rows + outputs % rows) * parts + part) * columns + channel % columns
    there = (channel // columns == group) & (outputs < groups * rows)
    size = groups * rows * parts * columns
    index = index.where(there, size)
    inverse = index.new_empty(size + 1)
    inverse[index.view(-1)] = count(index.numel())
    return Packing(begins, index, inverse[:-1].clone())


def in_rows(x: Tensor) -> Tensor:
    """``x`` with the numbers of a row side by side."""
    return x if x.stride(1) == 1 and not x.is_neg() else x.contiguous().resolve_neg()


def why_not_multiply(weight: Tensor, **tensors: Tensor | None) -> str | None:
    """Why a product with these groups, ``(groups, out, in)``, does not run in the kernels."""
    if weight.size(2) > MAX_COLUMNS:
        return f"groups have {weight.size(2)} inputs, more than {MAX_COLUMNS}"
    return why_not_in_autocast() or why_not_compiled(**tensors, weight=weight)


def _reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, addend: Tensor | None = None
) -> Tensor:
    groups, _, columns = weight.shape
    if groups == 1:
        y = functional.linear(x, weight[0], bias)
    else:
        y = torch.bmm(x.reshape(-1, groups, columns).transpose(0, 1), weight.transpose(1, 2))
        y = y.transpose(0, 1).flatten(1)  # (groups, N, out / groups) -> (N, out)
        y = y if bias is None else y + bias.to(y.dtype)  # autocast made y narrower
    return y if addend is None else addend + y


def _compiled(
    x: Tensor, weight: Tensor, bias: Tensor | None, addend: Tensor | None = None
) -> Tensor:
    groups, rows, columns = weight.shape
    if x.dim() != 2 or x.size(1) != groups * columns:
        raise ValueError(f"x must be (N, {groups * columns}), got shape {tuple(x.shape)}")
    x = in_rows(x)
    plan = packing(groups, rows, columns, lanes=build.lanes())
    y = x.new_empty(x.size(0), groups * rows)
    if addend is not None and addend.shape != y.shape:
        raise ValueError(f"addend must be {tuple(y.shape)}, got shape {tuple(addend.shape)}")
    build.run(
        *("mgic_grouped_linear", x, *x.shape, plan.begins, plan.inputs, y.size(1)),
        *(*plan.pack(weight), plan.pad(bias, y.size(1))),
        *(None if addend is None else addend.contiguous(), y),
    )
    return y


def _triton(x: Tensor, weight: Tensor, bias: Tensor | None, addend: Tensor | None = None) -> Tensor:
    from mgic_geo.ops.gpu import grouped_linear as kernels

    return kernels.multiply(x, weight, bias, addend)


def _in_place(
    x: Tensor, weight: Tensor, bias: Tensor | None, addend: Tensor | None = None
) -> Tensor:
    """One product that writes every group to its place among the columns: no copy after it."""
    groups, rows, columns = weight.shape
    if groups == 1:
        y = functional.linear(x, weight[0], bias)
    else:
        x = x.reshape(-1, groups, columns).transpose(0, 1)
        y = x.new_empty(x.size(1), groups * rows)
        out = y.view(-1, groups, rows).transpose(0, 1)
        if bias is None:
            torch.bmm(x, weight.mT, out=out)
        else:
            torch.baddbmm(bias.view(groups, 1, rows), x, weight.mT, out=out)
    return y if addend is None else addend + y


def _why_not_in_place(
    x: Tensor, weight: Tensor, bias: Tensor | None, addend: Tensor | None = None
) -> str | None:
    if is_readable(x):
        return ELSEWHERE
    if torch.compiler.is_compiling():
        return "a compiler joins what follows with the reference"
    types = {each.dtype for each in (x, weight, bias) if each is not None}
    differ = f"types differ: {sorted(map(str, types))}" if len(types) > 1 else None
    return why_not_in_autocast(x.device.type) or differ


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, *needs_addend = ctx.needs_input_grad
    grad_x = grouped_linear(grad, weight.transpose(1, 2), None) if needs_x else None
    grad_weight = grouped_linear_weight(x, grad, weight.size(0)) if needs_weight else None
    grad_bias = sum_rows(grad) if needs_bias else None
    return grad_x, grad_weight, grad_bias, grad if any(needs_addend) else None


#: ``(x, weight, bias, addend=None)``: a block-diagonal matrix, given by its blocks
#: ``(groups, out, in)``, times rows ``(N, groups * in)``, and ``bias``, ``(groups * out,)`` or
#: ``None``, added to ``addend``, ``(N, groups * out)`` or ``None``, in one pass over the result.
grouped_linear = Operation(
    "mgic::grouped_linear",
    _reference,
    Kernel("triton", _triton, why_not_multiply_in_triton),
    Kernel(
        "compiled",
        _compiled,
        lambda x, w, bias, addend=None: why_not_multiply(w, x=x, bias=bias, addend=addend),
    ),
    Kernel("in_place", _in_place, _why_not_in_place),
    fake=lambda x, weight, *_: x.new_empty(x.size(0), weight.size(0) * weight.size(1)),
    setup=_setup,
    backward=_backward,
    flops=lambda x, weight, *_, **__: 2 * x[0] * weight.numel(),
)


def _weight_reference(x: Tensor, grad: Tensor, groups: int) -> Tensor:
    x, grad = x.unflatten(1, (groups, -1)), grad.unflatten(1, (groups, -1))
    return torch.bmm(grad.permute(1, 2, 0), x.transpose(0, 1))


def _weight_compiled(x: Tensor, grad: Tensor, groups: int) -> Tensor:
    if groups < 1 or x.size(1) % groups or grad.size(1) % groups:
        raise ValueError(
            f"groups must divide the widths of x and grad, got {groups} for {x.size(1)} and "
            f"{grad.size(1)}"
        )
    x, grad = in_rows(x), grad.contiguous()
    rows, columns = grad.size(1) // groups, x.size(1) // groups
    plan = packing(groups, rows, columns, lanes=build.lanes())
    grad_weight = grad.new_empty(groups, rows, columns)
    build.run(
        *("mgic_grouped_linear_weight", x, *x.shape, plan.begins, plan.inputs, grad.size(1)),
        *(grad, plan.inverse, grad_weight),
    )
    return grad_weight


def _weight_triton(x: Tensor, grad: Tensor, groups: int) -> Tensor:
    from mgic_geo.ops.gpu import grouped_linear as kernels

    return kernels.weight_gradient(x, grad, groups)


def _weight_backward(ctx: Any, change: Tensor) -> tuple[Tensor, Tensor, None]:
    x, grad = ctx.saved_tensors
    back = grouped_linear(grad, change.transpose(1, 2), None)
    return back, grouped_linear(x, change, None), None


#: ``(x, grad, groups)``: the gradient of the weight of :data:`grouped_linear`.
grouped_linear_weight = Operation(
    "mgic::grouped_linear_weight",
    _weight_reference,
    Kernel("triton", _weight_triton, lambda x, grad, groups: why_not_multiply_in_triton(x, grad)),
    Kernel(
        "compiled",
        _weight_compiled,
        lambda x, grad, groups: why_not_in_autocast() or why_not_compiled(x=x, grad=grad),
    ),
    fake=lambda x, grad, n: x.new_empty(n, grad.size(1) // n, x.size(1) // n),
    setup=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:2]),
    backward=_weight_backward,
    flops=lambda x, grad, groups, **_: 2 * x[0] * x[1] * grad[1] // groups,
)


def sum_rows(x: Tensor) -> Tensor:
    """The sum over the rows of ``(N, C)``, as the gradient of a map with one input, which is 1.

    Torch's order of sums, and so its rounding, is one of the threads.
    """
    if not is_readable(x):
        return x.sum(0)
    return grouped_linear_weight(x.new_ones(x.size(0), 1), x, 1).view(-1)
