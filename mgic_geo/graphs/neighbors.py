"""Exact nearest neighbors of points in batched clouds.

One rule decides: the neighbors of a point are ordered by (squared distance, index). The squared
distance is that of the coordinates as given, summed from their differences in float64, coordinate
after coordinate. What makes the search fast, a matrix product or float32, only proposes neighbors;
it never decides between two of them, so the answer does not depend on the machine, the thread
count, the other clouds of the batch, the device, or on whether the kernels of
:mod:`mgic_geo.ops.csrc` are there.
"""

import torch
from torch import Tensor
from torch_geometric import EdgeIndex

from mgic_geo.graphs.points import check_flow, checked_batch, directions, edges_of, to_graph
from mgic_geo.levels import check_counts
from mgic_geo.ops import knn_batched
from mgic_geo.ops.host import is_readable
from mgic_geo.ops.knn import knn
from mgic_geo.ops.knn_between import knn_between

_BACKENDS = ("auto", "exact", "torch_cluster")


def knn_graph(
    x: Tensor,
    k: int,
    batch: Tensor | None = None,
    loop: bool = False,
    flow: str = "source_to_target",
    cosine: bool = False,
    num_workers: int = 1,
    batch_size: int | None = None,
    *,
    backend: str = "auto",
) -> EdgeIndex:
    r"""Connects every point to its ``k`` nearest neighbors, by the rule of :func:`knn_indices`.

    Edges are sorted by center, then distance, then index, so the compressed form that sparse
    products need is known without sorting and comes with the result. Arguments are those of
    torch-cluster.

    Args:
        x: Coordinates or features of the points.
        k: Neighbors per point. Clouds of :math:`n \le k` points give :math:`n - 1`.
        batch: The cloud of every point, in any order; ``None`` means a single cloud.
        loop: Whether a point is among its own neighbors, as the first of ``k``.
        flow: ``"source_to_target"`` has centers in row 1, ``"target_to_source"`` in row 0.
        cosine: Whether the angle between features, seen from the origin, is their distance. Angles
            that are equal but for rounding come in any order; zeros are at a right angle to all.
        num_workers: Not used: PyTorch's threads search.
        batch_size: Number of clouds, which ``batch`` tells as well; checked where it is given.
        backend: See :func:`knn_indices`.

    Shape:
        - ``x``: ``(N, D)``.
        - ``batch``: ``(N,)``.
        - Returns ``(2, E)``: row 0 holds neighbors (sources), row 1 centers (targets).

    Raises:
        ValueError: As :func:`knn_indices`; if ``flow`` is not one of the two or ``batch_size`` too
            small.
        ImportError: As :func:`knn_indices`.

    Example:
        >>> pos = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
        >>> knn_graph(pos, 2).as_tensor()
        tensor([[1, 2, 0, 2, 1, 0, 2, 1],
                [0, 0, 1, 1, 2, 2, 3, 3]])
        >>> knn_graph(pos, 2, loop=True).as_tensor()
        tensor([[0, 1, 1, 0, 2, 1, 3, 2],
                [0, 0, 1, 1, 2, 2, 3, 3]])
    """
    check_flow(flow)
    check_counts(k=k)
    batch = checked_batch(batch_size, x=x, batch=batch)
    x = directions(x) if cosine else x
    if not loop:
        return to_graph(edges_of(knn_indices(x, k, batch, backend=backend)), x.size(0), flow)
    if backend != "auto":
        raise ValueError(f"backend must be auto where loop is true, got {backend!r}")
    x, k = x.detach(), min(k, max(1, x.size(0)))
    return to_graph(edges_of(knn_between(x, x, batch, batch, k, torch.inf)), x.size(0), flow)


def knn_indices(
    x: Tensor,
    k: int,
    batch: Tensor | None = None,
    *,
    backend: str = "auto",
    clouds: Tensor | None = None,
) -> Tensor:
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

    On devices other than processors the host looks at no value, and there is room for one point in
    256, at least 64, that is decided over its whole cloud. Where more are in doubt, as in clouds of
    many equal distances, the others keep the order of their candidates, which may not be the exact
    one; :mod:`mgic_geo.ops.knn_batched` has the details.

    Args:
        x: Coordinates or features of the points, of any floating type.
        k: Neighbors per point.
        batch: The cloud of every point, in any order and with gaps; ``None`` means a single cloud.
        backend: ``"auto"`` is the search described here and the same everywhere. ``"exact"``, its
            reference, decides every row by differences. ``"torch_cluster"`` asks that library,
            which orders ties as it likes and measures in the precision of ``x``.
        clouds: Result of :func:`cloud_table` for ``batch``, with which a GPU need not wait for the
            host to look at ``batch``.

    Shape:
        - ``x``: ``(N, D)``.
        - ``batch``: ``(N,)``, int64 or int32. ``clouds``: ``(clouds, max_points)``, int64.
        - Returns ``(N, k)``, int64: points by row number, nearest first; in a cloud of
          :math:`n \le k` points the last :math:`k - n + 1` places hold -1.

    Cost:
        :math:`n^2 (D + 2)` multiply-adds per cloud of :math:`n` points. Rows decided over their
        whole cloud, as where many points tie, cost about five times as much. Where
        :math:`D \le 3` and clouds have thousands of points, kernels search in a k-d tree instead,
        at a cost in proportion to :math:`n \log n`. Memory grows with :math:`N`, not with its
        square.

    Raises:
        ValueError: If ``k``, ``backend`` or the shape, type or values of ``x`` or ``batch`` do not
            fit the above, with the first row that holds a NaN, an infinity or a negative cloud. A
            GPU looks at values by itself and raises its own error later.
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
    check_counts(k=k)
    if backend not in _BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(_BACKENDS)}, got {backend!r}")
    return knn(x.detach(), checked_batch(x=x, batch=batch), k, backend, clouds)


def cloud_table(
    batch: Tensor | None, batch_size: int | None, max_points: int | None = None
) -> Tensor | None:
    """Where the points of every cloud are, found once for many searches; for other devices only.

    A search on a GPU has to know how large clouds are. Where nobody says so it waits for the host
    to look, which costs more than the search.

    Args:
        batch: The cloud of every point, in any order; ``None`` means a single cloud.
        batch_size: Number of clouds; ``None`` leaves that to the search.
        max_points: Points of the largest cloud; ``None`` says that all clouds have as many.

    Shape:
        - ``batch``: ``(N,)``, int64. Returns ``(batch_size, max_points)``: row numbers, N in places
          that are left; ``None`` where a search need not know, as on a processor.

    Raises:
        ValueError: If a number is below 1, or clouds of one size cannot have N points. Whether
            ``batch`` fits is looked at on the device, which raises its own error later.

    Example:
        >>> cloud_table(torch.tensor([0, 0, 1, 1]), 2)  # on a processor
    """
    for name, value in (("batch_size", batch_size), ("max_points", max_points)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if batch is None or batch_size is None or is_readable(batch):
        return None
    if max_points is None and batch.size(0) % batch_size:
        raise ValueError(
            f"{batch.size(0)} points in {batch_size} clouds, so clouds of unequal sizes: on "
            f"{batch.device} batch_size needs max_points, the points of the largest, beside it"
        )
    return knn_batched.cloud_table(batch, batch_size, max_points or batch.size(0) // batch_size)
