"""Random changes of a point cloud that leave its class alone."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """Random rotation about the vertical, scale, shift, jitter and thinning of a point cloud.

    Args:
        rotate_z: Largest turn about z to either side, in degrees; 180 is every direction.
        scale: Lowest and highest factor, drawn for each axis separately.
        translate: Largest shift along each axis, in units of the cloud (its radius is 1).
        jitter: Standard deviation of the noise on each coordinate, in units of the cloud; it is cut
            at three times that.
        keep: Lowest and highest share of the points that are kept, drawn anew for each cloud. The
            first ones stay, which of points drawn independently is as good as any choice. A network
            that has seen clouds of many sizes changes its mind less from one draw to the next.

    Shape:
        - ``pos``: ``(P, 3 + C)``, features after the coordinates; returns ``(P', 3 + C)`` of the
          same dtype and device, ``P' = P`` unless ``keep`` says otherwise.

    Raises:
        ValueError: A negative strength, a scale that is not ``0 < low <= high``, or shares that are
            not ``0 < low <= high <= 1``.

    Example:
        >>> augment = Augment(rotate_z=180, scale=(0.8, 1.25), jitter=0.01)
        >>> augment(torch.ones(5, 3), np.random.default_rng(0)).shape
        torch.Size([5, 3])
    """

    rotate_z: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    translate: float = 0.0
    jitter: float = 0.0
    keep: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high < math.inf:
            raise ValueError(f"scale must be 0 < low <= high, got {self.scale}")
        low, high = self.keep
        if not 0 < low <= high <= 1:
            raise ValueError(f"keep must be 0 < low <= high <= 1, got {self.keep}")
        for name in ("rotate_z", "translate", "jitter"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def __call__(
        self, pos: Tensor, generator: np.random.Generator, *, normals: bool = False
    ) -> Tensor:
        """Return a changed copy of ``pos``; all randomness comes from ``generator``.

        Args:
            pos: The cloud.
            generator: Draws the change.
            normals: Whether the first three features are normals, which turn with the cloud.
        """
        if self.keep != (1.0, 1.0):  # else nothing is drawn: clouds are what they were without it
            pos = pos[: max(1, round(generator.uniform(*self.keep) * len(pos)))]
        angle = math.radians(generator.uniform(-self.rotate_z, self.rotate_z))
        cos, sin = math.cos(angle), math.sin(angle)
        turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])  # p -> p @ turn
        factors = generator.uniform(*self.scale, size=3)
        shift = generator.uniform(-self.translate, self.translate, size=3)
        noise = generator.standard_normal((len(pos), 3)).clip(-3, 3) * self.jitter
        affine, across, shift, noise = (
            torch.as_tensor(value, dtype=pos.dtype, device=pos.device)
            for value in (turn * factors, turn / factors, shift, noise)
        )
        changed = pos.clone()
        changed[:, :3] = pos[:, :3] @ affine + shift + noise
        if normals:  # what is at right angles to a surface is scaled the other way
            changed[:, 3:6] = torch.nn.functional.normalize(pos[:, 3:6] @ across, dim=1)
        return changed


@dataclass(frozen=True)
class AnyRotation:
    """Random rotation in space, each as likely as any other, for shapes of unknown orientation.

    Args:
        after: What changes the cloud before it is turned, if anything.

    Shape:
        - ``pos``: ``(P, 3 + C)``; returns what ``after`` returns, turned.

    Example:
        >>> turned = AnyRotation()(torch.eye(3), np.random.default_rng(0))
        >>> torch.linalg.vector_norm(turned, dim=1)
        tensor([1.0000, 1.0000, 1.0000])
    """

    after: Augment | None = None

    def __call__(
        self, pos: Tensor, generator: np.random.Generator, *, normals: bool = False
    ) -> Tensor:
        """Return a changed copy of ``pos``; arguments as for :class:`Augment`."""
        if self.after is not None:
            pos = self.after(pos, generator, normals=normals)
        quaternion = generator.standard_normal(4)  # its direction is uniform on the sphere
        w, x, y, z = quaternion / np.linalg.norm(quaternion)
        turn = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        matrix, changed = torch.as_tensor(turn, dtype=pos.dtype, device=pos.device), pos.clone()
        for first in (0, 3) if normals else (0,):
            changed[:, first : first + 3] = pos[:, first : first + 3] @ matrix
        return changed
