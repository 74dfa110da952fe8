"""The Lightning module for segmentation: every pixel has a class."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from mgic_vision import LRASPP, create_model, list_models
from mgic_vision.ops.kernel import IMAGES
from scripts.training.images import ImageBatch
from scripts.training.masks import MaskClassifier
from scripts.training.scenes import shrink


class Segmenter(MaskClassifier):
    """Classifies the pixels of images.

    Args:
        name: Segmentation network of ``mgic_vision``: ``lraspp_mgic_large`` or another ``lraspp``.
        kwargs: As for :class:`Classifier`.
    """

    create, kept = staticmethod(create_model), "masks"
    kernels = IMAGES

    def __init__(self, name: str = "lraspp_mgic_large", **kwargs: Any):
        super().__init__(name, **kwargs)

    def make_network(self, num_classes: int) -> nn.Module:
        """Build the network."""
        network = super().make_network(num_classes)
        if not isinstance(network, LRASPP):
            names = ", ".join(name for name in list_models() if name.startswith("lraspp"))
            raise ValueError(f"it does not score pixels; {names} do")
        return network

    def forward(self, batch: ImageBatch) -> Tensor:
        """Score the classes at each pixel, ``(B, num_classes, H, W)``."""
        return self.network(batch.images)

    def to_keep(self, predicted: Tensor) -> Tensor:
        """Return small copies of the masks."""
        return shrink(predicted, self.trainer.datamodule.picture_size)

    def test_arrays(self) -> dict[str, np.ndarray]:
        """Add the colors that the data set gives its classes."""
        colors = np.array(self.trainer.datamodule.colors, np.uint8)
        return super().test_arrays() | {"colors": colors}
