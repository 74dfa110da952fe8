"""Linear maps on the last axis with fewer weights than a dense one, each as its authors define it.

Written plainly on the grouped product that MGIC uses, so that no rival loses by its implementation.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from mgic_geo import GroupedLinear


def low_rank(in_channels: int, out_channels: int, *, rank: int) -> nn.Sequential:
    """A product of two thin matrices.

    Example:
        >>> sum(p.numel() for p in low_rank(64, 128, rank=4).parameters())
        896
    """
    down = nn.Linear(in_channels, rank, bias=False)
    return nn.Sequential(OrderedDict(down=down, up=nn.Linear(rank, out_channels)))


class ShuffledLinear(nn.Module):
    """A grouped map whose output channels are dealt out to the groups of the next one.

    References:
        Zhang et al., ShuffleNet (2018), section 3.1.

    Example:
        >>> ShuffledLinear(8, 16, groups=4)(torch.ones(3, 8)).shape
        torch.Size([3, 16])
    """

    def __init__(self, in_channels: int, out_channels: int, *, groups: int) -> None:
        super().__init__()
        self.linear = GroupedLinear(in_channels, out_channels, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map and shuffle."""
        return shuffle(self.linear(x), self.linear.groups)


class GhostLinear(nn.Module):
    """Half of the channels by a dense map, the other half each from one of those.

    References:
        Han et al., GhostNet (2020), section 3.1, with s = 2; on a vector the cheap depthwise
        operation is a scale and a shift a channel.

    Example:
        >>> sum(p.numel() for p in GhostLinear(64, 128).parameters())
        4288
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = (out_channels + 1) // 2
        self.rest = out_channels - half
        self.primary = nn.Linear(in_channels, half)
        self.scale = nn.Parameter(torch.ones(self.rest).uniform_(-1, 1))
        self.shift = nn.Parameter(torch.zeros(self.rest))

    def forward(self, x: Tensor) -> Tensor:
        """Compute both halves."""
        x = self.primary(x)
        return torch.cat([x, x[..., : self.rest] * self.scale + self.shift], -1)


class MonarchLinear(nn.Module):
    """Two block-diagonal maps with a transposition of the channels between them and after them.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        blocks: Diagonal blocks of either map; divides both widths.

    References:
        Dao et al., Monarch (2022), definition 3.1, and for widths that differ the released code:
        the width between the two maps is the narrower one.

    Example:
        >>> sum(p.numel() for p in MonarchLinear(64, 128, blocks=4).parameters())
        3200
    """

    def __init__(self, in_channels: int, out_channels: int, *, blocks: int) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.first = GroupedLinear(in_channels, middle, groups=blocks, bias=False)
        self.second = GroupedLinear(middle, out_channels, groups=blocks)
        # without an activation between them, both by their own rule would shrink the features
        nn.init.normal_(self.first.weight, std=math.sqrt(blocks / in_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by both factors."""
        blocks, middle = self.first.groups, self.first.out_channels
        return shuffle(self.second(shuffle(self.first(x), middle // blocks)), blocks)


class BlockTensorTrain(nn.Module):
    r"""A block tensor-train of two cores: Monarch with ``rank`` numbers in place of every one.

    With :math:`C = n_1 n_2` and :math:`m = m_1 m_2`,

    .. math::
        y_{\alpha \beta} = \sum_{\gamma \sigma} L_{\alpha \beta \gamma \sigma}
        \sum_\delta R_{\beta \gamma \sigma \delta} x_{\gamma \delta}

    Both cores start with the variance of their authors' rule, and :meth:`rates` has their rates.

    Args:
        in_channels: Channels in, :math:`C`.
        out_channels: Channels out, :math:`m`.
        rank: Of the sum over :math:`\sigma`.

    References:
        Qiu et al., Compute Better Spent: Replacing Dense Layers with Structured Matrices (2024),
        section 4.

    Example:
        >>> sum(p.numel() for p in BlockTensorTrain(64, 256, rank=2).parameters())
        6400
    """

    def __init__(self, in_channels: int, out_channels: int, *, rank: int) -> None:
        super().__init__()
        self.blocks, self.rank, self.columns = _root(in_channels), rank, _root(out_channels)
        middle = self.blocks * self.columns * rank
        self.first = GroupedLinear(in_channels, middle, groups=self.blocks, bias=False)
        self.second = GroupedLinear(middle, out_channels, groups=self.columns)
        for core in (self.first, self.second):
            outputs, inputs = core.weight.shape[1:]
            nn.init.normal_(core.weight, std=math.sqrt(min(1, outputs / inputs) / inputs))

    def rates(self) -> dict[nn.Parameter, float]:
        """How many times the rate of a dense map the cores get: two factors, each of few inputs."""
        dense = self.first.in_channels
        return {core.weight: dense / core.weight.size(2) / 2 for core in (self.first, self.second)}

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by both cores."""
        x = self.first(x).unflatten(-1, (self.blocks, self.columns, self.rank))
        x = x.transpose(-3, -2).flatten(-3)  # (..., beta, gamma, sigma)
        return shuffle(self.second(x), self.columns)


class BlastLinear(nn.Module):
    r"""Blocks that share their factors: block :math:`(i, j)` is :math:`U_i \Lambda_{ij} V_j^\top`.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        blocks: Blocks along either side; divides both widths.
        rank: Of every block.

    References:
        Lee et al., BLAST: Block-Level Adaptive Structured Matrices for Efficient Deep Neural
        Network Inference (2024), section 2. The scales start from 0 to 2, as there; the factors
        keep the variance of the features.

    Example:
        >>> sum(p.numel() for p in BlastLinear(64, 128, blocks=4, rank=8).parameters())
        1792
    """

    def __init__(self, in_channels: int, out_channels: int, *, blocks: int, rank: int) -> None:
        super().__init__()
        self.down = GroupedLinear(in_channels, blocks * rank, groups=blocks, bias=False)
        self.scale = nn.Parameter(torch.empty(blocks, blocks, rank).uniform_(0, 2))
        self.up = GroupedLinear(blocks * rank, out_channels, groups=blocks)
        # the scales have a mean square of 4 / 3, and as many of them are summed as there are blocks
        nn.init.normal_(self.down.weight, std=math.sqrt(blocks / in_channels))
        nn.init.normal_(self.up.weight, std=math.sqrt(3 / (4 * blocks * rank)))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by all blocks."""
        x = self.down(x).unflatten(-1, self.scale.shape[1:])
        return self.up(torch.einsum("ijr,...jr->...ir", self.scale, x).flatten(-2))


def _root(width: int) -> int:
    """The divisor of a width that is nearest to its root from below."""
    return next(d for d in range(math.isqrt(width), 0, -1) if width % d == 0)


class ButterflyLinear(nn.Module):
    """A product of sparse factors, each of which mixes pairs of channels, at all distances.

    Args:
        in_channels: Channels in.
        out_channels: Channels out; the wider of the two is a multiple of the narrower one, which is
            a power of 2.
        products: Products of all distances, one after another.

    References:
        Dao et al., Learning fast algorithms for linear transforms (2019), section 3.1, and
        Kaleidoscope (2020), definition 2.3; several side by side where the widths differ, as in the
        released code.

    Example:
        >>> sum(p.numel() for p in ButterflyLinear(64, 128, products=1).parameters())
        1664
    """

    def __init__(self, in_channels: int, out_channels: int, *, products: int) -> None:
        super().__init__()
        width = min(in_channels, out_channels)
        if width & (width - 1) or max(in_channels, out_channels) % width:
            raise ValueError(
                "the narrower width must be a power of 2 that divides the other, got "
                f"{in_channels} and {out_channels}"
            )
        self.width, self.copies = width, max(in_channels, out_channels) // width
        self.expands = out_channels > in_channels
        distances = [1 << power for power in range(width.bit_length() - 1)]
        self.factors = nn.ParameterList(
            nn.Parameter(torch.empty(self.copies, width // (2 * distance), 2, 2, distance))
            for product in range(products)
            for distance in (distances if product % 2 == 0 else distances[::-1])
        )
        self.bias = nn.Parameter(torch.zeros(out_channels))
        for factor in self.factors:  # keeps the variance, as the released code does
            nn.init.normal_(factor, std=math.sqrt(1 / 2))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by all factors.

        With more rows than channels the factors are multiplied out first, and the rows by the
        dense matrix then: on a processor much faster than the rows by every factor.
        """
        rows = x.reshape(-1, x.size(-1))
        if len(rows) > x.size(-1):
            rows = rows @ self._multiply(torch.eye(x.size(-1)).to(x))
        else:
            rows = self._multiply(rows)
        return (rows + self.bias).view(*x.shape[:-1], -1)

    def _multiply(self, x: Tensor) -> Tensor:
        """Multiply by all factors, and add up what the copies give where the width shrinks."""
        rows = x.reshape(-1, 1 if self.expands else self.copies, self.width)
        for factor in self.factors:
            _, pairs, _, _, distance = factor.shape
            pieces = rows.view(*rows.shape[:2], pairs, 1, 2, distance)
            rows = (factor * pieces).sum(-2).flatten(2)  # (N, copies, pairs, 2, distance)
        return rows.flatten(1) if self.expands else rows.sum(1) / math.sqrt(self.copies)


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel ``j`` of group ``i`` becomes channel ``i`` of group ``j``.

    Example:
        >>> shuffle(torch.arange(6), 2)
        tensor([0, 3, 1, 4, 2, 5])
    """
    return x.unflatten(-1, (groups, -1)).transpose(-1, -2).flatten(-2)
