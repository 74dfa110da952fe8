"""Drawn cases for every operation: what the kernels give beside double precision.

A case is a name and a seed. The operation runs four times on the same numbers: in double, where
everything is plain PyTorch, in float32 without kernels, and in float32 with them, by one thread and
by several. Forward and backward, the kernels may be off by little more than plain float32 is, in
this case or in one nearly the same, have NaN where that has NaN, and do not depend on the number of
threads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import BatchNorm

import mgic_geo
from mgic_geo import GroupedLinear, MGICLinear, MGICMessagePassing
from mgic_geo.graphs.adjacency import neighbor_max, to_adjacency
from mgic_geo.graphs.derivatives import derivative_operators, edge_gradients
from mgic_geo.nn.correction import GraphCorrection
from mgic_geo.nn.diff_conv import DiffGCNConv
from mgic_geo.nn.edge_conv import GroupedEdgeConv
from mgic_geo.nn.grouped_linear import grouped_linear
from mgic_geo.nn.norm_act import norm_act
from mgic_geo.ops import knn_compiled
from mgic_geo.ops.csrc import build
from mgic_geo.ops.mix_derivatives import mix_derivatives
from mgic_vision.layers import DepthwiseConv2d
from mgic_vision.norm import BatchNorm2d, Chain
from tests.kernels import kernels_off, on_threads
from tests.neighbor_clouds import oracle
from tests.sparse_matrices import sparse_matrices, spmm

Inputs = dict[str, Tensor]
Operation = Callable[[Inputs], tuple[Tensor, ...]]

FACTOR = 8.0  # of plain float32's error that a kernel's may be
NEAR = 16  # cases nearly the same, where plain float32 may have been lucky with this one
LUCKY = "plain float32's"  # ends what is said of an error that is large beside that of one case
ULP = 2.0**-23
FLOOR = 4e-6  # relative to the largest number of a result: sums in another order

# maps of narrow groups: what is not finite may reach the groups beside its own (GroupedLinear)
SPREADS = {"grouped_linear", "correction", "correction without scale"}
# layers with torch's own batch norm inside, whose sums depend on the number of threads, and which
# is less exact by some factor where rows lie one after another, as the kernels leave them
TORCH_SUMS = {"MGICLinear": 8.0}
# layers in a row, of which a norm may leave some without a gradient
CHAINS = {"MGICLinear", "MGICMessagePassing"}
LEAST = 1e-3  # of the largest of their gradients: what a smaller one's error is relative to


class Draw:
    """Numbers drawn from a seed: sizes, and features of the kinds that go wrong.

    Args:
        seed: Of everything drawn.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def integer(self, low: int, high: int) -> int:
        """One of low, ..., high."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def one_of(self, *choices: Any) -> Any:
        """One of these."""
        return choices[self.integer(0, len(choices) - 1)]

    def size(self, most: int) -> int:
        """From 1 to ``most``, small ones as often as large ones, often next to a power of two."""
        size = 2 ** self.integer(0, most.bit_length() - 1) + self.integer(-1, 1)
        return min(max(size, 1), most) if self.integer(0, 1) else self.integer(1, most)

    def normal(self, *shape: int) -> Tensor:
        """Normally distributed, in double, each number one that float32 has."""
        return torch.randn(*shape, generator=self.generator).double()

    def features(self, rows: int, channels: int) -> Tensor:
        """Some rows: plain, far from zero, with an outlier, channels nearly or quite the same."""
        x = self.normal(rows, channels)
        kind = self.one_of("plain", "plain", "offset", "outlier", "correlated", "constant")
        if kind == "offset":
            x = x + self.one_of(10.0, 255.0, 1e4) * self.normal(channels)
        elif kind == "outlier" and rows:
            row = self.one_of(0, rows - 1, self.integer(0, rows - 1))
            x[row] = x[row] + self.one_of(-255.0, 1e4, 1e6)
        elif kind == "correlated":
            x = self.normal(rows, 1) + self.one_of(0.1, 0.01, 0.003, 0.001) * x
        elif kind == "constant":
            x[:, : self.integer(1, channels)] = 3.0
        return x.float().double()

    def spoiled(self, x: Tensor) -> Tensor:
        """Sometimes with a NaN or an infinity in it."""
        if x.numel() and self.integer(0, 5) == 0:
            x.view(-1)[self.integer(0, x.numel() - 1)] = self.one_of(
                torch.nan, torch.inf, -torch.inf
            )
        return x

    def widths(self, most: int) -> tuple[int, int, int]:
        """Groups, channels in and out of a group."""
        groups = self.integer(1, 9)
        return groups, self.size(max(most // groups, 1)), self.size(max(most // groups, 1))

    def clouds(self, most: int) -> Tensor:
        """Cloud of every point: clouds of any sizes, often so many that work is shared."""
        sizes = [self.size(self.one_of(40, 300, 700)) for _ in range(self.integer(1, 12))]
        if self.integer(0, 1):
            sizes = [sizes[0]] * self.integer(1, max(most // sizes[0], 1))
        batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        return batch[:most]

    def edges(self, batch: Tensor) -> Tensor:
        """Edges inside clouds, sorted by target or not; some points have none."""
        count = self.integer(0, 6) * batch.numel()
        target = torch.randint(0, batch.numel(), (count,), generator=self.generator)
        if self.integer(0, 1):
            target = target.sort().values
        start = torch.searchsorted(batch, batch)
        size = torch.searchsorted(batch, batch, right=True) - start
        place = torch.randint(0, 1 << 40, (count,), generator=self.generator)
        return torch.stack([start[target] + place % size[target], target])


def _grouped_linear(draw: Draw) -> tuple[Inputs, Operation]:
    groups, columns, rows = draw.widths(200)
    x = draw.spoiled(draw.features(draw.size(3000), groups * columns))
    wide = draw.integer(0, 2)  # rows that are further apart than they are long
    inputs = {
        "x": torch.cat([x, *[x] * wide], dim=1),
        "weight": draw.normal(groups, rows, columns),
        "bias": draw.normal(groups * rows),
    }

    def run(i: Inputs) -> tuple[Tensor, ...]:
        return (grouped_linear(i["x"][:, : groups * columns], i["weight"], i["bias"]),)

    return inputs, run


def _mix_derivatives(draw: Draw) -> tuple[Inputs, Operation]:
    batch = draw.clouds(4500)
    graph = to_adjacency(draw.edges(batch), batch.numel(), batch.numel())
    groups, columns, rows = draw.widths(draw.one_of(16, 80))
    inputs = {
        "x": draw.features(batch.numel(), groups * columns),
        "weight": draw.normal(groups, rows, 7 * columns),
        "subtrahend": draw.normal(batch.numel(), groups * rows),
    }
    if draw.integer(0, 1):
        inputs["bias"] = draw.normal(groups * rows)
    value = (draw.normal(graph.index.numel(), 3) / 3).float().double()

    def run(i: Inputs) -> tuple[Tensor, ...]:
        operators = derivative_operators(graph, value.to(i["x"].dtype))
        x, weight, bias = i["x"], i["weight"], i.get("bias")
        return (mix_derivatives(x, weight, bias, i["subtrahend"], False, *operators),)

    return inputs, run


def _neighbor_max(draw: Draw) -> tuple[Inputs, Operation]:
    batch = draw.clouds(3000)
    graph = to_adjacency(draw.edges(batch), batch.numel(), batch.numel())
    inputs = {"x": draw.spoiled(draw.normal(batch.numel(), draw.size(130)))}
    return inputs, lambda i: (neighbor_max(graph, i["x"]),)


class _HardSwish(nn.Module):
    """The formula: at NaN the gradient of torch's is one of two, by the place in its vectors."""

    def forward(self, x: Tensor) -> Tensor:
        return x * functional.relu6(x + 3) / 6


