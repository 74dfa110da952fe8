"""Compiled kernels behind a few operators, for processors and float32.

Everything here has a plain PyTorch twin that it is tested against, which runs where the kernels
cannot be compiled, on other devices and in other precisions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mgic_geo.ops.csrc import build
from mgic_geo.ops.derivatives_kernel import Graph as Graph
from mgic_geo.ops.derivatives_kernel import mix_derivatives as mix_derivatives
from mgic_geo.ops.derivatives_kernel import mix_derivatives_backward as mix_derivatives_backward
from mgic_geo.ops.derivatives_kernel import mix_derivatives_weight as mix_derivatives_weight
from mgic_geo.ops.edge_gradients_kernel import derivative_operators as derivative_operators
from mgic_geo.ops.edge_gradients_kernel import edge_gradients as edge_gradients
from mgic_geo.ops.grouped_linear_kernel import add_grouped_linear as add_grouped_linear
from mgic_geo.ops.grouped_linear_kernel import grouped_linear as grouped_linear
from mgic_geo.ops.grouped_linear_kernel import grouped_linear_weight as grouped_linear_weight
from mgic_geo.ops.grouped_linear_kernel import keep_packed_ as keep_packed_
from mgic_geo.ops.neighbors_kernel import MAX_DIM as MAX_DIM
from mgic_geo.ops.neighbors_kernel import knn as knn
from mgic_geo.ops.neighbors_kernel import neighbor_max as neighbor_max
from mgic_geo.ops.neighbors_kernel import neighbor_max_backward as neighbor_max_backward
from mgic_geo.ops.norm_kernel import norm_act as norm_act
from mgic_geo.ops.norm_kernel import norm_act_backward as norm_act_backward
from mgic_geo.ops.normalized_linear_kernel import add_normalized_linear as add_normalized_linear
from mgic_geo.ops.normalized_linear_kernel import (
    add_normalized_linear_backward as add_normalized_linear_backward,
)
from mgic_geo.ops.operator import is_exporting

MAX_COLUMNS = 7 * 128  # inputs of a group up to which a product here is faster than torch's
MAX_ROWS = 1 << 31  # rows are int32 in the kernels


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can work on these."""
    return (
        all(
            x.is_cpu
            and x.dtype == torch.float32
            and x.layout == torch.strided
            and x.size(0) < MAX_ROWS
            for x in tensors
        )
        and build.available()
    )


def can_multiply(x: Tensor, weight: Tensor) -> bool:
    """Whether a product with these groups, ``(groups, out, in)``, is faster here than in torch."""
    if is_exporting() or torch.is_autocast_enabled("cpu"):
        return False
    return weight.size(2) <= MAX_COLUMNS and usable(x, weight)
