"""The segmentation networks of section 4.4: LR-ASPP on MGIC-MobileNetV3, large and small."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from torch import nn

from mgic_vision.models.lraspp import make_segmenter
from mgic_vision.models.mobilenetv3 import NetworkOptions, Table, mobile_backbone
from mgic_vision.models.stages import StagesByResolution


def lraspp_mgic(
    table: Table,
    num_classes: int = 19,
    *,
    filters: int = 128,
    pool_window: int | None = 49,
    features_only: bool = False,
    global_pool: str = "",
    **network: Unpack[NetworkOptions],
) -> nn.Module:
    """LR-ASPP on an MGIC-MobileNetV3 with half the channels in its last block.

    Args:
        table: :data:`~mgic_vision.models.mobilenetv3.LARGE` or ``SMALL`` there.
        num_classes: Classes to tell apart.
        filters: As :class:`LRASPP`.
        pool_window: As :class:`LRASPP`.
        features_only: Return the backbone alone.
        global_pool: As :class:`LRASPP`.
        **network: As :class:`NetworkOptions`, but with ``output_stride=16``.

    Cost:
        Large: 1.70 M weights and 9.70 G multiply-adds at 1024x2048, of which R and P have 0.73 G.
        Small: 0.61 M and 3.50 G, of which R and P have 0.20 G.

    Raises:
        ValueError: As :func:`mobile_backbone` and :class:`LRASPP`.

    References:
        Section 4.4, Table 9 (1.67 M and 9.62 G, 0.48 M and 2.73 G).

    Example:
        >>> from mgic_vision.models.mobilenetv3 import LARGE, SMALL
        >>> for table in (LARGE, SMALL):
        ...     print(sum(p.numel() for p in lraspp_mgic(table).parameters()))
        1696762
        608170
    """
    network.setdefault("output_stride", 16)
    return make_segmenter(
        mobile_backbone(
            halve_last_block(table), 1024, 2048, **network, make_stages=StagesByResolution
        ),
        num_classes,
        filters=filters,
        pool_window=pool_window,
        features_only=features_only,
        global_pool=global_pool,
    )


def halve_last_block(table: Table) -> Table:
    """The table with half the channels from the last row on that divides the resolution.

    References:
        Section 4.4 ("we reduce the number of channels in the last block ... by a factor of two").

    Example:
        >>> from mgic_vision.models.mobilenetv3 import LARGE
        >>> [(row.expand, row.out) for row in halve_last_block(LARGE).rows[-3:]]
        [(672, 80), (480, 80), (480, 80)]
    """
    rows = table.rows
    start = max(index for index, row in enumerate(rows) if row.stride > 1)
    # the first of them still expands the channels of the block before
    first = replace(rows[start], out=rows[start].out // 2)
    rest = (replace(row, expand=row.expand // 2, out=row.out // 2) for row in rows[start + 1 :])
    return replace(table, rows=(*rows[:start], first, *rest), last=table.last // 2)