def _of_kernels(act: Any, x: Tensor) -> Any:
    """The activation where the kernels may apply it, else one with the same gradients."""
    if type(act) is nn.Hardswish and (build.library() is None or x.dtype != torch.float32):
        return _HardSwish()
    return act


def _put(module: nn.Module, inputs: Inputs, **names: str) -> None:
    """Inputs in the place of a module's parameters, where they are given."""
    for name, key in names.items():
        if key in inputs:
            delattr(module, name)
            setattr(module, name, inputs[key])


def _norm_act(draw: Draw, *, affine: bool = True) -> tuple[Inputs, Operation]:
    rows, channels = 1 + draw.size(draw.one_of(300, 5000)), draw.size(draw.one_of(40, 600))
    norm = draw.one_of(nn.BatchNorm1d, BatchNorm)(channels, affine=affine).train()
    act = draw.one_of(None, nn.ReLU(), nn.Hardswish())
    inputs = {"x": draw.spoiled(draw.features(rows, channels))}
    if affine:
        inputs |= {"weight": draw.normal(channels), "bias": draw.normal(channels)}

    def run(i: Inputs) -> tuple[Tensor, ...]:
        own = copy.deepcopy(norm).to(i["x"].dtype)
        inner = own.module if isinstance(own, BatchNorm) else own
        _put(inner, i, weight="weight", bias="bias")
        y = norm_act(own, _of_kernels(act, i["x"]), i["x"])
        return y, inner.running_mean, inner.running_var

    return inputs, run


