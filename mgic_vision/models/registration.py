"""This package's networks under the names by which users of timm and torchvision make theirs.

Neither library is imported before one of these functions is called: timm alone would make
``import mgic_vision`` a sixth longer.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from mgic_vision.models.registry import create_model, list_models

#: The networks that others do not have.
NAMES = tuple(name for name in list_models() if name.startswith(("mgic_", "lraspp_mgic_")))


def register_with_timm() -> None:
    """Let ``timm.create_model("mgic_resnet50")`` work.

    The networks for classification are registered. There are no pretrained weights; a checkpoint
    of this project's training is loaded with ``checkpoint=``, as in
    :func:`~mgic_vision.create_model`.

    Raises:
        ImportError: If timm is missing.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     import timm
        >>> register_with_timm()
        >>> timm.list_models("mgic_*")
        ['mgic_mobilenetv3', 'mgic_mobilenetv3_small', 'mgic_resnet50', 'mgic_resnet56']
    """
    from timm.models import is_model, register_model

    for name in NAMES:
        if name.startswith("mgic_") and not is_model(name):
            register_model(_builder(name))


def register_with_torchvision() -> None:
    """Let ``torchvision.models.get_model("mgic_resnet50")`` work; as :func:`register_with_timm`.

    The networks for segmentation are registered as well.

    Raises:
        ImportError: If torchvision is missing.

    Example:
        >>> from torchvision.models import get_model
        >>> register_with_torchvision()
        >>> get_model("mgic_resnet56", num_classes=10).num_classes
        10
    """
    from torchvision.models import list_models as names_there
    from torchvision.models._api import register_model

    for name in set(NAMES) - set(names_there()):
        register_model(name)(_builder(name))


def _builder(name: str) -> Callable[..., nn.Module]:
    """``weights`` is torchvision's word for pretrained weights, ``pretrained`` timm's."""

    def build(
        *, pretrained: bool = False, weights: None = None, num_classes: int | None = None, **options
    ) -> nn.Module:
        if pretrained or weights:
            raise ValueError(
                f"there are no pretrained weights of {name}; checkpoint= takes your own"
            )
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # timm's
            options.pop(key, None)
        return create_model(name, num_classes, **options)

    build.__name__ = build.__qualname__ = name
    return build
