"""Networks of torchvision and timm under this package's interface, to compare with.

Modules and weights are theirs; only what holds them is ours. Both libraries are imported when a
network is asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Unpack, cast

import torch
from torch import nn

from mgic_vision.models.backbone import Backbone
from mgic_vision.models.interface import ImageModel, ModelOptions, make_model
from mgic_vision.models.lraspp import make_segmenter
from mgic_vision.models.stages import Stages

CLASSES_OF_WEIGHTS = 1000


def torchvision_resnet(
    name: str,
    num_classes: int = 1000,
    *,
    in_chans: int = 3,
    weights: str | None = None,
    output_stride: int = 32,
    **options: Unpack[ModelOptions],
) -> Backbone:
    """A residual network of torchvision, e.g. ``"resnet50"``.

    Args:
        name: torchvision's.
        num_classes: Classes to tell apart; pretrained scores are kept for 1000.
        in_chans: Channels of the images.
        weights: Name of pretrained weights, e.g. ``"IMAGENET1K_V2"``.
        output_stride: Strides beyond it turn into dilation: 8, 16 or 32.
        **options: As :class:`ModelOptions`.

    Raises:
        ImportError: If torchvision is missing.
        ValueError: If ``weights`` are for another number of input channels, or ``output_stride``
            is none of the three.

    References:
        Table 5.

    Example:
        >>> sum(p.numel() for p in torchvision_resnet("resnet50").parameters())
        25557032
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
    dilated = [stride > output_stride for stride in (8, 16, 32)]
    source: Any = _torchvision(
        name, in_chans, weights=weights, replace_stride_with_dilation=dilated
    )
    stages = Stages(source.bn1.num_features, 4)
    for stride, layer in zip(
        (4, 8, 16, 32), (source.layer1, source.layer2, source.layer3, source.layer4), strict=True
    ):
        dilation = max(stride // output_stride, 1)
        _add_blocks(stages, layer, lambda block: block.bn3.num_features, dilation)
    stem = _take(source, "conv1", "bn1", "relu", "maxpool")
    model = make_model(
        Backbone(stem, stages, input_size=(in_chans, 224, 224)), num_classes, **options
    )
    return _keep_classifier(model, source.fc)


def torchvision_mobilenet(
    name: str,
    num_classes: int = 1000,
    *,
    in_chans: int = 3,
    weights: str | None = None,
    **options: Unpack[ModelOptions],
) -> Backbone:
    """A MobileNet of torchvision, e.g. ``"mobilenet_v3_large"``; arguments as there.

    References:
        Table 7.

    Example:
        >>> sum(p.numel() for p in torchvision_mobilenet("mobilenet_v3_large").parameters())
        5483032
    """
    source: Any = _torchvision(name, in_chans, weights=weights)
    *hidden, _, classifier = source.classifier  # the last but one is dropout
    model = make_model(
        _mobilenet_backbone(source, in_chans, 224, 224),
        num_classes,
        hidden=nn.Sequential(*hidden),
        hidden_channels=classifier.in_features,
        **options,
    )
    return _keep_classifier(model, classifier)


def torchvision_lraspp(
    name: str,
    num_classes: int = 19,
    *,
    filters: int = 128,
    pool_window: int | None = 49,
    reduced_tail: bool = True,
    in_chans: int = 3,
    features_only: bool = False,
    global_pool: str = "",
) -> nn.Module:
    """:class:`LRASPP` on a MobileNetV3 of torchvision with output stride 16.

    Args:
        name: torchvision's name of the backbone, e.g. ``"mobilenet_v3_large"``.
        num_classes: Classes to tell apart.
        filters: As :class:`LRASPP`.
        pool_window: As :class:`LRASPP`.
        reduced_tail: Halve the channels of the last block, as section 4.4 does; torchvision's own
            ``lraspp_mobilenet_v3_large`` does not.
        in_chans: Channels of the images.
        features_only: Return the backbone alone.
        global_pool: As :class:`LRASPP`.

    Raises:
        ImportError: If torchvision is missing.

    References:
        Table 9.

    Example:
        >>> sum(p.numel() for p in torchvision_lraspp("mobilenet_v3_large").parameters())
        1746878
    """
    source = _torchvision(name, in_chans, dilated=True, reduced_tail=reduced_tail)
    return make_segmenter(
        _mobilenet_backbone(source, in_chans, 1024, 2048),
        num_classes,
        filters=filters,
        pool_window=pool_window,
        features_only=features_only,
        global_pool=global_pool,
    )


def timm_ghostnet(
    name: str,
    num_classes: int = 1000,
    *,
    in_chans: int = 3,
    pretrained: bool = False,
    **options: Unpack[ModelOptions],
) -> Backbone:
    """A GhostNet of timm, e.g. ``"ghostnet_100"``.

    Args:
        name: timm's.
        num_classes: Classes to tell apart.
        in_chans: Channels of the images.
        pretrained: Whether timm is to load weights.
        **options: As :class:`ModelOptions`.

    Raises:
        ImportError: If timm is missing.

    References:
        Tables 7 and 8.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"{name} comes from timm: pip install timm") from error

    source: Any = timm.create_model(name, pretrained=pretrained, in_chans=in_chans)
    stages = Stages(source.conv_stem.out_channels, 2)
    *groups, final = source.blocks
    for blocks in groups:
        _add_blocks(stages, blocks, lambda block: block.ghost2.out_chs)
    backbone = Backbone(
        _take(source, "conv_stem", "bn1", "act1"),
        stages,
        final,
        num_features=source.num_features,
        input_size=(in_chans, 224, 224),
    )
    hidden = nn.Sequential(  # timm's is a convolution of the pooled map
        nn.Unflatten(1, (-1, 1, 1)), source.conv_head, source.act2, nn.Flatten()
    )
    model = make_model(
        backbone,
        num_classes,
        hidden=hidden,
        hidden_channels=source.conv_head.out_channels,
        **options,
    )
    return _keep_classifier(model, source.classifier)


def _torchvision(name: str, in_chans: int, weights: str | None = None, **options: Any) -> nn.Module:
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(f"{name} comes from torchvision: pip install torchvision") from error

    if weights is not None and in_chans != 3:
        raise ValueError(f"pretrained weights are for in_chans=3, got {in_chans}")
    source = models.get_model(name, weights=weights, **options)
    if in_chans != 3:
        _replace_first(source, in_chans)
    return source


def _replace_first(source: nn.Module, in_chans: int) -> None:
    """Put a first convolution for images of ``in_chans`` channels in place."""
    name, conv = next((n, m) for n, m in source.named_modules() if isinstance(m, nn.Conv2d))
    sizes = cast(Any, (conv.out_channels, conv.kernel_size, conv.stride, conv.padding))
    fresh = nn.Conv2d(in_chans, *sizes, bias=conv.bias is not None)
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out")  # as torchvision does
    source.set_submodule(name, fresh)


def _take(source: nn.Module, *names: str) -> nn.Sequential:
    return nn.Sequential(OrderedDict((name, source.get_submodule(name)) for name in names))


def _mobilenet_backbone(source: Any, *input_size: int) -> Backbone:
    stem, *blocks, final = source.features
    stages = Stages(stem.out_channels, 2)
    _add_blocks(stages, blocks, lambda block: block.out_channels)
    features = final.out_channels
    return Backbone(stem, stages, final, num_features=features, input_size=input_size)


def _add_blocks(
    stages: Stages, blocks: Iterable[nn.Module], width: Callable[[Any], int], dilation: int = 1
) -> None:
    for block in blocks:
        convs = (module for module in block.modules() if isinstance(module, nn.Conv2d))
        stride = max(conv.stride[0] for conv in convs)
        stages.add(block, width(block), stride=stride, dilation=dilation)


def _keep_classifier(model: Backbone, classifier: nn.Linear) -> Backbone:
    """Take over the scores of the classes that the weights, if any, were trained for."""
    if isinstance(model, ImageModel) and model.num_classes == CLASSES_OF_WEIGHTS:
        with torch.no_grad():
            model.get_classifier().load_state_dict(classifier.state_dict())
    return model
