"""What is exported, what it is compared with, and on which inputs."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import mgic_geo
import mgic_vision
from mgic_geo import DensePointCloud, PointCloudClassifier, PointCloudSegmenter
from scripts.training.errors import TrainingError

POINTS = 1024  # of a network that no run has told
EXAMPLE_BATCH = 2


class Subject:
    """A network for images, as it is.

    Args:
        network: Gives the reference, in evaluation.
        module: What is exported, the network itself or another form of it.
        info: Of :class:`scripts.training.weights.Weights`.
    """

    def __init__(self, network: nn.Module, module: nn.Module, info: dict[str, Any]):
        self.network, self.module, self.info = network.eval(), module.eval(), info

    def inputs(self, batch: int) -> Iterator[Tensor]:
        """Draw the inputs of a comparison."""
        yield self._draw(batch, *self.input_shape)

    def example(self) -> Tensor:
        """Draw what the network is traced with."""
        return self._draw(EXAMPLE_BATCH, *self.input_shape)

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """Tell which sizes of the input vary."""
        return ({0: torch.export.Dim("batch", min=1)},)

    def trace(self) -> torch.export.ExportedProgram:
        """Trace the module with sizes that vary."""
        shapes = self.dynamic_shapes()
        return torch.export.export(self.module, (self.example(),), dynamic_shapes=shapes)

    @torch.no_grad()
    def reference(self, x: Tensor) -> Tensor:
        """Return what the network itself gives."""
        return self.network(x)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, as the network was trained or else as in the paper."""
        size = self.info.get("input", {}).get("size")
        shape = tuple(self.network.input_size)
        return shape if size is None else (shape[0], size, size)

    @staticmethod
    def _draw(*shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(len(shape) * shape[0] + shape[-1])
        return torch.randn(*shape, generator=generator)


class CloudSubject(Subject):
    """A network for point clouds, in its dense form."""

    def inputs(self, batch: int) -> Iterator[Tensor]:
        """Draw clouds of two sizes."""
        points = self.info.get("num_points", POINTS)
        yield self._draw(batch, points, 3)
        yield self._draw(batch, max(points // 2, self.module.min_points), 3)

    def example(self) -> Tensor:
        """Draw a few small clouds."""
        return self._draw(EXAMPLE_BATCH, self.module.min_points + 8, 3)

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """Let clouds and points vary."""
        points = torch.export.Dim("points", min=self.module.min_points)
        return ({0: torch.export.Dim("batch", min=1), 1: points},)

    @torch.no_grad()
    def reference(self, x: Tensor) -> Tensor:
        """Return what the network gives for the clouds of the batch in a row."""
        batch = torch.arange(x.size(0)).repeat_interleave(x.size(1))
        return self.network(x.flatten(0, 1), batch)


def make_subject(network: nn.Module, info: dict[str, Any], *, fused: bool = False) -> Subject:
    """Put a network into the form that is exported.

    Raises:
        TrainingError: It has none.
    """
    if isinstance(network, PointCloudSegmenter):
        raise TrainingError(f"cannot export {info['name']}: part segmentation has no dense form")
    if not isinstance(network, PointCloudClassifier):
        return Subject(network, mgic_vision.fuse(network) if fused else network, info)
    try:
        form = mgic_geo.fuse(network) if fused else network
        return CloudSubject(network, DensePointCloud(form), info)
    except ValueError as error:
        raise TrainingError(f"cannot export {info['name']}: {error}") from error
