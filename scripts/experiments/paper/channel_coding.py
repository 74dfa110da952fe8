"""Restrictions and prolongations alone as a code for channels (section 4.1).

Without blocks and skips, ``R`` and ``P`` are one linear map ``A`` of a pixel's 64 channels. Its
mean squared error over all pixels of all images is a function of their second moments ``S`` alone,
``tr((I - A) S (I - A)^T) / 64``, so that a step with all the data costs as much as one with 64 of
its pixels; nothing is sampled.
"""

import itertools
import math

import torch
from torch import Tensor, nn

from mgic_geo import level_plan, transfer

STEPS = 80  # of L-BFGS, to stay within a minute; the dense coder shows what more would gain


class ChannelCoder(nn.Module):
    """All restrictions of a cycle, then all its prolongations.

    Args:
        channels: Width of the finest level.
        group_size: Channels of a group, :math:`s_g`.
        coarse_size: Width of the coarsest level, :math:`s_c`.

    Shape:
        - ``x``: ``(..., channels)``. Returns the same shape.

    Example:
        >>> sum(p.numel() for p in ChannelCoder(64, group_size=16, coarse_size=8).parameters())
        1792
    """

    def __init__(self, channels: int, *, group_size: int, coarse_size: int) -> None:
        super().__init__()
        self.restrict, self.prolong = nn.Sequential(), nn.Sequential()
        levels = level_plan(channels, group_size=group_size, coarse_size=coarse_size)
        for fine, coarse in itertools.pairwise(levels):
            groups = math.gcd(fine.groups, fine.outer, coarse.outer)
            self.restrict.append(transfer(fine.outer, coarse.outer, groups))
            self.prolong.insert(0, transfer(coarse.outer, fine.outer, groups))

    def forward(self, x: Tensor) -> Tensor:
        """Encode and decode."""
        return self.prolong(self.restrict(x))


def dense_coder(channels: int, coarse_size: int) -> nn.Module:
    """A dense linear autoencoder, which can reach :func:`rank_bound`."""
    return nn.Sequential(
        nn.Linear(channels, coarse_size, bias=False), nn.Linear(coarse_size, channels, bias=False)
    )


def coding_error(coder: nn.Module, moment: Tensor) -> Tensor:
    """Mean squared error of a linear coder, for features with these second moments.

    Example:
        >>> coding_error(nn.Linear(2, 2, bias=False).requires_grad_(False).double()
        ...     .apply(lambda m: m.weight.data.zero_()), torch.eye(2).double())
        tensor(1., dtype=torch.float64)
    """
    rest = torch.eye(len(moment), dtype=moment.dtype)
    rest = rest - coder(rest)
    return (rest.T @ moment @ rest).trace() / len(moment)


def rank_bound(moment: Tensor, rank: int) -> float:
    """Error of the best linear code with ``rank`` numbers a pixel (principal components).

    Example:
        >>> rank_bound(torch.diag(torch.tensor([4.0, 2.0, 0.0, 0.0])), 1)
        0.5
    """
    return torch.linalg.eigvalsh(moment)[: len(moment) - rank].sum().item() / len(moment)


def train_coder(coder: nn.Module, moment: Tensor, steps: int = STEPS) -> float:
    """Minimize the error by L-BFGS and return it."""
    coder.double()
    optimizer = torch.optim.LBFGS(
        coder.parameters(),
        max_iter=steps,
        max_eval=2 * steps,
        history_size=100,
        tolerance_grad=1e-12,  # torch's tolerances stop while there is much to gain
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = coding_error(coder, moment)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return coding_error(coder, moment).item()