def _image_norm(draw: Draw) -> tuple[Inputs, Operation]:
    batch, channels, side = draw.integer(1, 4), draw.size(70), 1 + draw.size(20)
    act = draw.one_of(nn.ReLU(), nn.Hardswish())
    x = draw.features(batch * side * side, channels)
    inputs = {"x": draw.spoiled(x).view(batch, side, side, channels)}

    def run(i: Inputs) -> tuple[Tensor, ...]:
        own = _of_kernels(act, i["x"])
        chain = Chain(BatchNorm2d(channels), own).to(i["x"].dtype).train()
        y = chain(i["x"].permute(0, 3, 1, 2))
        return y, chain[0].running_mean, chain[0].running_var

    return inputs, run


def _correction(draw: Draw, *, affine: bool = True) -> tuple[Inputs, Operation]:
    groups, columns = draw.integer(1, 8), draw.size(16)
    rows, n = draw.one_of(columns, 2 * columns), 1 + draw.size(4000)
    x = draw.features(n, groups * columns)
    weight = draw.normal(groups, rows, columns)
    if draw.integer(0, 1):  # rows that sum to zero see what channels differ by
        weight = weight - weight.mean(-1, keepdim=True)
    inputs = {
        "x": draw.spoiled(x),
        "weight": weight.float().double(),
        "addend": draw.normal(n, groups * rows),
    }
    if affine:
        inputs |= {"scale": draw.normal(groups * rows), "shift": draw.normal(groups * rows)}

    def run(i: Inputs) -> tuple[Tensor, ...]:
        prolong = GroupedLinear(groups * columns, groups * rows, groups=groups, bias=False)
        norm = nn.BatchNorm1d(groups * rows, affine=affine).to(i["x"].dtype)
        _put(norm, i, weight="scale", bias="shift")
        del prolong.weight
        # a norm is blind to the scale of one input, whose gradient is nothing but rounding
        prolong.weight = i["weight"].detach() if columns == 1 else i["weight"]
        correction = GraphCorrection(prolong, nn.Identity())
        correction.norm = norm
        y = correction(i["x"], i["addend"])
        return y, norm.running_mean, norm.running_var

    return inputs, run


def _edge_gradients(draw: Draw) -> tuple[Inputs, Operation]:
    batch = draw.clouds(2000)
    edges = draw.edges(batch)
    softening = draw.one_of(0.0, 0.5)
    pos = draw.normal(batch.numel(), 3) * draw.one_of(1.0, 1e-3, 1e3)
    if draw.integer(0, 1):
        pos = pos.round()  # points that coincide
    pos = pos.float().double()

    def run(i: Inputs) -> tuple[Tensor, ...]:
        x = pos.to(i["unused"].dtype)
        weights = edge_gradients(x, edges, batch, softening=softening)
        graph = to_adjacency(edges, batch.numel(), batch.numel())
        operators = derivative_operators(graph, graph.sort(weights))
        return weights, operators.value, operators.value_t, operators.crossings.to(x.dtype)

    return {"unused": draw.normal(1)}, run


def _spmm(draw: Draw) -> tuple[Inputs, Operation]:
    batch = draw.clouds(1500)
    graph = to_adjacency(draw.edges(batch), batch.numel(), batch.numel())
    inputs = {
        "x": draw.features(batch.numel(), draw.size(40)),
        "values": draw.normal(graph.index.numel(), 2),
    }

    def run(i: Inputs) -> tuple[Tensor, ...]:
        return tuple(spmm(matrix, i["x"]) for matrix in sparse_matrices(graph, i["values"]))

    return inputs, run


def _depthwise(draw: Draw) -> tuple[Inputs, Operation]:
    channels, kernel = draw.size(70), draw.one_of(3, 5, 7, 9)  # 1 is torch's, whose sums differ
    batch, height, width = draw.integer(1, 4), draw.size(20), draw.size(20)
    dilation = draw.one_of(1, 1, 2, 3)
    inputs = {
        "x": draw.normal(batch, height, width, channels),
        "weight": draw.normal(channels, 1, kernel, kernel),
    }

    def run(i: Inputs) -> tuple[Tensor, ...]:
        conv = DepthwiseConv2d(channels, channels, kernel_size=kernel, dilation=dilation)
        _put(conv, i, weight="weight")
        return (conv(i["x"].permute(0, 3, 1, 2)),)

    return inputs, run


