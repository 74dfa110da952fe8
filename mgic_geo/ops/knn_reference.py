"""Search for the nearest neighbors in plain PyTorch: a product proposes, differences decide.

The rule that it follows is that of :mod:`mgic_geo.graphs.neighbors`.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_SPARE = 4  # candidates beyond k: a tie among the first k + 4 costs no search of the whole cloud
_SMALL = 128  # up to this many points, differences are faster than the product
_ROWS = 256  # rows of a product at a time: 2 MB for 1,024 points, which stay in cache
_BLOCK = 1 << 18  # differences at a time, for the same reason


def _scale(largest: Tensor) -> Tensor:
    """Returns the powers of two that bring these magnitudes into [1/2, 1), as far as there are any.

    Multiplying by them is exact, and afterwards no square over- or underflows.
    """
    largest = largest.clamp(min=2.0**-1000)  # a cloud in the origin has no scale
    return torch.frexp(largest).mantissa / largest


def scale_of(x: Tensor, counts: Tensor) -> Tensor:
    """Returns, for every point, the power of two by which its cloud is multiplied.

    Shape:
        - ``x``: ``(N, D)``, cloud by cloud. ``counts``: ``(clouds,)``. Returns ``(N, 1)``, float64.
    """
    cloud = torch.arange(counts.numel(), device=x.device).repeat_interleave(counts)
    largest = x.new_zeros(counts.numel()).scatter_reduce(0, cloud, x.abs().amax(1), "amax")
    return _scale(largest.double())[cloud, None]


def search(x: Tensor, counts: Tensor, k: int, *, exact: bool) -> Tensor:
    """Finds neighbors in clouds that lie one after another.

    Args:
        x: Finite coordinates, cloud by cloud.
        counts: Points of each cloud.
        k: Neighbors per point.
        exact: Whether differences decide every row, also where the product leaves no doubt.

    Shape:
        - ``x``: ``(N, D)``. ``counts``: ``(clouds,)``.
        - Returns ``(N, k)``, int64: row numbers, nearest first, -1 where there is none.
    """
    coords = (x * scale_of(x, counts)).T.contiguous()  # (D, N)
    places = torch.full((coords.size(1), k), -1, device=coords.device)
    first = (counts.cumsum(0) - counts).tolist()
    sizes = counts.tolist()
    small = []
    for cloud, (start, size) in enumerate(zip(first, sizes, strict=True)):
        if exact or size <= max(_SMALL, 4 * (k + _SPARE)):
            small.append(cloud)
            continue
        found = _search_product(coords[:, start : start + size].contiguous(), k)
        places[start : start + size] = found + start

    for clouds in _blocks(small, sizes):
        begin = torch.tensor([first[cloud] for cloud in clouds], device=coords.device)[:, None]
        size = counts[clouds, None]
        slots = torch.arange(int(size.max()), device=coords.device).expand(len(clouds), -1)
        valid = slots < size
        block = coords[:, (begin + slots).clamp(max=coords.size(1) - 1)]  # (D, B, n)
        found = _search_differences(block, slots, k, valid)
        found = torch.where(found >= 0, found + begin[:, :, None], -1)
        places[(begin + slots)[valid], : found.size(2)] = found[valid]
    return places


def search_between(x: Tensor, y: Tensor, k: int, radius: float) -> Tensor:
    """Finds the points of one cloud that are nearest to points that need not be in it.

    Args:
        x: Finite coordinates of the cloud.
        y: Those of points whose neighbors are wanted.
        k: Neighbors per point.
        radius: Only what is nearer counts.

    Shape:
        - ``x``: ``(N, D)``. ``y``: ``(M, D)``.
        - Returns ``(M, k)``, int64: rows of ``x``, nearest first, -1 where there is none.
    """
    places = torch.full((y.size(0), k), -1, device=y.device)
    if not x.numel() or not y.numel():
        return places
    x, y = x.double(), y.double()
    scale = _scale(torch.maximum(x.abs().max(), y.abs().max()))
    limit = (radius * scale).square()
    columns = list(zip((x * scale).T.contiguous(), (y * scale).T.contiguous(), strict=True))
    step = max(1, _BLOCK // x.size(0))
    for start in range(0, y.size(0), step):
        rows = slice(start, start + step)
        distances = x.new_zeros(y[rows].size(0), x.size(0))
        for points, others in columns:
            gaps = others[rows, None] - points
            distances.add_(gaps.mul_(gaps))
        distances.masked_fill_(distances >= limit, torch.inf)
        count = min(k, x.size(0))
        places[rows, :count] = _first_places(distances, count)
    return places


def _blocks(clouds: list[int], sizes: list[int]) -> Iterator[list[int]]:
    """Groups clouds of similar size, so that many small ones are searched together."""
    block: list[int] = []
    for cloud in sorted(clouds, key=lambda cloud: sizes[cloud]):
        if block and (len(block) + 1) * sizes[cloud] ** 2 > _BLOCK:
            yield block
            block = []
        block.append(cloud)
    if block:
        yield block


def _search_differences(
    coords: Tensor, rows: Tensor, k: int, valid: Tensor | None = None
) -> Tensor:
    """Decides rows by the rule over their whole clouds.

    Shape:
        - ``coords``: ``(D, B, n)``, clouds padded to the same size.
        - ``rows``: ``(B, R)``, which points of each cloud.
        - ``valid``: ``(B, n)``, false for padding.
        - Returns ``(B, R, min(k, n))``: places in the cloud, -1 where there is none.
    """
    _, num_clouds, size = coords.shape
    places = rows.new_empty(num_clouds, rows.size(1), min(k, size))
    step = max(1, _BLOCK // (num_clouds * size))
    for start in range(0, rows.size(1), step):
        part = rows[:, start : start + step]
        distances = coords.new_zeros(num_clouds, part.size(1), size)
        gaps = torch.empty_like(distances)
        for coord in coords:
            torch.sub(coord.gather(1, part)[:, :, None], coord[:, None, :], out=gaps)
            distances.add_(gaps.mul_(gaps))  # apart: a fused multiply-add would round once
        distances.scatter_(2, part[:, :, None], torch.inf)
        if valid is not None:
            distances.masked_fill_(~valid[:, None, :], torch.inf)
        places[:, start : start + step] = _first_places(distances, min(k, size))
    return places


def _first_places(distances: Tensor, k: int) -> Tensor:
    """Returns the first k places of each row by (distance, place), -1 where it is infinite.

    Everything below the k-th smallest value belongs to them, and of what equals it the first few:
    six times faster than a stable sort of the row.
    """
    last = distances.topk(k, largest=False).values[..., -1:]
    below = distances < last
    tied = distances == last
    missing = k - below.sum(-1, keepdim=True)
    chosen = below | (tied & (tied.cumsum(-1) <= missing))
    places = chosen.nonzero()[:, -1].view(*distances.shape[:-1], k)
    values, order = distances.gather(-1, places).sort(stable=True)
    return places.gather(-1, order).masked_fill_(values.isinf(), -1)


def _rounding(dim: int) -> float:
    r"""Returns :math:`\beta` with :math:`|a - d| \le \beta (|w_i|^2 + d)`.

    Here a is the squared distance of i and j by the product, d the one by the rule, w the centered
    coordinates. With :math:`u = 2^{-53}` and :math:`S = |w_i| + |w_j|`, to first order in u:

    - centering rounds each coordinate of w by u of itself: :math:`2 u S^2`;
    - the squared norms are sums of D squares: :math:`D u S^2`;
    - the product has D + 2 terms, whose magnitudes add up to no more than :math:`S^2`, and any
      order of summation, fused or not, errs by :math:`(D + 2) u S^2`;
    - the rule itself rounds by :math:`(D + 2) u d`, and :math:`d \le S^2`.

    These are :math:`(3 D + 6) u S^2`; :math:`4 (D + 4) u S^2` covers the higher orders too. As w_j
    is no further from w_i than :math:`\sqrt d`, Cauchy and Schwarz give
    :math:`S^2 \le (2 |w_i| + \sqrt d)^2 \le 5 (|w_i|^2 + d)`: far points may have large errors,
    but they are far.
    """
    return 5 * (dim + 4) * 2.0**-51


def _search_product(coords: Tensor, k: int) -> Tensor:
    """Finds the neighbors in one cloud, ``(D, n)`` to ``(n, k)``, by the product where that is
    safe.
    """
    # The center needs no precision: the rounding of a difference is relative to the difference.
    centered = coords - coords.mean(1, keepdim=True)
    norms = centered.square().sum(0)
    candidates, approximate = _propose(centered, norms, k + _SPARE)

    # Intervals that hold the distances of the rule. Products may underflow by a little more.
    beta = _rounding(coords.size(0))
    slack = beta * norms[:, None] + 2.0**-1000
    lower = (approximate - slack) / (1 + beta)
    upper = (approximate + slack) / (1 - beta)
    places = candidates[:, :k].contiguous()

    # Nothing to decide where the first k intervals end before the next one begins.
    rows = (upper[:, :k] >= lower[:, 1 : k + 1]).any(1).nonzero()[:, 0]
    if rows.numel() == 0:
        return places
    ranked, distances = _rank(coords, rows, candidates[rows])
    places[rows] = ranked[:, :k]

    # Every other point of the cloud lies at the last candidate's lower end or beyond.
    rows = rows[distances[:, k - 1] >= lower[rows, -1]]
    if rows.numel() > 0:
        places[rows] = _search_differences(coords[:, None], rows[None], k)[0]
    return places


def _propose(centered: Tensor, norms: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the nearest points of every point by the product, ``(n, count)``, and how near.

    The product is in float64: that is no slower, as float32 would leave a fifth of the rows to be
    ranked again, and neither autocast nor TensorFloat32 touches it.
    """
    dim, size = centered.shape
    # The smallest values lie in the groups with the smallest minima: two selections among about
    # sqrt(n * count) each, in place of one among n.
    num_parts = 2 ** round(math.log2(size / count) / 2)
    width = -(-size // num_parts)

    # One product gives |x|^2 - 2xy + |y|^2; columns that only fill up the last group are infinite.
    ones = torch.ones_like(norms)[None]
    left = torch.cat([-2 * centered, norms[None], ones]).T  # (n, D + 2)
    right = torch.cat([centered, ones, norms[None]])
    right = F.pad(right, (0, num_parts * width - size))  # (D + 2, groups * width)
    right[dim + 1, size:] = torch.inf

    first_of_part = torch.arange(0, num_parts * width, width, device=centered.device)[:, None]
    # Allocated once: results kept between large temporaries would leave holes in the heap.
    candidates = torch.empty(size, count, dtype=torch.int64, device=centered.device)
    approximate = centered.new_empty(size, count)
    buffer = centered.new_empty(min(_ROWS, size), right.size(1))
    for start in range(0, size, _ROWS):
        rows = slice(start, min(start + _ROWS, size))
        product = torch.mm(left[rows], right, out=buffer[: rows.stop - start])
        product.diagonal(start).fill_(torch.inf)
        minima = product.view(-1, num_parts, width).amin(1)
        groups = minima.topk(count, largest=False, sorted=False).indices
        columns = (groups[:, None, :] + first_of_part).flatten(1)
        approximate[rows], chosen = product.gather(1, columns).topk(count, largest=False)
        candidates[rows] = columns.gather(1, chosen)
    return candidates, approximate


def _rank(coords: Tensor, rows: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts candidates ``(R, K)`` of some rows by the rule; returns them and their distances."""
    candidates = candidates.sort(1).values
    distances = coords.new_zeros(candidates.shape)
    for coord in coords:
        gaps = coord[rows, None] - coord.take(candidates)
        distances.add_(gaps.mul_(gaps))
    distances, order = distances.sort(stable=True)
    return candidates.gather(1, order), distances
