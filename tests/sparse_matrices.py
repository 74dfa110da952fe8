"""Sparse matrices in the form that the sparse-dense product takes: with their transposes."""

from typing import NamedTuple

from torch import Tensor

from mgic_geo.graphs.adjacency import Adjacency
from mgic_geo.ops import spmm as ops


class SparseMatrix(NamedTuple):
    """Compressed rows, and those of the transpose."""

    ptr: Tensor
    index: Tensor
    value: Tensor
    ptr_t: Tensor
    index_t: Tensor
    value_t: Tensor


def sparse_matrices(adjacency: Adjacency, values: Tensor) -> tuple[SparseMatrix, ...]:
    """Matrices on the same edges, from values (E, M) in the order of the adjacency."""
    forth = adjacency.ptr, adjacency.index
    *back, perm = ops.transpose(*forth, adjacency.num_sources)
    return tuple(
        SparseMatrix(*forth, value, *back, value.index_select(0, perm))
        for value in values.t().contiguous()
    )


def spmm(matrix: SparseMatrix, x: Tensor) -> Tensor:
    """The product with (columns, C)."""
    return ops.spmm(x, *matrix)