def _as_inputs(layer: nn.Module, x: Tensor) -> Inputs:
    """The parameters of a layer beside its features."""
    return {name: p.detach().double() for name, p in layer.named_parameters()} | {"x": x}


def _call(layer: nn.Module, inputs: Inputs, *further: Tensor) -> tuple[Tensor, ...]:
    """What a layer with these parameters makes of these features."""
    own = copy.deepcopy(layer).to(inputs["x"].dtype)
    state = {name: tensor for name, tensor in inputs.items() if name != "x"}
    return (torch.func.functional_call(own, state, (inputs["x"], *further)),)


def _linear_cycle(draw: Draw) -> tuple[Inputs, Operation]:
    torch.manual_seed(draw.integer(0, 1 << 30))
    channels = draw.size(96)
    layer = MGICLinear(
        channels,
        group_size=draw.integer(1, 20),
        coarse_size=draw.integer(1, 20),
        make_norm=draw.one_of(None, nn.BatchNorm1d),
        make_act=draw.one_of(None, nn.ReLU),
    )
    x = draw.normal(1 + draw.size(2500), channels)
    return _as_inputs(layer, x), lambda i: _call(layer, i)


def _conv_cycle(draw: Draw) -> tuple[Inputs, Operation]:
    torch.manual_seed(draw.integer(0, 1 << 30))
    channels, batch = draw.size(48), draw.clouds(1800)
    conv = draw.one_of(GroupedEdgeConv, DiffGCNConv)
    group_size = draw.integer(1, 12)
    layer = MGICMessagePassing(channels, channels, conv, group_size=group_size, norm=None)
    edges = draw.edges(batch)
    pos = draw.normal(batch.numel(), 3)

    def run(i: Inputs) -> tuple[Tensor, ...]:
        weights = edge_gradients(pos.to(i["x"].dtype), edges, batch, softening=0.5)
        return _call(layer, i, edges, *((weights,) if conv is DiffGCNConv else ()))

    return _as_inputs(layer, draw.normal(batch.numel(), channels)), run


OPERATIONS: dict[str, Callable[[Draw], tuple[Inputs, Operation]]] = {
    "grouped_linear": _grouped_linear,
    "mix_derivatives": _mix_derivatives,
    "neighbor_max": _neighbor_max,
    "norm_act": _norm_act,
    "norm_act without scale": partial(_norm_act, affine=False),
    "image_norm": _image_norm,
    "correction": _correction,
    "correction without scale": partial(_correction, affine=False),
    "edge_gradients": _edge_gradients,
    "spmm": _spmm,
    "depthwise": _depthwise,
    "MGICLinear": _linear_cycle,
    "MGICMessagePassing": _conv_cycle,
}


def check(name: str, seed: int) -> None:
    """Run a case.

    Raises:
        AssertionError: Saying what differs, and how to run the case again.
    """
    draw = Draw(seed)
    inputs, operation = OPERATIONS[name](draw)
    exact = _results(operation, inputs, torch.float64, seed)
    with kernels_off(), on_threads(1):
        plain = _results(operation, inputs, torch.float32, seed)
    with on_threads(1):
        found = _results(operation, inputs, torch.float32, seed)
    with on_threads(draw.integer(2, 7)):
        again = _results(operation, inputs, torch.float32, seed)
    errors: dict[str, Tensor] = {}
    sizes = [float(x.abs().max()) for what, x in exact.items() if "gradient" in what and x.numel()]
    least = LEAST * max(sizes) if name in CHAINS else 0.0
    for what in exact:
        wrong = _difference(name, found[what], plain[what], exact[what])
        if wrong.endswith(LUCKY):
            errors = errors or _usual_errors(operation, inputs, exact, seed)
            # zeros are sums that cancel: their rounding is that of what is summed
            least_here = least if exact[what].any() else max(sizes, default=0.0)
            wrong = _difference(
                *(name, found[what], plain[what], exact[what], errors[what], least_here)
            )
        same = torch.equal(found[what].nan_to_num(), again[what].nan_to_num())
        if not wrong and not same and name not in TORCH_SUMS:
            wrong = "depends on the number of threads"
        assert not wrong, (
            f"{name}: {what} {wrong}; shapes "
            f"{ {key: tuple(x.shape) for key, x in inputs.items()} }; "
            f"again: fuzz_values.check({name!r}, {seed})"
        )


