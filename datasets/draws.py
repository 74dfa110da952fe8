"""The points that stand for a shape where it is evaluated: one rule for all who do that."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from datasets.surface import normalize, sample_faces

CROWD = 4  # points to choose from, for each of those chosen by distance


@dataclass(frozen=True)
class Draws:
    """How points are drawn from a shape: independently of where it is and what else there is.

    The random numbers follow from the seed and the number of the draw alone. So a file has the same
    points wherever it lies, whatever it is called and whoever reads it, and so has the same mesh in
    another format, up to rounding.

    Args:
        votes: Draws of a shape; the mean of their probabilities is what a network says of it.
        sampling: ``random`` draws uniformly from the surface; ``farthest`` draws four times as
            many and keeps those that are far from each other, which covers it more evenly.
        seed: Of all draws.

    Raises:
        ValueError: Fewer than one vote, or a negative seed.

    Example:
        >>> corner, face = np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32)
        >>> Draws(votes=2).points(corner, face, None, 16).shape
        (2, 16, 3)
    """

    votes: int = 1
    sampling: Literal["random", "farthest"] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise ValueError(f"votes must be at least 1, got {self.votes}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")

    def points(self, *mesh: Any, **options: bool) -> np.ndarray:
        """Return normalized points of every draw; arguments and shape as for :meth:`draw`."""
        return np.stack([normalize(points) for points in self.draw(*mesh, **options)])

    def draw(
        self,
        vertices: np.ndarray,
        faces: np.ndarray,
        areas: np.ndarray | None,
        num_points: int,
        *,
        normals: bool = False,
    ) -> np.ndarray:
        """Return points of every draw where they lie on the shape.

        Args:
            vertices: Float32, as :func:`datasets.surface.prepare` returns them.
            faces: Int32.
            areas: Cumulative areas of the faces, to save the time.
            num_points: Points of a draw, :math:`P`.
            normals: Put the normal of its face beside every point of a mesh.

        Shape:
            - Returns float32 ``(votes, P, 3 + C)``, with the features of a point cloud or normals.
        """
        many = num_points * (CROWD if self.sampling == "farthest" else 1)
        clouds = []
        for vote in range(self.votes):
            generator = np.random.default_rng([self.seed, vote])
            options = {"cumulative": areas, "normals": normals}
            points, _ = sample_faces(vertices, faces, many, generator, **options)
            if self.sampling == "farthest":
                points = points[farthest_points(points[:, :3], num_points)]
            clouds.append(points)
        return np.stack(clouds)


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """Choose points one after the other, each as far as can be from those chosen before.

    Shape:
        - ``points``: ``(N, 3)``; returns int64 ``(count,)``, the first point first.

    Example:
        >>> farthest_points(np.array([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]), 2).tolist()
        [0, 2]
    """
    chosen = np.zeros(count, np.int64)
    distances = np.full(len(points), np.inf)
    for place in range(1, count):
        offsets = points - points[chosen[place - 1]]
        distances = np.minimum(distances, np.einsum("ij,ij->i", offsets, offsets))
        chosen[place] = distances.argmax()
    return chosen
