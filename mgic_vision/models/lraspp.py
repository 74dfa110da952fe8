"""LR-ASPP, the segmentation head of section 4.4, on any backbone."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mgic_geo.levels import check_counts
from mgic_vision.layers import GroupedConv2d, conv_norm_act
from mgic_vision.models.backbone import Backbone
from mgic_vision.models.features import FeatureInfo
from mgic_vision.models.interface import ImageModel
from mgic_vision.tracing import leaf_of_fx


class WindowPool(nn.Module):
    """Averages over large overlapping windows, none larger than the map itself.

    Args:
        window: Side of a window.
        stride: Steps between windows, down and across.

    Shape:
        - ``x``: ``(B, C, H, W)``. Returns ``(B, C, h, w)``, one value where the window is the map.

    References:
        Howard et al., Searching for MobileNetV3 (2019), Figure 10 (49x49, stride 16 and 20).

    Example:
        >>> import torch
        >>> pool = WindowPool(49)
        >>> pool(torch.rand(1, 8, 64, 128)).shape, pool(torch.rand(1, 8, 20, 30)).shape
        (torch.Size([1, 8, 1, 4]), torch.Size([1, 8, 1, 1]))
    """

    def __init__(self, window: int, stride: tuple[int, int] = (16, 20)) -> None:
        super().__init__()
        self.window, self.stride = window, stride

    @leaf_of_fx
    def forward(self, x: Tensor) -> Tensor:
        """Average over the windows."""
        height, width = (min(self.window, size) for size in x.shape[-2:])
        return functional.avg_pool2d(x, (height, width), self.stride)

    def extra_repr(self) -> str:
        """Show window and stride."""
        return f"window={self.window}, stride={self.stride}"


class LRASPP(nn.Module):
    """Lite reduced atrous spatial pyramid pooling: scores classes at every pixel.

    Features at stride 16 are weighted by what is seen in large windows around them; scores from
    them and from the finer features at stride 8 are added.

    Args:
        backbone: Gives features of strides 8 and 16, the last of which are taken.
        num_classes: Classes to tell apart; 0 for the weighted features.
        filters: Channels of the weighted features.
        pool_window: Side of the windows, in features; ``None`` for one window over the whole map,
            which also exports with a size that is not fixed.
        global_pool: ``""``, the only choice: masks are not pooled.

    Shape:
        - ``x``: ``(B, in_chans, H, W)``, any height and width.
        - Returns ``(B, num_classes, H, W)``, or without classes ``(B, filters, H / 16, W / 16)``.

    Cost:
        With :math:`C_8, C_{16}` channels at strides 8 and 16: ``2 * C_16 * filters + 2 * filters +
        (C_8 + filters + 2) * num_classes`` weights beside the backbone's.

    Raises:
        ValueError: If ``backbone`` has a head or does not offer both strides, ``filters`` is below
            1, ``num_classes`` below 0, or masks are to be pooled.

    References:
        Section 4.4; Howard et al., Searching for MobileNetV3 (2019), section 6.4.

    Example:
        >>> import torch
        >>> from mgic_vision import create_model
        >>> model = create_model("lraspp_mgic_small", num_classes=19).eval()
        >>> model(torch.rand(1, 3, 64, 96)).shape
        torch.Size([1, 19, 64, 96])
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        filters: int = 128,
        pool_window: int | None = 49,
        global_pool: str = "",
    ) -> None:
        super().__init__()
        given = backbone.feature_info.get_dicts()
        taps = {info["reduction"]: info for info in given}  # the last of a stride
        if isinstance(backbone, ImageModel):
            raise ValueError("backbone must be made with features_only=True, got one with a head")
        if not {8, 16} <= taps.keys():
            names = ", ".join(info["name"] for info in given)
            raise ValueError(f"backbone must offer s8 and s16, got {names}")
        check_counts(filters=filters)
        self.backbone = backbone
        self.low_name, self.high_name = taps[8]["name"], taps[16]["name"]
        self.low_channels, self.num_features = taps[8]["num_chs"], taps[16]["num_chs"]
        self.head_hidden_size = filters
        self.value = conv_norm_act(self.num_features, filters)
        self.gate = nn.Sequential(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1) if pool_window is None else WindowPool(pool_window),
                conv=GroupedConv2d(self.num_features, filters),
                act=nn.Sigmoid(),
            )
        )
        self.reset_classifier(num_classes, global_pool)

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return self.backbone.in_chans

    @property
    def input_size(self) -> tuple[int, ...]:
        """Shape of one image in the paper."""
        return (self.in_chans, 1024, 2048)

    @property
    def feature_info(self) -> FeatureInfo:
        """The backbone's, whose modules are inside it."""
        info = self.backbone.feature_info
        rows = [row | {"module": f"backbone.{row['module']}"} for row in info]
        return FeatureInfo(rows, info.out_indices)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As :meth:`Backbone.set_grad_checkpointing`."""
        self.backbone.set_grad_checkpointing(enable)

    def get_classifier(self) -> nn.Module:
        """The two linear maps ``low`` and ``high``; ``nn.Identity`` where there are no classes."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put fresh classifiers in place, on the device of the head.

        Args:
            num_classes: Classes to tell apart; 0 for none.
            global_pool: Must be ``None`` or ``""``: masks are not pooled.

        Raises:
            ValueError: If either is out of range.
        """
        check_counts(0, num_classes=num_classes)
        if global_pool:
            raise ValueError(f"masks are not pooled: global_pool must be '', got {global_pool!r}")
        self.num_classes, self.global_pool = num_classes, ""
        weight = next(self.value.parameters())
        factory = {"device": weight.device, "dtype": weight.dtype}
        self.classifier: nn.Module = nn.Identity()
        if num_classes:
            low = nn.Conv2d(self.low_channels, num_classes, 1, **factory)
            high = nn.Conv2d(self.head_hidden_size, num_classes, 1, **factory)
            self.classifier = nn.ModuleDict({"low": low, "high": high})

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        """The backbone's features by name."""
        return dict(zip(self.backbone.feature_info.get("name"), self.backbone(x), strict=True))

    def forward_head(self, features: dict[str, Tensor], pre_logits: bool = False) -> Tensor:
        """From features to scores at stride 8, or to the weighted features at stride 16."""
        low, high = features[self.low_name], features[self.high_name]
        gate = functional.interpolate(
            self.gate(high), size=high.shape[-2:], mode="bilinear", align_corners=False
        )
        x = self.value(high) * gate
        if pre_logits or not isinstance(self.classifier, nn.ModuleDict):
            return x
        # scores are interpolated in place of features: the same, as weights of pixels sum to 1
        scores = functional.interpolate(
            self.classifier["high"](x), size=low.shape[-2:], mode="bilinear", align_corners=False
        )
        return scores + self.classifier["low"](low)

    def forward(self, x: Tensor) -> Tensor:
        """Score the classes at every pixel."""
        scores = self.forward_head(self.forward_features(x))
        if not self.num_classes:
            return scores
        return functional.interpolate(
            scores, size=x.shape[-2:], mode="bilinear", align_corners=False
        )


def make_segmenter(
    backbone: Backbone, num_classes: int, *, features_only: bool = False, **options: Any
) -> nn.Module:
    """Put :class:`LRASPP` on a backbone; return the backbone itself with ``features_only``."""
    return backbone if features_only else LRASPP(backbone, num_classes, **options)
