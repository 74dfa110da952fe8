"""Models by name."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

from mgic_geo.models import dgcnn, point_cloud
from mgic_geo.models.point_cloud import PointCloudClassifier
from mgic_geo.models.weights import build_with_weights, choose_checkpoint, list_pretrained
from mgic_geo.ops.inputs import did_you_mean

DEFAULT_CLASSES = 10  # of ModelNet10
PRETRAINED = Path(__file__).with_name("pretrained")

_MODELS = {
    make.__name__: make
    for make in (
        point_cloud.dgcnn,
        point_cloud.diffgcn,
        point_cloud.mgic_dgcnn,
        point_cloud.mgic_diffgcn,
        point_cloud.pointnet,
        point_cloud.random_graph,
        dgcnn.dgcnn_cls,
        dgcnn.mgic_dgcnn_cls,
    )
}


def list_models(*, pretrained: bool = False) -> list[str]:
    """Names that :func:`create_model` takes.

    ``dgcnn_cls`` and ``mgic_dgcnn_cls`` are DGCNN as it was published, and its MGIC form. The
    others are Table 10's small network with one convolution or another, also ``dgcnn`` and
    ``pointnet``, which share little more than the idea with the networks of those names.

    Args:
        pretrained: Only those whose weights come with this package.

    Example:
        >>> list_models()[:3]
        ['dgcnn', 'dgcnn_cls', 'diffgcn']
    """
    return list_pretrained(PRETRAINED) if pretrained else sorted(_MODELS)


def list_options(name: str) -> list[str]:
    """Options that :func:`create_model` takes for one model, beside ``num_classes``.

    Raises:
        ValueError: If there is no such model.

    Example:
        >>> list_options("mgic_dgcnn_cls")
        ['coarse_size', 'cycle', 'dropout', 'graph', 'group_size', 'k', 'num_features', 'width']
    """
    if name not in _MODELS:
        near = did_you_mean(name, _MODELS)
        raise ValueError(f"no model {name!r}; there are {', '.join(list_models())}{near}")
    options = {
        parameter.name
        for function in (_MODELS[name], PointCloudClassifier)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    } - {"derivatives"}
    if name.endswith("_cls"):
        options -= {"layers"}
    if name in ("pointnet", "random_graph"):
        options -= {"graph"}
    if "diffgcn" not in name:
        options -= {"softening"}
    return sorted(options)


def create_model(
    name: str,
    num_classes: int | None = None,
    *,
    pretrained: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    strict: bool = True,
    **options,
) -> PointCloudClassifier:
    """Build a point-cloud classifier, with the weights of a file if one is given.

    Args:
        name: One of :func:`list_models`.
        num_classes: Classes to tell apart; ``None`` for those of the checkpoint, or 10. Where it is
            not that of the checkpoint, the classifier is a fresh one.
        pretrained: Take the weights that come with this package, and their options; the model's
            ``pretrained_cfg`` says what they were trained and tested on.
        checkpoint: ``model.safetensors`` of a run, with ``model.json`` beside it, whose options
            hold as far as they are not given here.
        strict: Whether every weight of the checkpoint must have its place and every place its
            weight; ``False`` warns about the others.
        **options: See :func:`list_options`: ``layers`` (convolutions in a row in every G-conv, one
            number or six), ``graph``, ``k``, ``width``, ``dropout``, ``num_features`` and
            ``softening`` of :class:`PointCloudClassifier`; ``group_size``, ``coarse_size`` and
            ``cycle`` for the MGIC models.

    Raises:
        ValueError: If there is no such model, it does not take such an option, ``graph`` is
            ``"none"``, or both ``pretrained`` and ``checkpoint`` are given.
        WeightsError: If the checkpoint is damaged or does not fit, with names and shapes; or there
            are no pretrained weights of it.
        ImportError: If the checkpoint cannot be read because safetensors is missing.

    Example:
        >>> model = create_model("mgic_diffgcn", layers=3, group_size=4)
        >>> sum(p.numel() for p in model.parameters())
        105778
    """
    known = list_options(name)
    if checkpoint := choose_checkpoint(PRETRAINED, name, checkpoint, pretrained=pretrained):
        model, model.pretrained_cfg = build_with_weights(
            create_model, name, checkpoint, num_classes, options, strict=strict
        )
        return model
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{name} does not take {', '.join(unknown)}; it takes {', '.join(known)}")
    if options.get("graph") == "none":
        raise ValueError(f"{name} needs neighbors, got graph='none'; without them it is 'pointnet'")
    return _MODELS[name](DEFAULT_CLASSES if num_classes is None else num_classes, **options)
