"""Exact nearest neighbors of points in batched clouds.

One rule decides: the neighbors of a point are ordered by (squared distance, index). The squared
distance is that of the coordinates as given, summed from their differences in float64, coordinate
after coordinate. What makes the search fast, a matrix product or float32, only proposes neighbors;
it never decides between two of them, so the answer does not depend on the machine, the thread
count, the other clouds of the batch, the device, or on whether the kernels of
:mod:`mgic_geo.native` are there.
"""

import importlib
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric import EdgeIndex

from mgic_geo import native

_BACKENDS = ("auto", "exact", "torch_cluster")
_SPARE = 4  # candidates beyond k: a tie among the first k + 4 costs no search of the whole cloud
_SMALL = 128  # up to this many points, differences are faster than the product
_ROWS = 256  # rows of a product at a time: 2 MB for 1,024 points, which stay in cache
_BLOCK = 1 << 18  # differences at a time, for the same reason


def knn_graph(
    x: Tensor, k: int, batch: Tensor | None = None, *, backend: str = "auto"
) -> EdgeIndex:
    r"""Connects every point to its ``k`` nearest neighbors, by the rule of :func:`knn_indices`.

    Edges are sorted by center, then distance, then index, so the compressed form that sparse
    products need is known without sorting and comes with the result.

    Args:
        x: Coordinates or features of the points.
        k: Neighbors per point. Clouds of :math:`n \le k` points give :math:`n - 1`.
        batch: The cloud of every point, in any order; ``None`` means a single cloud.
        backend: See :func:`knn_indices`.

    Shape:
        - ``x``: ``(N, D)``.
        - ``batch``: ``(N,)``.
        - Returns ``(2, E)``: row 0 holds neighbors (sources), row 1 centers (targets).

    Raises:
        ValueError: As :func:`knn_indices`.
        ImportError: As :func:`knn_indices`.

    Example:
        >>> pos = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
        >>> knn_graph(pos, 2).as_tensor()
        tensor([[1, 2, 0, 2, 1, 0, 2, 1],
                [0, 0, 1, 1, 2, 2, 3, 3]])
    """
    neighbors = knn_indices(x, k, batch, backend=backend)
    num_points = neighbors.size(0)
    found = neighbors >= 0
    degree = found.sum(1)
    centers = torch.arange(num_points, device=x.device).repeat_interleave(degree)
    edge_index = EdgeIndex(  # pyright: ignore[reportCallIssue]: it sees Tensor's __init__
        torch.stack([neighbors[found], centers]),
        sparse_size=(num_points, num_points),
        sort_order="col",
    )
    edge_index._indptr = F.pad(degree.cumsum(0), (1, 0))
    return edge_index


