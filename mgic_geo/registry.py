"""Models by name."""

from __future__ import annotations

import inspect

from mgic_geo import point_cloud
from mgic_geo.point_cloud import PointCloudClassifier

_MODELS = {
    make.__name__: make
    for make in (
        point_cloud.dgcnn,
        point_cloud.diffgcn,
        point_cloud.mgic_dgcnn,
        point_cloud.mgic_diffgcn,
        point_cloud.pointnet,
        point_cloud.random_graph,
    )
}


def list_models() -> list[str]:
    """Names that :func:`create_model` takes.

    Example:
        >>> list_models()
        ['dgcnn', 'diffgcn', 'mgic_dgcnn', 'mgic_diffgcn', 'pointnet', 'random_graph']
    """
    return sorted(_MODELS)


def create_model(name: str, num_classes: int = 10, **options) -> PointCloudClassifier:
    """Build a point-cloud classifier.

    Args:
        name: One of :func:`list_models`.
        num_classes: Classes to tell apart.
        **options: ``layers`` (convolutions in a row in every G-conv, one number or six), ``graph``,
            ``k``, ``width``, ``dropout`` and ``softening`` of :class:`PointCloudClassifier`;
            ``group_size`` and ``coarse_size`` for the MGIC models.

    Raises:
        ValueError: If there is no such model, it does not take such an option, or ``graph`` is
            ``"none"``.

    Example:
        >>> model = create_model("mgic_diffgcn", layers=3, group_size=4)
        >>> sum(p.numel() for p in model.parameters())
        105778
    """
    if name not in _MODELS:
        raise ValueError(f"no model {name!r}; there are {', '.join(list_models())}")
    make = _MODELS[name]
    known = {
        parameter.name
        for function in (make, PointCloudClassifier)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    } - {"derivatives"}
    if name in ("pointnet", "random_graph"):
        known -= {"graph"}
    if "diffgcn" not in name:
        known -= {"softening"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"{name} does not take {', '.join(unknown)}; it takes {', '.join(sorted(known))}"
        )
    if options.get("graph") == "none":
        raise ValueError(f"{name} needs neighbors, got graph='none'; without them it is 'pointnet'")
    return make(num_classes, **options)
