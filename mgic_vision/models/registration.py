"""This package's networks under the names by which users of timm and torchvision make theirs.

Neither library is imported before one of these functions is called: timm alone would make
``import mgic_vision`` a sixth longer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from mgic_vision.models.registry import create_model, list_models

#: The networks that others do not have.
NAMES = tuple(name for name in list_models() if name.startswith(("mgic_", "lraspp_mgic_")))


def register_with_timm() -> None:
    """Let ``timm.create_model("mgic_resnet50")`` work.

    The networks for classification are registered. ``pretrained=True`` loads the weights that come
    with this package, where there are any; ``checkpoint=`` those of this project's training, as in
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

    The networks for segmentation are registered as well, and return ``{"out": scores}`` there.

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
        register_model(name)(_builder_for_torchvision(name))


def _builder(name: str) -> Callable[..., nn.Module]:
    """For timm, which describes images in ``pretrained_cfg`` and loads weights itself."""

    def build(
        *,
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Mapping[str, Any] | None = None,
        cache_dir: Any = None,
        feature_cls: Any = None,
        num_classes: int | None = None,
        **options: Any,
    ) -> nn.Module:
        model: Any = create_model(name, num_classes, pretrained=pretrained, **options)
        given = pretrained_cfg if isinstance(pretrained_cfg, Mapping) else {}
        model.pretrained_cfg |= {**given, **(pretrained_cfg_overlay or {})}
        return model

    build.__name__ = build.__qualname__ = name
    return build


def _builder_for_torchvision(name: str) -> Callable[..., nn.Module]:
    """For torchvision, whose networks for segmentation return scores by name."""
    segments = name.startswith("lraspp")

    def build(
        *,
        weights: None = None,
        progress: bool = True,
        num_classes: int | None = None,
        weights_backbone: None = None,
        aux_loss: bool | None = None,
        **options: Any,
    ) -> nn.Module:
        _refuse_weights(name, weights=weights, weights_backbone=weights_backbone)
        if aux_loss:
            raise NotImplementedError(f"{name} has no auxiliary loss: aux_loss must be False")
        model = create_model(name, num_classes, **options)
        return ScoresByName(model) if segments else model

    build.__name__ = build.__qualname__ = name
    return build


def _refuse_weights(name: str, **asked: object) -> None:
    for argument, value in asked.items():
        if value:
            raise ValueError(
                f"there are no pretrained weights of {name}, got {argument}={value!r}; "
                "checkpoint= takes your own"
            )


class ScoresByName(nn.Module):
    """A network for segmentation that returns its scores as torchvision's do.

    Args:
        segmenter: Returns scores ``(B, num_classes, H, W)``.

    Shape:
        - ``x``: ``(B, in_chans, H, W)``. Returns ``{"out": (B, num_classes, H, W)}``.
    """

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Score the classes at every pixel."""
        return OrderedDict(out=self.segmenter(x))
