"""Graph convolution by differential operators."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula
from torch_geometric import EdgeIndex
from torch_geometric.nn import MessagePassing

from mgic_geo.graphs.adjacency import Adjacency, spmm, to_adjacency
from mgic_geo.graphs.derivatives import DerivativeOperators, derivative_operators
from mgic_geo.nn.grouped_linear import GroupedLinear, check_groups, grouped_linear
from mgic_geo.ops import native
from mgic_geo.ops.operator import Operator, differentiable_gradients

NUM_OPERATORS = 7  # identity, three first and three second derivatives


class DiffGCNConv(MessagePassing):
    r"""Convolution by seven operators: identity, three first and three second derivatives.

    .. math::
        y = \theta_1 f + \theta_2 f_x + \theta_3 f_y + \theta_4 f_z
            + \theta_5 f_{xx} + \theta_6 f_{yy} + \theta_7 f_{zz}

    A second derivative is the first applied twice. The operators are sparse matrices on the edges,
    fixed by the geometry; only the :math:`\theta` are learned.

    Args:
        in_channels: Channels of a node.
        out_channels: Channels out.
        groups: Groups of channels that do not see each other.
        bias: Whether to add one.

    Shape:
        - ``x``: ``(N, in_channels)``.
        - ``edge_index``: ``(2, E)``, an ``EdgeIndex`` or a transposed ``torch.sparse`` matrix, with
          ``edge_attr`` ``(E, 3)`` from :func:`edge_gradients` of the same; or
          :class:`DerivativeOperators` alone.
        - Returns ``(N, out_channels)``.

    Cost:
        ``7 * in_channels * out_channels / groups`` weights and as many multiply-adds a node, and
        ``6 * (E / N + 1) * in_channels`` multiply-adds a node for the derivatives.

    Raises:
        ValueError: If ``groups`` does not divide both widths, or ``edge_attr`` is missing.

    References:
        Section 4.5; Eliasof and Treister, DiffGCN (the paper's [18]).

    Example:
        >>> from mgic_geo import edge_gradients
        >>> pos, edge_index = torch.rand(3, 3), torch.tensor([[1, 2, 0], [0, 0, 1]])
        >>> conv = DiffGCNConv(8, 16, groups=2)
        >>> conv(torch.randn(3, 8), edge_index, edge_gradients(pos, edge_index)).shape
        torch.Size([3, 16])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__(aggr="sum")
        check_groups(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.relu = False  # set by fuse, which leaves out the activation behind
        # a group's input is its channels under the first operator, under the second, ...
        self.lin = GroupedLinear(
            NUM_OPERATORS * in_channels, out_channels, groups=groups, bias=bias
        )

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        self.lin.reset_parameters()

    def prepare(
        self,
        x: Tensor,
        edge_index: Tensor | EdgeIndex | Adjacency | DerivativeOperators,
        edge_attr: Tensor | None = None,
    ) -> DerivativeOperators:
        """Build the operators; the result may be passed as ``edge_index``, many times."""
        if isinstance(x, tuple):
            raise ValueError("DiffGCNConv needs one set of nodes, got a bipartite pair")
        if isinstance(edge_index, DerivativeOperators):
            return edge_index
        if edge_attr is None:
            raise ValueError("DiffGCNConv needs edge_attr=edge_gradients(pos, edge_index)")
        adjacency = to_adjacency(edge_index, x.size(0), x.size(0))
        if edge_attr.shape != (adjacency.index.numel(), 3):
            raise ValueError(
                f"edge_attr must be ({adjacency.index.numel()}, 3), one row an edge, "
                f"got shape {tuple(edge_attr.shape)}"
            )
        if not isinstance(edge_index, Adjacency):
            edge_attr = adjacency.sort(edge_attr)
        return derivative_operators(adjacency, edge_attr)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor | EdgeIndex | Adjacency | DerivativeOperators,
        edge_attr: Tensor | None = None,
    ) -> Tensor:
        """Convolve ``x``."""
        operators = self.prepare(x, edge_index, edge_attr)
        return mix_derivatives(x, operators, self.lin.weight, self.lin.bias, relu=self.relu)

    def less(
        self,
        subtrahend: Tensor,
        x: Tensor,
        edge_index: Tensor | EdgeIndex | Adjacency | DerivativeOperators,
        edge_attr: Tensor | None = None,
    ) -> Tensor:
        """Convolve ``x`` and subtract: one pass where no gradients are recorded."""
        operators = self.prepare(x, edge_index, edge_attr)
        weight, bias = self.lin.weight, self.lin.bias
        return mix_derivatives(x, operators, weight, bias, relu=self.relu, subtrahend=subtrahend)

    def __repr__(self) -> str:
        """Widths and groups."""
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, groups={self.groups})"
        )


