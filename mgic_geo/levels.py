"""Channel levels, the group rule and the multigrid cycle; imports torch only."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Features = Tensor | tuple[Tensor, Tensor]  # of nodes, or of sources and targets
CYCLES = ("multiplicative", "additive")
TRANSFER_STARTS = ("aggregate", "uniform", "constant", "normal")


@runtime_checkable
class Resettable(Protocol):
    """A module that draws its parameters again, as those of PyTorch do."""

    def reset_parameters(self) -> None:
        """Draw all parameters again."""


@dataclass(frozen=True)
class Level:
    """One level of the channel hierarchy; prints as a table row.

    Args:
        index: 0 on the finest level.
        outer: Channels in and out of the level's layer, :math:`C_j`.
        inner: Channels inside the layer, :math:`m_j` (expansion size, bottleneck planes).
        groups: Groups of every grouped map of the level, :math:`g_j`.
        finest: Whether this is level 0.
        coarsest: Whether this is the last level, the dense one.
    """

    index: int
    outer: int
    inner: int
    groups: int
    finest: bool
    coarsest: bool

    @property
    def group_width(self) -> int:
        """Outer channels in one group, the paper's :math:`s_g` as the group rule left it."""
        return self.outer // self.groups

    def __str__(self) -> str:
        place = "finest" if self.finest else "coarsest" if self.coarsest else ""
        row = (
            f"{self.index:>5} {self.outer:>6} {self.inner:>6} {self.groups:>6} "
            f"{self.group_width:>6}  {place}"
        )
        return row.rstrip()


