"""Models by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args, get_type_hints

from torch import nn

from mgic_geo import build_with_weights, choose_checkpoint, list_pretrained
from mgic_geo.ops.inputs import did_you_mean
from mgic_vision.layers import GhostModule, conv_norm_act
from mgic_vision.models import (
    baselines,
    function,
    lraspp_mgic,
    mobilenetv3,
    plain_resnet,
    resnet,
)
from mgic_vision.models.backbone import Backbone

PRETRAINED = Path(__file__).with_name("pretrained")

_MODELS: dict[str, Callable[..., nn.Module]] = {
    "function_ghost": function.function_ghost,
    "function_mgic": function.function_mgic,
    "function_mobilenetv3": function.function_mobilenetv3,
    "ghost_resnet56": partial(plain_resnet.plain_resnet56, GhostModule),
    "ghostnet_050": partial(baselines.timm_ghostnet, "ghostnet_050"),
    "ghostnet_100": partial(baselines.timm_ghostnet, "ghostnet_100"),
    "ghostnet_130": partial(baselines.timm_ghostnet, "ghostnet_130"),
    "lraspp_mgic_large": partial(lraspp_mgic.lraspp_mgic, mobilenetv3.LARGE),
    "lraspp_mgic_small": partial(lraspp_mgic.lraspp_mgic, mobilenetv3.SMALL),
    "lraspp_mobilenet_v3_large": partial(baselines.torchvision_lraspp, "mobilenet_v3_large"),
    "lraspp_mobilenet_v3_small": partial(baselines.torchvision_lraspp, "mobilenet_v3_small"),
    "mgic_mobilenetv3": partial(mobilenetv3.mgic_mobilenetv3, mobilenetv3.TABLE_6),
    "mgic_mobilenetv3_small": partial(mobilenetv3.mgic_mobilenetv3, mobilenetv3.SMALL),
    "mgic_resnet50": resnet.mgic_resnet50,
    "mgic_resnet56": resnet.mgic_resnet56,
    "mobilenet_v2": partial(baselines.torchvision_mobilenet, "mobilenet_v2"),
    "mobilenet_v3_large": partial(baselines.torchvision_mobilenet, "mobilenet_v3_large"),
    "mobilenet_v3_small": partial(baselines.torchvision_mobilenet, "mobilenet_v3_small"),
    "resnet50": partial(baselines.torchvision_resnet, "resnet50"),
    "resnet56": partial(plain_resnet.plain_resnet56, conv_norm_act),
}


def list_models(*, pretrained: bool = False) -> list[str]:
    """Names that :func:`create_model` takes.

    Args:
        pretrained: Only those whose weights come with this package.

    Example:
        >>> [name for name in list_models() if name.startswith("mgic")]
        ['mgic_mobilenetv3', 'mgic_mobilenetv3_small', 'mgic_resnet50', 'mgic_resnet56']
    """
    return list_pretrained(PRETRAINED) if pretrained else sorted(_MODELS)


def list_options(name: str) -> list[str]:
    """Options that :func:`create_model` takes for one model, beside ``num_classes``.

    Raises:
        ValueError: If there is no such model.

    Example:
        >>> list_options("function_mgic")[:3]
        ['c_max', 'coarse_size', 'cycle']
    """
    make = _find(name)
    make = make.func if isinstance(make, partial) else make
    options = set()
    for parameter in inspect.signature(make).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            options.add(parameter.name)
        elif parameter.kind is parameter.VAR_KEYWORD:
            (fields,) = get_args(get_type_hints(make)[parameter.name])
            options.update(get_type_hints(fields))
    return sorted(options)


def create_model(
    name: str,
    num_classes: int | None = None,
    *,
    pretrained: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    strict: bool = True,
    **options,
) -> nn.Module:
    """Build a network, with the weights of a file if one is given.

    All of them offer timm's interface (``forward_features``, ``forward_head``, ``get_classifier``,
    ``reset_classifier``, ``set_grad_checkpointing``, ``feature_info``, and classifiers
    ``forward_intermediates``, ``group_matcher`` and ``pretrained_cfg``), and take ``in_chans`` and
    ``features_only``.

    Args:
        name: One of :func:`list_models`.
        num_classes: Classes to tell apart, 0 for features; ``None`` for those of the checkpoint, or
            as many as in the paper. Where it is not that of the checkpoint, the classifier is a
            fresh one.
        pretrained: Take the weights that come with this package, and their options; the model's
            ``pretrained_cfg`` says what they were trained and tested on.
        checkpoint: ``model.safetensors`` of a run, with ``model.json`` beside it, whose options
            hold as far as they are not given here.
        strict: Whether every weight of the checkpoint must have its place and every place its
            weight; ``False`` warns about the others.
        **options: See :func:`list_options` and the function of ``mgic_vision.models``.

    Raises:
        ImportError: If the network is timm's or torchvision's, and that is missing; or if the
            checkpoint cannot be read because safetensors is.
        ValueError: If there is no such model, it does not take such an option, or both
            ``pretrained`` and ``checkpoint`` are given.
        WeightsError: If the checkpoint is damaged or does not fit, with names and shapes; or there
            are no pretrained weights of it.

    References:
        Tables 2, 4, 6 and 9, and what Tables 3, 5, 7, 8 and 9 compare with.

    Example:
        >>> model = create_model("mgic_resnet56", num_classes=10, group_size=16, coarse_size=16)
        >>> sum(p.numel() for p in model.parameters())
        498810
    """
    make = _find(name)
    if checkpoint := choose_checkpoint(PRETRAINED, name, checkpoint, pretrained=pretrained):
        model, info = build_with_weights(
            create_model, name, checkpoint, num_classes, options, strict=strict
        )
        if isinstance(model, Backbone):
            model.take_images(**info.get("input", {}))
            model.pretrained_cfg |= {"label_names": info.get("classes")}
            model.pretrained_cfg |= {"results": info.get("results", {})}
        return model
    known = list_options(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{name} does not take {', '.join(unknown)}; it takes {', '.join(known)}")
    return make(**options) if num_classes is None else make(num_classes, **options)


def _find(name: str) -> Callable[..., nn.Module]:
    if name not in _MODELS:
        near = did_you_mean(name, _MODELS)
        raise ValueError(f"no model {name!r}; there are {', '.join(list_models())}{near}")
    return _MODELS[name]
