"""The segmentation networks of section 4.4: LR-ASPP on MGIC-MobileNetV3, large and small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from torch import nn

from mgic_vision.models.backbone import Backbone
from mgic_vision.models.lraspp import LRASPP
from mgic_vision.models.mobilenetv3 import SMALL, NetworkOptions, Row, mobile_parts

# Howard et al. (2019), Table 1: MobileNetV3-Large
LARGE = (
    Row(kernel=3, expand=16, out=16, squeeze=False, stride=1, h_swish=False),
    Row(kernel=3, expand=64, out=24, squeeze=False, stride=2, h_swish=False),
    Row(kernel=3, expand=72, out=24, squeeze=False, stride=1, h_swish=False),
    Row(kernel=5, expand=72, out=40, squeeze=True, stride=2, h_swish=False),
    Row(kernel=5, expand=120, out=40, squeeze=True, stride=1, h_swish=False),
    Row(kernel=5, expand=120, out=40, squeeze=True, stride=1, h_swish=False),
    Row(kernel=3, expand=240, out=80, squeeze=False, stride=2, h_swish=True),
    Row(kernel=3, expand=200, out=80, squeeze=False, stride=1, h_swish=True),
    Row(kernel=3, expand=184, out=80, squeeze=False, stride=1, h_swish=True),
    Row(kernel=3, expand=184, out=80, squeeze=False, stride=1, h_swish=True),
    Row(kernel=3, expand=480, out=112, squeeze=True, stride=1, h_swish=True),
    Row(kernel=3, expand=672, out=112, squeeze=True, stride=1, h_swish=True),
    Row(kernel=5, expand=672, out=160, squeeze=True, stride=2, h_swish=True),
    Row(kernel=5, expand=960, out=160, squeeze=True, stride=1, h_swish=True),
    Row(kernel=5, expand=960, out=160, squeeze=True, stride=1, h_swish=True),
)


def lraspp_mgic_large(
    num_classes: int = 19,
    *,
    filters: int = 128,
    pool_window: int | None = 49,
    features_only: bool = False,
    global_pool: str = "",
    **network: Unpack[NetworkOptions],
) -> nn.Module:
    """LR-ASPP on MGIC-MobileNetV3-Large with half the channels in its last block.

    Args:
        num_classes: Classes to tell apart.
        filters: As :class:`LRASPP`.
        pool_window: As :class:`LRASPP`.
        features_only: Return the backbone alone.
        global_pool: As :class:`LRASPP`.
        **network: As :class:`NetworkOptions`, but with ``output_stride=16``.

    Cost:
        1.70 M weights and 9.70 G multiply-adds at 1024x2048, of which R and P have 0.73 G.

    Raises:
        ValueError: As :func:`mobile_parts` and :class:`LRASPP`.

    References:
        Section 4.4, Table 9 (1.67 M, 9.62 G).

    Example:
        >>> sum(p.numel() for p in lraspp_mgic_large().parameters())
        1696762
    """
    backbone = _backbone(LARGE, 960, **network)
    if features_only:
        return backbone
    return LRASPP(
        backbone, num_classes, filters=filters, pool_window=pool_window, global_pool=global_pool
    )


def lraspp_mgic_small(
    num_classes: int = 19,
    *,
    filters: int = 128,
    pool_window: int | None = 49,
    features_only: bool = False,
    global_pool: str = "",
    **network: Unpack[NetworkOptions],
) -> nn.Module:
    """LR-ASPP on MGIC-MobileNetV3-Small with half the channels in its last block.

    Args:
        num_classes: Classes to tell apart.
        filters: As :class:`LRASPP`.
        pool_window: As :class:`LRASPP`.
        features_only: Return the backbone alone.
        global_pool: As :class:`LRASPP`.
        **network: As :class:`NetworkOptions`, but with ``output_stride=16``.

    Cost:
        0.61 M weights and 3.50 G multiply-adds at 1024x2048, of which R and P have 0.20 G.

    Raises:
        ValueError: As :func:`mobile_parts` and :class:`LRASPP`.

    References:
        Section 4.4, Table 9 (0.48 M, 2.73 G).

    Example:
        >>> sum(p.numel() for p in lraspp_mgic_small().parameters())
        608170
    """
    backbone = _backbone(SMALL, 576, **network)
    if features_only:
        return backbone
    return LRASPP(
        backbone, num_classes, filters=filters, pool_window=pool_window, global_pool=global_pool
    )


def halve_last_block(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows with half the channels from the last one on that divides the resolution.

    References:
        Section 4.4 ("we reduce the number of channels in the last block ... by a factor of two").

    Example:
        >>> [(row.expand, row.out) for row in halve_last_block(LARGE)[-3:]]
        [(672, 80), (480, 80), (480, 80)]
    """
    start = max(index for index, row in enumerate(rows) if row.stride > 1)
    # the first of them still expands the channels of the block before
    first = replace(rows[start], out=rows[start].out // 2)
    rest = (replace(row, expand=row.expand // 2, out=row.out // 2) for row in rows[start + 1 :])
    return (*rows[:start], first, *rest)


def _backbone(rows: Sequence[Row], last: int, **network: Unpack[NetworkOptions]) -> Backbone:
    stem, stages, final, num_features = mobile_parts(
        halve_last_block(rows), last // 2, **{"output_stride": 16, **network}
    )
    size = (network.get("in_chans", 3), 1024, 2048)
    return Backbone(stem, stages, final, num_features=num_features, input_size=size)