def mix_derivatives(
    x: Tensor,
    operators: DerivativeOperators,
    weight: Tensor,
    bias: Tensor | None,
    *,
    relu: bool = False,
    subtrahend: Tensor | None = None,
) -> Tensor:
    """Weighted sum of the features and their six derivatives, group by group.

    Args:
        x: Features.
        operators: The derivatives.
        weight: Of the sum.
        bias: Added to it, if there is one.
        relu: Whether to apply ReLU behind it.
        subtrahend: Subtracted in the end, if there is one.

    Both are done in the same pass where no gradients are recorded.

    Shape:
        - ``x``: ``(N, C)``. ``weight``: ``(groups, out / groups, 7 * C / groups)``, a group's
          channels under the first operator in front. ``bias``: ``(out,)``.
        - ``subtrahend``: ``(N, out)``. Returns the same.
    """
    groups, _, columns = weight.shape
    if x.dim() != 2 or x.size(1) != groups * (columns // NUM_OPERATORS):
        raise ValueError(
            f"x must be (N, {groups * (columns // NUM_OPERATORS)}), got shape {tuple(x.shape)}"
        )
    if operators.num_nodes != x.size(0):
        raise ValueError(
            f"the derivatives are those of {operators.num_nodes} nodes, got features of {x.size(0)}"
        )
    operators.check()
    if (
        not operators.value.requires_grad
        and native.usable(operators.value)
        and native.can_multiply(x, weight)
    ):
        behind = relu or subtrahend is not None
        if behind and not torch.is_grad_enabled() and _fits(subtrahend, x, weight):
            return _mix_behind(x, weight, bias, subtrahend, relu, *operators.graph)
        y = _mix_native(x, weight, bias, *operators)
    else:
        y = _mix_plain(x, weight, bias, operators)
    y = y.relu_() if relu else y
    return y if subtrahend is None else y - subtrahend


def _fits(subtrahend: Tensor | None, x: Tensor, weight: Tensor) -> bool:
    if subtrahend is None:
        return True
    shape = x.size(0), weight.size(0) * weight.size(1)
    return subtrahend.shape == shape and native.usable(subtrahend)


def _mix_plain(
    x: Tensor, weight: Tensor, bias: Tensor | None, operators: DerivativeOperators
) -> Tensor:
    groups, _, columns = weight.shape
    matrices = [operators.matrix(axis) for axis in range(3)]
    first = [spmm(matrix, x) for matrix in matrices]
    second = [spmm(matrix, slope) for matrix, slope in zip(matrices, first, strict=True)]
    shape = x.size(0), groups, columns // NUM_OPERATORS
    parts = [part.view(shape) for part in (x, *first, *second)]
    return grouped_linear(torch.cat(parts, dim=2).flatten(1), weight, bias)


def _mix(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ptr: Tensor,
    index: Tensor,
    value: Tensor,
    ptr_t: Tensor,
    index_t: Tensor,
    value_t: Tensor,
    crossings: Tensor,
) -> Tensor:
    return native.mix_derivatives(x, weight, bias, native.Graph(ptr, index, value, crossings))


def _mix_fake(x: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
    return x.new_empty(x.size(0), weight.size(0) * weight.size(1))


def _mix_and_behind(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    subtrahend: Tensor | None,
    relu: bool,
    ptr: Tensor,
    index: Tensor,
    value: Tensor,
    crossings: Tensor,
) -> Tensor:
    graph = native.Graph(ptr, index, value, crossings)
    return native.mix_derivatives(x, weight, bias, graph, relu=relu, subtrahend=subtrahend)


_mix_behind = Operator("mgic::mix_derivatives_behind", _mix_and_behind, _mix_fake)


def _mix_setup(ctx, inputs, output) -> None:
    x, weight, bias, *entries = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight, *entries)


def _mix_backward(ctx, grad: Tensor):
    x, weight, *entries = ctx.saved_tensors
    operators = DerivativeOperators(*entries)
    grad_x = grad_bias = None
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # to differentiate again
        y = _mix_plain(x, weight, None, operators)
        grad_x, grad_weight = differentiable_gradients(y, (x, weight), grad)
    elif ctx.needs_input_grad[0]:
        grad_x, grad_weight, grad_bias = _mix_native_backward(
            grad, x, weight, *operators.transposed
        )
    else:
        grad_weight = _mix_native_weight(grad, x, weight.size(0), *operators.graph)
    if not ctx.has_bias:
        grad_bias = None
    elif grad_bias is None:
        grad_bias = grad.sum(0)
    return grad_x, grad_weight, grad_bias, *[None] * len(entries)


_mix_native = Operator(
    "mgic::mix_derivatives", _mix, _mix_fake, backward=_mix_backward, setup=_mix_setup
)


def _gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    ptr_t: Tensor,
    index_t: Tensor,
    value_t: Tensor,
    crossings: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    transposed = native.Graph(ptr_t, index_t, value_t, crossings)
    return native.mix_derivatives_backward(grad, x, weight, transposed)


def _gradients_fake(
    grad: Tensor, x: Tensor, weight: Tensor, *others: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), grad.new_empty(grad.size(1))


_mix_native_backward = Operator("mgic::mix_derivatives_backward", _gradients, _gradients_fake)


def _weight_gradient(
    grad: Tensor,
    x: Tensor,
    groups: int,
    ptr: Tensor,
    index: Tensor,
    value: Tensor,
    crossings: Tensor,
) -> Tensor:
    return native.mix_derivatives_weight(
        grad, x, groups, native.Graph(ptr, index, value, crossings)
    )


def _weight_gradient_fake(grad: Tensor, x: Tensor, groups: int, *others: Tensor) -> Tensor:
    rows, columns = grad.size(1) // groups, x.size(1) // groups
    return grad.new_empty(groups, rows, NUM_OPERATORS * columns)


_mix_native_weight = Operator(
    "mgic::mix_derivatives_weight", _weight_gradient, _weight_gradient_fake
)


@register_flop_formula(torch.ops.mgic.mix_derivatives_behind)
def _mix_behind_flops(
    x: torch.Size, weight: torch.Size, bias, other, relu, ptr, index: torch.Size, *args, **kwargs
) -> int:
    return 2 * (6 * index[0] * x[1] + x[0] * weight.numel())


@register_flop_formula(torch.ops.mgic.mix_derivatives)
def _mix_flops(
    x: torch.Size, weight: torch.Size, bias, ptr, index: torch.Size, *args, **kwargs
) -> int:
    return 2 * (6 * index[0] * x[1] + x[0] * weight.numel())


@register_flop_formula(torch.ops.mgic.mix_derivatives_backward)
def _mix_backward_flops(
    grad: torch.Size, x: torch.Size, weight: torch.Size, ptr, index: torch.Size, *args, **kwargs
) -> int:
    return 2 * (6 * index[0] * grad[1] + 2 * x[0] * weight.numel())


@register_flop_formula(torch.ops.mgic.mix_derivatives_weight)
def _mix_weight_flops(
    grad: torch.Size, x: torch.Size, groups: int, ptr, index: torch.Size, *args, **kwargs
) -> int:
    return 2 * (6 * index[0] * x[1] + NUM_OPERATORS * grad[0] * grad[1] * x[1] // groups)