def knn_indices(x: Tensor, k: int, batch: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    r"""Finds the ``k`` nearest neighbors of every point, exactly.

    The usual expansion :math:`|x|^2 - 2 x^\top y + |y|^2` is fast and loses neighbors away from the
    origin, on grids and beside outliers. Here it only proposes candidates: a row whose order could
    depend on rounding is decided by differences, among its candidates or over its whole cloud.

    .. math::
        j \text{ before } j' \iff (d_{ij}, j) < (d_{ij'}, j'), \qquad
        d_{ij} = \sum_{c=1}^{D} (x_{ic} - x_{jc})^2

    The sum is taken in float64 from :math:`c = 1` to :math:`D`, every operation rounded once, after
    each cloud has been multiplied by the power of two that brings its largest coordinate into
    :math:`[1/2, 1)`. That changes no order and keeps squares of 1e-200 and 1e200 apart. A point is
    never its own neighbor, duplicates of it are, and points of other clouds are not. The result is
    an index and passes no gradient to ``x``.

    Args:
        x: Coordinates or features of the points, of any floating type.
        k: Neighbors per point.
        batch: The cloud of every point, in any order and with gaps; ``None`` means a single cloud.
        backend: ``"auto"`` is the search described here and the same everywhere. ``"exact"``, its
            reference, decides every row by differences. ``"torch_cluster"`` asks that library,
            which orders ties as it likes and measures in the precision of ``x``.

    Shape:
        - ``x``: ``(N, D)``.
        - ``batch``: ``(N,)``, int64.
        - Returns ``(N, k)``, int64: points by row number, nearest first; in a cloud of
          :math:`n \le k` points the last :math:`k - n + 1` places hold -1.

    Cost:
        :math:`n^2 (D + 2)` multiply-adds per cloud of :math:`n` points. Rows decided over their
        whole cloud, as where many points tie, cost about five times as much. Memory grows with
        :math:`N`, not with its square.

    Raises:
        ValueError: If ``k``, ``backend`` or the shape, type or values of ``x`` or ``batch`` do not
            fit the above, with the first row that holds a NaN, an infinity or a negative cloud.
        ImportError: If torch-cluster is asked for and not installed.

    References:
        N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1, for the
        rounding error of inner products.

    Example:
        >>> pos = torch.tensor([[0.0], [1.0], [3.0], [7.0], [7.0]])
        >>> knn_indices(pos, 2)
        tensor([[1, 2],
                [0, 2],
                [1, 0],
                [4, 2],
                [3, 2]])
        >>> knn_indices(pos, 2, batch=torch.tensor([0, 0, 0, 1, 1]))
        tensor([[ 1,  2],
                [ 0,  2],
                [ 1,  0],
                [ 4, -1],
                [ 3, -1]])
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if backend not in _BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(_BACKENDS)}, got {backend!r}")
    if x.dim() != 2 or x.numel() == 0:
        raise ValueError(f"x must be (N, D) with N >= 1 and D >= 1, got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    if batch is not None and (batch.shape != x.shape[:1] or batch.dtype != torch.int64):
        raise ValueError(
            f"batch must be int64 of shape ({x.size(0)},), got {batch.dtype} of shape "
            f"{tuple(batch.shape)}"
        )
    return _knn(x.detach(), batch, k, backend)


# One opaque operator: how many rows fall back, and how large the clouds are, is only known at run
# time, and would break the graph of a compiled model everywhere else.
@torch.library.custom_op("mgic::knn", mutates_args=())
def _knn(x: Tensor, batch: Tensor | None, k: int, backend: str) -> Tensor:
    if batch is None:
        batch = torch.zeros(x.size(0), dtype=torch.int64, device=x.device)
    elif (batch < 0).any():
        row = int((batch < 0).nonzero()[0])
        raise ValueError(f"batch must not be negative, got {int(batch[row])} in row {row}")
    _check_finite(x)
    order = None
    if (batch[1:] < batch[:-1]).any():
        # The stable sort keeps points of a cloud in order: ties by place are ties by index.
        batch, order = batch.sort(stable=True)
        x = x[order]
    counts = batch.unique_consecutive(return_counts=True)[1]
    if backend == "torch_cluster":
        places = _search_torch_cluster(x, counts, k)
    elif backend == "auto" and x.size(1) <= native.MAX_DIM and native.usable(_single(x)):
        places = native.knn(_single(x), F.pad(counts.cumsum(0), (1, 0)), k)
    else:
        places = _search(x, counts, k, exact=backend == "exact")
    if order is None:
        return places
    neighbors = torch.empty_like(places)
    neighbors[order] = F.pad(order, (0, 1), value=-1)[places]  # place -1 reads the padding
    return neighbors


def _single(x: Tensor) -> Tensor:
    """Half precision as float32, which holds it exactly."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _check_finite(x: Tensor) -> None:
    low, high = x.aminmax()  # both are NaN where anything is
    if not (low.isfinite() and high.isfinite()):
        row = int((~x.isfinite().all(1)).nonzero()[0])
        raise ValueError(f"x must be finite, got {x[row].tolist()} in row {row}")


@_knn.register_fake
def _(x: Tensor, batch: Tensor | None, k: int, backend: str) -> Tensor:
    return x.new_empty((x.size(0), k), dtype=torch.int64)


def _scale(largest: Tensor) -> Tensor:
    """Returns the powers of two that bring these magnitudes into [1/2, 1), as far as there are any.

    Multiplying by them is exact, and afterwards no square over- or underflows.
    """
    largest = largest.clamp(min=2.0**-1000)  # a cloud in the origin has no scale
    return torch.frexp(largest).mantissa / largest


def _search(x: Tensor, counts: Tensor, k: int, *, exact: bool) -> Tensor:
    """Finds neighbors in clouds that lie one after another."""
    cloud = torch.arange(counts.numel(), device=x.device).repeat_interleave(counts)
    largest = x.new_zeros(counts.numel()).scatter_reduce(0, cloud, x.abs().amax(1), "amax")
    coords = (x * _scale(largest.double())[cloud, None]).T.contiguous()  # (D, N)
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


def _search_torch_cluster(x: Tensor, counts: Tensor, k: int) -> Tensor:
    """Asks torch-cluster about points sorted by cloud."""
    try:
        torch_cluster = importlib.import_module("torch_cluster")
    except ImportError as error:
        raise ImportError(
            "backend='torch_cluster' needs torch-cluster: `make cluster` installs it, and "
            "backend='auto' does without"
        ) from error
    x = _single(x)
    cloud = torch.arange(counts.numel(), device=x.device).repeat_interleave(counts)

    # One more than asked for, as a point finds itself, unless enough duplicates come first.
    centers, neighbors = torch_cluster.knn(x, x, k + 1, cloud, cloud)
    degree = centers.bincount(minlength=x.size(0))
    rank = torch.arange(centers.numel(), device=x.device) - (degree.cumsum(0) - degree)[centers]
    places = torch.full((x.size(0), k + 1), -1, device=x.device)
    places[centers, rank] = neighbors
    itself = places == torch.arange(x.size(0), device=x.device)[:, None]
    return places.gather(1, itself.byte().sort(dim=1, stable=True).indices)[:, :k]
