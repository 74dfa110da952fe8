"""What is exported, what it is compared with, and on which inputs."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import mgic_geo
import mgic_vision
from mgic_geo import DensePointCloud, PointCloudClassifier, PointCloudSegmenter, knn_indices
from mgic_geo.models.dense import split_features
from scripts.training.reliability.errors import TrainingError

POINTS = 1024  # of a network that no run has told
EXAMPLE_BATCH = 2
TIE = 1e-4  # neighbors at distances that differ by less, in relation, tie within rounding


class Subject:
    """A network for images, as it is.

    Args:
        network: Gives the reference, in evaluation.
        module: What is exported, the network itself or another form of it.
        info: Of :class:`scripts.training.weights.Weights`.
        block: Channels in a block of ONNX Runtime, for which groups are merged.
    """

    def __init__(
        self, network: nn.Module, module: nn.Module, info: dict[str, Any], *, block: int = 1
    ):
        self.network, self.module, self.info = network.eval(), module.eval(), info
        self.block = block

    def inputs(self, batch: int) -> Iterator[Tensor]:
        """Draw the inputs of a comparison."""
        yield self._draw(batch, *self.input_shape)

    def example(self) -> Tensor:
        """Draw what the network is traced with."""
        return self._draw(EXAMPLE_BATCH, *self.input_shape)

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """Tell which sizes of the input vary."""
        return ({0: torch.export.Dim("batch", min=1)},)

    def for_onnx(self) -> "Subject":
        """Return the form that suits ONNX Runtime."""
        if self.block == 1:
            return self
        return Subject(
            self.network, mgic_vision.merge_groups(self.module, block=self.block), self.info
        )

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
        yield self._draw(batch, points, self._channels)
        yield self._draw(batch, max(points // 2, self.module.min_points), self._channels)

    def example(self) -> Tensor:
        """Draw a few small clouds."""
        return self._draw(EXAMPLE_BATCH, self.module.min_points + 8, self._channels)

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """Let clouds and points vary."""
        points = torch.export.Dim("points", min=self.module.min_points)
        return ({0: torch.export.Dim("batch", min=1), 1: points},)

    @torch.no_grad()
    def reference(self, x: Tensor) -> Tensor:
        """Return what the network gives for the clouds of the batch in a row."""
        pos, features = split_features(self.network, x)
        return self.network(pos.flatten(0, 1), cloud_of_points(x), x=features)

    @property
    def _channels(self) -> int:
        return 3 + self.network.num_features

    def with_neighbors(self) -> "CloudSubject":
        """Return the same with all tables of neighbors behind the scores."""
        return CloudSubject(self.network, WithNeighbors(self.module), self.info)

    @torch.no_grad()
    def reference_on(self, x: Tensor, tables: Sequence[Tensor]) -> Tensor | None:
        """Return what the network gives on those neighbors.

        Args:
            x: The clouds, ``(B, N, 3)``, features after the coordinates.
            tables: Neighbors for every G-conv, ``(B * N, k)``.

        Returns:
            The scores; ``None`` if neighbors are not the nearest ones, also within rounding.
        """
        pos, own = split_features(self.network, x)
        pos, batch = pos.flatten(0, 1), cloud_of_points(x)
        remaining, nearest = iter(tables), True

        def find_graph(features: Tensor) -> tuple:
            nonlocal nearest
            table = next(remaining)
            found = neighbor_distances(features, table)
            right = neighbor_distances(features, knn_indices(features, self.network.k, batch))
            nearest &= torch.allclose(found, right, rtol=TIE, atol=0)
            return self.network.graph_inputs(table, pos, batch)

        points = self.network.map_points(pos, find_graph, own)
        scores = self.network.head(self.network.pool_dense(points.unflatten(0, x.shape[:2])))
        return scores if nearest else None


class WithNeighbors(nn.Module):
    """The dense form of a network, returning the neighbors it found as well."""

    def __init__(self, dense: DensePointCloud):
        super().__init__()
        self.dense, self.min_points = dense, dense.min_points

    def forward(self, pos: Tensor) -> tuple[Tensor, ...]:
        """Return the scores and every table of neighbors."""
        scores, tables = self.dense.with_neighbors(pos)
        return scores, *tables


def neighbor_distances(features: Tensor, neighbors: Tensor) -> Tensor:
    """Distances of every point to its neighbors, in order, ``(N, D), (N, k) -> (N, k)``."""
    x = features.double()
    return torch.stack([(x - x[place]).norm(dim=1) for place in neighbors.T], 1).sort(1).values


def cloud_of_points(x: Tensor) -> Tensor:
    """Number of the cloud of every point, ``(B, N, 3) -> (B * N,)``."""
    return torch.arange(x.size(0)).repeat_interleave(x.size(1))


def make_subject(
    network: nn.Module, info: dict[str, Any], *, fused: bool = False, block: int = 1
) -> Subject:
    """Put a network into the form that is exported; arguments as for :class:`Subject`.

    Raises:
        TrainingError: It has none.
    """
    if isinstance(network, PointCloudSegmenter):
        raise TrainingError(f"cannot export {info['name']}: part segmentation has no dense form")
    if not isinstance(network, PointCloudClassifier):
        module = mgic_vision.fuse(network) if fused else network
        return Subject(network, module, info, block=block)
    try:
        form = mgic_geo.fuse(network) if fused else network
        return CloudSubject(network, DensePointCloud(form), info)
    except ValueError as error:
        raise TrainingError(f"cannot export {info['name']}: {error}") from error
