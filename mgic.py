"""Multigrid-in-channels networks: two packages of one version.

``mgic_geo`` (here ``mgic.geo``) is for graphs, point clouds and plain vectors:
``MGICMessagePassing`` around any PyG convolution, ``MGICLinear``, point networks, neighbor search,
``convert`` for PyG models. ``mgic_vision`` (here ``mgic.vision``) is for images: classifiers,
segmentation, ``convert`` for networks of torchvision and timm. Code and documentation import the
two by their own names.

Example:
    >>> import mgic
    >>> mgic.geo.MGICLinear.__module__, mgic.vision.list_models.__module__
    ('mgic_geo.nn.linear', 'mgic_vision.models.registry')
"""

import mgic_geo as geo
import mgic_vision as vision
from mgic_geo import __version__

__all__ = ["__version__", "geo", "vision"]
