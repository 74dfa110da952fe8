"""A network with its head, under timm's names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypedDict

from torch import Tensor, nn

from mgic_geo.levels import check_counts
from mgic_vision.models.backbone import Backbone
from mgic_vision.models.features import Indices


class AvgMaxPool(nn.Module):
    """The mean of average and maximum of every channel.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns ``(B, C, 1, 1)``.

    Example:
        >>> import torch
        >>> AvgMaxPool()(torch.tensor([0.0, 2.0, 4.0, 6.0]).view(1, 1, 2, 2)).item()
        4.5
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool."""
        return (x.mean((2, 3), keepdim=True) + x.amax((2, 3), keepdim=True)) / 2


POOLS: dict[str, Callable[[], nn.Module]] = {
    "avg": partial(nn.AdaptiveAvgPool2d, 1),
    "max": partial(nn.AdaptiveMaxPool2d, 1),
    "avgmax": AvgMaxPool,
    "": nn.Identity,
}


class ModelOptions(TypedDict, total=False):
    """Options that every image network takes beside its own.

    ``features_only`` leaves out the head and returns a list of the features of every stride, or of
    those that ``out_indices`` names; ``global_pool`` is ``"avg"``, ``"max"``, ``"avgmax"`` or,
    without classes, ``""`` for the whole feature map; ``drop_rate`` is the share of features
    dropped in front of the classifier, ``drop_path_rate`` that of images for which the last block
    is left out.
    """

    features_only: bool
    out_indices: Indices
    global_pool: str
    drop_rate: float
    drop_path_rate: float


class Head(nn.Module):
    """Global pooling, an optional hidden layer, dropout and a linear classifier.

    Args:
        in_channels: Channels of the feature map.
        num_classes: Classes to tell apart; 0 for the features in front of the classifier.
        hidden: A map of pooled features ``(B, in_channels)``.
        hidden_channels: Channels that ``hidden`` gives.
        global_pool: ``"avg"``, ``"max"``, ``"avgmax"`` or ``""``.
        drop_rate: Share of features dropped in front of the classifier.

    Shape:
        - ``x``: ``(B, in_channels, H, W)``. Returns ``(B, num_classes)``; without classes
          ``(B, num_features)``, or ``x`` itself where ``global_pool`` is ``""``.

    Raises:
        ValueError: If ``num_classes`` is below 0, ``global_pool`` none of the four, or ``""`` in
            front of a classifier.

    Example:
        >>> import torch
        >>> Head(64, 10)(torch.rand(2, 64, 4, 4)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        hidden: nn.Module | None = None,
        hidden_channels: int | None = None,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_features = in_channels if hidden_channels is None else hidden_channels
        self.hidden = nn.Identity() if hidden is None else hidden
        self.drop = nn.Dropout(drop_rate)
        self.classifier: nn.Module = nn.Identity()
        self.reset(num_classes, global_pool)

    def reset(self, num_classes: int, global_pool: str, like: Tensor | None = None) -> None:
        """Put a fresh classifier, of the device and type of ``like``, and a pooling in place."""
        if global_pool not in POOLS:
            raise ValueError(f"global_pool must be one of {list(POOLS)}, got {global_pool!r}")
        check_counts(0, num_classes=num_classes)
        if num_classes and not global_pool:
            raise ValueError(f"global_pool='' goes with num_classes=0, got {num_classes}")
        self.num_classes, self.global_pool = num_classes, global_pool
        self.pool = POOLS[global_pool]()
        factory = {} if like is None else {"device": like.device, "dtype": like.dtype}
        self.classifier = (
            nn.Linear(self.num_features, num_classes, **factory) if num_classes else nn.Identity()
        )

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Score the classes, or stop in front of the classifier."""
        if not self.global_pool:
            return x
        x = self.drop(self.hidden(self.pool(x).flatten(1)))
        return x if pre_logits else self.classifier(x)


class ImageModel(Backbone):
    """A network for images with its head, under timm's names.

    Args:
        backbone: Its parts become those of the network.
        head: What makes scores of the last features.

    Shape:
        - ``x``: ``(B, *input_size)``, or any other height and width.
        - Returns ``(B, num_classes)``.

    Raises:
        ValueError: As :class:`Backbone`.

    Example:
        >>> import torch
        >>> from mgic_vision import create_model
        >>> model = create_model("mgic_resnet56", num_classes=10, in_chans=1).eval()
        >>> model(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
        >>> model.reset_classifier(3)
        >>> model.get_classifier()
        Linear(in_features=64, out_features=3, bias=True)
    """

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__(
            backbone.stem,
            backbone.stages,
            backbone.final,
            num_features=backbone.num_features,
            input_size=backbone.input_size,
        )
        self.head = head
        self.pretrained_cfg |= {"num_classes": head.num_classes, "classifier": "head.classifier"}

    @property
    def num_classes(self) -> int:
        """Classes that are scored; 0 where there is no classifier."""
        return self.head.num_classes

    @property
    def global_pool(self) -> str:
        """How the last features are pooled."""
        return self.head.global_pool

    @property
    def drop_rate(self) -> float:
        """Share of features dropped in front of the classifier."""
        return self.head.drop.p

    @property
    def head_hidden_size(self) -> int:
        """Features in front of the classifier."""
        return self.head.num_features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """From the features of :meth:`forward_features` to scores, or up to the classifier.

        Shape:
            - ``x``: ``(B, num_features, H, W)``. Returns ``(B, num_classes)``.
        """
        return self.head(x, pre_logits=pre_logits)

    def get_classifier(self) -> nn.Module:
        """The last linear map; ``nn.Identity`` where there are no classes."""
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier in place, e.g. for another data set.

        Args:
            num_classes: Classes to tell apart; 0 for none.
            global_pool: ``"avg"``, ``"max"``, ``"avgmax"`` or ``""``; ``None`` for what it was.

        Raises:
            ValueError: As :class:`Head`.
        """
        pool = self.global_pool if global_pool is None else global_pool
        self.head.reset(num_classes, pool, next(self.parameters()))

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """As :meth:`Backbone.prune_intermediate_layers`; the head goes where its features do."""
        before = self.num_features
        wanted = super().prune_intermediate_layers(indices)
        if prune_head or self.num_features != before:
            self.reset_classifier(0, "")
        return wanted

    def forward(self, x: Tensor) -> Tensor:
        """Score the classes."""
        return self.forward_head(self.forward_features(x))


def make_model(
    backbone: Backbone,
    num_classes: int,
    *,
    hidden: nn.Module | None = None,
    hidden_channels: int | None = None,
    features_only: bool = False,
    out_indices: Indices = None,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> Backbone:
    """Put a head on a backbone; return the backbone itself with ``features_only``.

    Raises:
        ValueError: As :class:`Head`, :meth:`Backbone.set_drop_path_rate` and
            :meth:`Backbone.prune_intermediate_layers`; or ``out_indices`` without
            ``features_only``.

    Example:
        >>> import torch
        >>> from mgic_vision.layers import conv_norm_act
        >>> from mgic_vision.models.stages import Stages
        >>> stages = Stages(8, 1)
        >>> stages.add(conv_norm_act(8, 16, stride=2), 16, stride=2)
        >>> make_model(Backbone(conv_norm_act(3, 8), stages), 10)(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    if out_indices is not None and not features_only:
        raise ValueError(f"out_indices goes with features_only=True, got {out_indices}")
    if features_only:
        backbone.set_drop_path_rate(drop_path_rate)
        backbone.prune_intermediate_layers(out_indices)
        return backbone
    head = Head(
        backbone.num_features,
        num_classes,
        hidden=hidden,
        hidden_channels=hidden_channels,
        global_pool=global_pool,
        drop_rate=drop_rate,
    )
    model = ImageModel(backbone, head)
    model.set_drop_path_rate(drop_path_rate)
    return model