def check_neighbors(seed: int) -> None:
    """Neighbors are those of a search through all pairs, place by place."""
    draw = Draw(seed)
    batch, k = draw.clouds(900), draw.integer(1, 30)
    x = draw.normal(batch.numel(), draw.one_of(1, 2, 3, 3, 16, 70))
    x = x.round() if draw.integer(0, 1) else x + draw.one_of(0.0, 100.0, 1e4)
    x = x.float() if draw.integer(0, 2) else x.double()
    large = draw.one_of(-1, knn_compiled.LARGE)  # a tree for small clouds, too
    with on_threads(draw.integer(1, 5)), mock.patch.object(knn_compiled, "LARGE", large):
        found = mgic_geo.knn_indices(x, k, batch)
    assert torch.equal(found, oracle(x, k, batch)), (
        f"k = {k}, x {tuple(x.shape)}; again: fuzz_values.check_neighbors({seed})"
    )


def _results(operation: Operation, inputs: Inputs, dtype: torch.dtype, seed: int) -> Inputs:
    """Outputs, and the gradients of all inputs that have one, by name."""
    leaves = {name: x.to(dtype, copy=True).requires_grad_() for name, x in inputs.items()}
    outputs = operation(leaves)
    found = {f"output {n}": y.detach() for n, y in enumerate(outputs)}
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(y.shape, generator=generator).to(dtype) for y in outputs]
    known = [(y, g) for y, g in zip(outputs, grads, strict=True) if y.requires_grad]
    if known:
        grads = torch.autograd.grad(
            [y for y, _ in known],
            list(leaves.values()),
            [g for _, g in known],
            allow_unused=True,
        )
        for name, grad in zip(leaves, grads, strict=True):
            if grad is not None:
                found[f"gradient of {name}"] = grad
    return found


def _usual_errors(operation: Operation, inputs: Inputs, exact: Inputs, seed: int) -> Inputs:
    """Largest errors of plain float32, by name, where the inputs' last figures are others.

    What cancels, as the gradient of a bias in front of a norm, is nothing but rounding: in one case
    there is none, in one nearly the same hundreds of times what the kernels have. One factor for
    all features keeps equal what is equal.
    """
    generator = torch.Generator().manual_seed(seed)
    errors = {what: torch.zeros((), dtype=torch.double) for what in exact}
    for _ in range(NEAR):
        near = {
            name: x * (1 + ULP * torch.randint(-NEAR, NEAR + 1, shape, generator=generator))
            for name, x in inputs.items()
            for shape in [() if name == "x" else x.shape]
        }
        with kernels_off(), on_threads(1):
            plain = _results(operation, near, torch.float32, seed)
        for what, error in errors.items():
            off = (plain[what].double() - exact[what]).abs()
            known = off[off.isfinite()]
            errors[what] = torch.maximum(error, known.max() if known.numel() else error)
    return errors


def _difference(
    name: str,
    found: Tensor,
    plain: Tensor,
    exact: Tensor,
    usual: Tensor | None = None,
    least: float = 0.0,
) -> str:
    """What is wrong with a result, in words; nothing where nothing is.

    Its error is held against plain float32's, or against ``usual`` where that is given, relative to
    the largest number of the result, or to ``least`` where that is more.
    """
    if found.dtype != plain.dtype or found.shape != plain.shape:
        return f"is {found.dtype} {tuple(found.shape)}, not {plain.dtype} {tuple(plain.shape)}"
    known = plain.isfinite() & exact.isfinite()
    if name in SPREADS:
        known &= found.isfinite()
    if not found.isfinite()[known].all():
        return f"is not finite at {int((~found.isfinite() & known).sum())} places, plain is"
    if found.isfinite()[~plain.isfinite()].any():
        return "is finite where plain float32 is not"
    if not known.any():
        return ""
    exact, found, plain = (x[known].double() for x in (exact, found, plain))
    scale = exact.abs().max().clamp_min(max(least, 1e-30))
    error, own = ((x - exact).abs().max() / scale for x in (found, plain))
    usual = own if usual is None else usual / scale
    if error > FACTOR * TORCH_SUMS.get(name, 1.0) * usual + FLOOR:
        return f"is {float(error):.1e} off, {float(error / usual):.0f} times {LUCKY}"
    return ""
