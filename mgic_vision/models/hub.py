"""Networks for images on the Hugging Face hub, or in a folder laid out as there."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from mgic_geo.models import hub
from mgic_vision.models.registry import create_model


class HubModel(hub.HubModel):
    """As :class:`mgic_geo.models.hub.HubModel`, for the networks of this package.

    Example:
        >>> HubModel("mgic_resnet56", 10, group_size=8).network.num_classes
        10
    """

    _create: Callable[..., nn.Module] = staticmethod(create_model)