def level_plan(
    channels: int,
    inner: int | None = None,
    *,
    group_size: int,
    coarse_size: int | None = None,
    min_levels: int = 1,
) -> tuple[Level, ...]:
    r"""Widths and group counts of every level, the finest first.

    Both widths are halved (rounding down) at least ``min_levels`` times and until the narrower one
    is at most ``coarse_size``. Level :math:`j` gets the smallest number of groups that is at least
    :math:`\min(C_j, m_j) / s_g` and divides both widths (their greatest common divisor where there
    is none), and fewer than the level above it; the coarsest level gets one group.

    Args:
        channels: Outer width :math:`C` of the finest level.
        inner: Inner width :math:`m` of the finest level; ``None`` means ``channels``.
        group_size: Wanted channels per group, :math:`s_g`; the rule adapts it to the widths.
        coarse_size: Width at which halving stops, :math:`s_c`; ``None`` means ``group_size``.
        min_levels: Coarser levels to build even where the width is already small; 0 allows a
            single dense level.

    Raises:
        ValueError: If a width or size is below 1, or ``min_levels`` below 0.

    References:
        Sections 3.1 and 4.3.2 (the rule for widths that ``group_size`` does not divide).

    Example:
        >>> for level in level_plan(40, 120, group_size=16, coarse_size=16):
        ...     print(level)
            0     40    120      4     10  finest
            1     20     60      2     10
            2     10     30      1     10  coarsest
    """
    inner = channels if inner is None else inner
    coarse_size = group_size if coarse_size is None else coarse_size
    check_counts(channels=channels, inner=inner, group_size=group_size, coarse_size=coarse_size)
    check_counts(0, min_levels=min_levels)

    widths = [(channels, inner)]
    while min(widths[-1]) > 1 and (len(widths) <= min_levels or min(widths[-1]) > coarse_size):
        widths.append((widths[-1][0] // 2, widths[-1][1] // 2))

    levels: list[Level] = []
    last = len(widths) - 1
    for index, (outer, middle) in enumerate(widths):
        if index == last:
            groups = 1
        else:
            above = levels[-1].groups if levels else None
            groups = group_count(outer, middle, group_size=group_size, below=above)
        levels.append(Level(index, outer, middle, groups, index == 0, index == last))
    return tuple(levels)


def check_counts(least: int = 1, /, **counts: int) -> None:
    """Refuse what is no whole number of at least ``least``.

    Args:
        least: The smallest number allowed.
        **counts: Numbers, by the name of the argument.

    Raises:
        ValueError: With the name of the argument.

    Example:
        >>> check_counts(k=3.5)
        Traceback (most recent call last):
        ...
        ValueError: k must be a whole number, got 3.5
    """
    for name, value in counts.items():
        if not isinstance(value, Integral):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def group_count(*widths: int, group_size: int, below: int | None = None) -> int:
    """Smallest number of groups of at most ``group_size`` channels that divides all ``widths``.

    Args:
        *widths: Channel counts that the groups have to divide; the narrowest one decides the size.
        group_size: Wanted channels per group, at least 1.
        below: If given, the result is a common divisor below this number wherever there is one.

    Raises:
        ValueError: If ``group_size`` is below 1.

    Example:
        >>> group_count(120, 40, group_size=64), group_count(184, 80, group_size=8)
        (1, 8)
    """
    check_counts(group_size=group_size)
    common = math.gcd(*widths)
    divisors = [d for d in range(1, common + 1) if common % d == 0]
    wanted = next((d for d in divisors if d * group_size >= min(widths)), common)
    if below is not None and wanted >= below:
        wanted = max((d for d in divisors if d < below), default=1)
    return wanted


class Residual(nn.Module):
    r"""``x + branch(x)``, the form in which a cycle needs no differences.

    Where the layers of a cycle are ``Residual``, :class:`MGICBlock` works with
    :math:`e = p + F(x + p)` in place of :math:`B(x + p) - x`: the same value up to rounding,
    exactly the identity where every branch gives zero, and less memory traffic. In an additive
    cycle the branches are what is summed.

    Args:
        branch: The map :math:`F`; keeps the shape of its input.

    Shape:
        - ``x``: what ``branch`` takes. Returns the shape of ``x``.

    Example:
        >>> Residual(nn.Linear(4, 4))(torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Features, *args: object, **kwargs: object) -> Tensor:
        """Add the branch to ``x``, or to the targets of a pair of sources and targets."""
        return _targets(x) + self.branch(x, *args, **kwargs)

    def added(self, x: Features, *args: object, **kwargs: object) -> Tensor:
        """What the branch adds to ``x``."""
        hooks = self._forward_hooks or self._forward_pre_hooks
        hooks = hooks or self._backward_hooks or self._backward_pre_hooks
        kind = type(self)
        other = kind.forward is not Residual.forward and kind.added is Residual.added
        if hooks or other or "forward" in vars(self):  # they want to see the layer called
            return self(x, *args, **kwargs) - _targets(x)
        return self.branch(x, *args, **kwargs)


class Differing(nn.Module, ABC):
    """A layer that can return its result less given features, in one pass over them."""

    @abstractmethod
    def less(self, subtrahend: Tensor, x: Features, *args: Any, **kwargs: Any) -> Tensor:
        """What the layer returns for ``x``, less ``subtrahend``."""


class Correction(nn.Module):
    r"""What a change on the next coarser level means on this one, :math:`N_j(P_j e)`.

    Args:
        transfer: The prolongation :math:`P_j`.
        norm: :math:`N_j`; ``None`` for none.
        scale: Where the norm's ``weight`` starts, if it has one; ``None`` leaves it alone. At 1 the
            correction is as large as the features it corrects, and as random as the coarse levels
            are at the start: networks of many cycles then learn slowly.

    Shape:
        - ``change``: what ``transfer`` takes. ``x``: what it returns. Returns the same.

    Example:
        >>> Correction(nn.Linear(2, 4))(torch.ones(3, 2), torch.ones(3, 4)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        transfer: nn.Module,
        norm: nn.Module | None = None,
        *,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.transfer, self.scale = transfer, scale
        self.norm = nn.Identity() if norm is None else norm
        self._scale_norm()

    def reset_parameters(self) -> None:
        """Draw the transfer again, by its rule, and reset the norm."""
        reset_parameters(self.transfer)
        reset_parameters(self.norm)
        self._scale_norm()

    def _scale_norm(self) -> None:
        for name, parameter in self.norm.named_parameters():
            if self.scale is not None and name.rpartition(".")[2] == "weight":
                nn.init.constant_(parameter, self.scale)

    def forward(self, change: Tensor, x: Tensor | None = None) -> Tensor:
        """The correction, added to ``x`` where that is given."""
        correction = self.norm(self.transfer(change))
        return correction if x is None else x + correction


class MGICBlock(nn.Module):
    r"""One multigrid cycle over the channels of a feature tensor.

    A dense layer lets every channel see every other at :math:`C^2` weights. Here a fine layer mixes
    channels only within groups, narrower copies of the features carry what groups need to tell each
    other, and only the narrowest copy is mixed densely.

    .. math::
        x_{j+1} = R_j x_j, \qquad y_n = B_n(x_n), \qquad
        y_j = B_j\bigl(x_j + N_j(P_j (y_{j+1} - x_{j+1}))\bigr)

    :math:`P_j` carries up what the coarse level changed, not its features: where nothing changed
    there, ``x_j`` passes through untouched, whatever :math:`R` and :math:`P` hold.

    This is the paper's cycle, the *multiplicative* one: a level works on what the coarser ones have
    corrected. In an *additive* (parallel) cycle all levels work on the restricted input, and what
    they give is summed:

    .. math::
        y_n = B_n(x_n), \qquad y_j = B_j(x_j) + N_j(P_j y_{j+1})

    where :math:`x_0` is added once to the sum in place of every :math:`x_j`, if the layers are
    :class:`Residual`. With linear layers, and no norms, such a cycle is one structured matrix.

    The modules are ``layers`` (one for each level), ``restrict`` and ``corrections`` (one for each
    pair of neighboring levels); ``levels`` is the plan they were built from.

    Args:
        channels: Channels in and out, :math:`C`.
        make_layer: ``(level) -> Module``, the map :math:`B_j` of one level. A :class:`Residual`
            is run in correction form.
        make_transfer: ``(in_width, out_width, groups) -> Module``, for :math:`R_j` and :math:`P_j`;
            see :func:`init_transfer_` for how they should start.
        inner: Inner width :math:`m` of the layers; ``None`` means ``channels``.
        group_size: Channels per group on every level but the last, :math:`s_g`.
        coarse_size: Levels are halved until they are this narrow, :math:`s_c`; ``None`` means
            ``group_size``.
        min_levels: Coarser levels to build even where the width is already small.
        make_norm: ``(width) -> Module``, the norm :math:`N_j` after :math:`P_j`; ``None`` for none.
        make_correction: ``(transfer, norm) -> Correction``: how the two are applied.
        cycle: ``"multiplicative"`` or ``"additive"``.

    Shape:
        - ``x``: what ``make_layer`` takes, e.g. ``(N, C)`` nodes or ``(B, C, H, W)`` images.
        - ``source``: as ``x``, with its own number of nodes (bipartite graphs).
        - Returns the shape of ``x``.

    Cost:
        With :math:`K_j` the weights of a dense layer on level :math:`j`,
        :math:`\sum_{j<n} [K_j / g_j + C_j^2 / g_j + 2 C_j] + K_n` and the layers' own norms:
        :math:`C_j^2 / g_j` are :math:`R_j` and :math:`P_j`, :math:`2 C_j` the norm :math:`N_j`.
        Where :math:`C_j` is odd or :math:`g_j` does not divide :math:`C_{j+1}`, :math:`R_j` and
        :math:`P_j` are :math:`2 C_j C_{j+1} / \gcd(g_j, C_j, C_{j+1})`.

    Raises:
        ValueError: As :func:`level_plan`, or ``cycle`` is neither of the two.

    References:
        Section 3.2 (equations 3.1 to 3.4 are the multiplicative cycle with two levels), Figure 2.
        Additive cycles: Xu, Iterative methods by space decomposition and subspace correction, SIAM
        Review 34 (1992), section 3.

    Example:
        >>> from mgic_geo import GroupedLinear, transfer
        >>> block = MGICBlock(
        ...     64,
        ...     make_layer=lambda level: GroupedLinear(
        ...         level.outer, level.outer, groups=level.groups
        ...     ),
        ...     make_transfer=transfer,
        ...     group_size=8,
        ...     coarse_size=16,
        ... )
        >>> block(torch.randn(10, 64)).shape
        torch.Size([10, 64])
    """

    def __init__(
        self,
        channels: int,
        make_layer: Callable[[Level], nn.Module],
        make_transfer: Callable[[int, int, int], nn.Module],
        *,
        inner: int | None = None,
        group_size: int,
        coarse_size: int | None = None,
        min_levels: int = 1,
        make_norm: Callable[[int], nn.Module] | None = None,
        make_correction: Callable[[nn.Module, nn.Module | None], Correction] = Correction,
        cycle: str = "multiplicative",
    ) -> None:
        super().__init__()
        check_cycle(cycle)
        self.cycle = cycle
        self.levels = level_plan(
            channels,
            inner,
            group_size=group_size,
            coarse_size=coarse_size,
            min_levels=min_levels,
        )
        self.layers = nn.ModuleList(make_layer(level) for level in self.levels)
        self.restrict, self.corrections = nn.ModuleList(), nn.ModuleList()
        for fine, coarse in itertools.pairwise(self.levels):
            groups = math.gcd(fine.groups, fine.outer, coarse.outer)
            self.restrict.append(make_transfer(fine.outer, coarse.outer, groups))
            transfer = make_transfer(coarse.outer, fine.outer, groups)
            norm = None if make_norm is None else make_norm(fine.outer)
            self.corrections.append(make_correction(transfer, norm))

    @property
    def prolong(self) -> list[nn.Module]:
        """The prolongations :math:`P_j`."""
        return [correction.transfer for correction in self.list_corrections()]

    @property
    def norms(self) -> list[nn.Module]:
        """The norms :math:`N_j` after them."""
        return [correction.norm for correction in self.list_corrections()]

    def list_corrections(self) -> list[Correction]:
        """The corrections, the finest first."""
        return list(self.corrections)  # type: ignore[arg-type]

    def reset_parameters(self) -> None:
        """Draw all weights again; the transfers keep their rule."""
        for module in (*self.layers, *self.restrict, *self.corrections):
            reset_parameters(module)

    def forward(
        self, x: Tensor, *args: object, source: Tensor | None = None, **kwargs: object
    ) -> Tensor:
        """Run the cycle on ``x``.

        Args:
            x: Features that the cycle corrects.
            *args: Passed to the layer of every level, after the features.
            source: Features that are restricted as well but only read: layers then get the pair
                ``(source, x)``, as bipartite graph convolutions do.
            **kwargs: Passed to the layer of every level.
        """
        change = self._coarse_change(x, *args, source=source, **kwargs)
        if self.cycle == "additive":
            change = self._change(0, x, change, source, *args, **kwargs)
            return x + change if isinstance(self.layers[0], Residual) else change
        corrected = x if change is None else self.corrections[0](change, x)
        return self.layers[0](_pair(corrected, source), *args, **kwargs)

    def change(
        self, x: Tensor, *args: object, source: Tensor | None = None, **kwargs: object
    ) -> Tensor:
        """What the cycle adds to ``x``, for a residual connection that others make.

        Where the finest layer is a :class:`Residual`, no difference is formed, so that the little
        that a branch scaled down adds is not rounded away.
        """
        change = self._coarse_change(x, *args, source=source, **kwargs)
        change = self._change(0, x, change, source, *args, **kwargs)
        sums = self.cycle == "additive" and not isinstance(self.layers[0], Residual)
        return change - x if sums else change

    def _coarse_change(
        self, x: Tensor, *args: object, source: Tensor | None = None, **kwargs: object
    ) -> Tensor | None:
        """What the coarser levels change on level 1, or sum up to; ``None`` without them."""
        features, sources = [x], [source]
        for restrict in self.restrict:
            features.append(restrict(features[-1]))
            sources.append(None if source is None else restrict(sources[-1]))
        change: Tensor | None = None
        for level in range(len(self.restrict), 0, -1):
            change = self._change(level, features[level], change, sources[level], *args, **kwargs)
        return change

    def _change(
        self,
        level: int,
        x: Tensor,
        change: Tensor | None,
        source: Tensor | None,
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        """What this level and the coarser ones, which changed ``change``, add to ``x``.

        In an additive cycle of layers that are not residual: what they sum up to.
        """
        layer = self.layers[level]
        if self.cycle == "additive":
            work = layer.added if isinstance(layer, Residual) else layer
            own = work(_pair(x, source), *args, **kwargs)
            return own if change is None else self.corrections[level](change, own)
        if not isinstance(layer, Residual):
            corrected = _pair(x if change is None else self.corrections[level](change, x), source)
            if isinstance(layer, Differing):
                return layer.less(x, corrected, *args, **kwargs)
            return layer(corrected, *args, **kwargs) - x
        if change is None:
            return layer.added(_pair(x, source), *args, **kwargs)
        correction = self.corrections[level](change)
        return correction + layer.added(_pair(x + correction, source), *args, **kwargs)

    def extra_repr(self) -> str:
        """Show the plan as a table above the modules."""
        return "\n".join(("level  outer  inner groups  width", *map(str, self.levels)))


def check_cycle(cycle: str) -> None:
    """Refuse an unknown kind of cycle.

    Raises:
        ValueError: If it is unknown.
    """
    if cycle not in CYCLES:
        raise ValueError(f"cycle must be one of {', '.join(CYCLES)}, got {cycle!r}")


def _pair(x: Tensor, source: Tensor | None) -> Features:
    return x if source is None else (source, x)


def _targets(x: Features) -> Tensor:
    return x[1] if isinstance(x, tuple) else x


def init_transfer_(weight: Tensor, *, init: str = "aggregate") -> Tensor:
    r"""Fill the weight of a restriction or prolongation, as a rule positive with row sums of 1.

    With ``"aggregate"``, nine tenths of row :math:`i` average its own channels (the pair it stands
    for when restricting, its parent when prolonging) and a random tenth is spread over its group.
    Rows drawn from :math:`U(0, 1)` (``"uniform"``) satisfy the same sentence of the paper but
    nearly coincide, and composed restrictions lose their rank; equal rows (``"constant"``) get
    equal gradients for ever. Both are there to compare with. ``"normal"`` draws from
    :math:`N(0, 1/k)` with :math:`k` channels in a group's input instead, neither positive nor
    averaging: the start of additive cycles.

    Args:
        weight: The weight, or a view of it, in place.
        init: ``"aggregate"``, ``"uniform"``, ``"constant"`` or ``"normal"``.

    Shape:
        - ``weight``: ``(groups, out / groups, in / groups)``.

    Raises:
        ValueError: If ``init`` is none of the four, or ``weight`` has another number of axes.

    References:
        Section 3.3 ("initialized by positive weights with row-sums of 1").

    Example:
        >>> init_transfer_(torch.empty(4, 2, 4)).sum(-1).allclose(torch.ones(4, 2))
        True
    """
    if init not in TRANSFER_STARTS:
        raise ValueError(f"init must be one of {', '.join(TRANSFER_STARTS)}, got {init!r}")
    if weight.dim() != 3:
        raise ValueError(f"weight must be (groups, out, in), got shape {tuple(weight.shape)}")
    with torch.no_grad():
        if init == "constant":
            return weight.fill_(1 / weight.size(-1))
        if init == "normal":
            return weight.normal_(0, weight.size(-1) ** -0.5)
        weight.uniform_()
        weight.div_(weight.sum(-1, keepdim=True))
        if init == "aggregate":
            own = _own_channels(weight.size(-2), weight.size(-1)).to(weight)
            weight.mul_(0.1).add_(own.div_(own.sum(-1, keepdim=True)), alpha=0.9)
    return weight


def _own_channels(rows: int, columns: int) -> Tensor:
    """(rows, columns) of 0 and 1: which input channels an output channel stands for."""
    row, column = torch.arange(rows).view(-1, 1), torch.arange(columns).view(1, -1)
    if columns >= rows:
        return column * rows // columns == row
    return row * columns // rows == column


def reset_parameters(module: nn.Module) -> None:
    """Call ``reset_parameters`` on ``module`` or, where it has none, on the modules inside it."""
    if isinstance(module, Resettable):
        module.reset_parameters()
        return
    for child in module.children():
        reset_parameters(child)
