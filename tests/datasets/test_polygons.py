import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from datasets.off import cut_polygons


def area_and_normal(points: np.ndarray, faces: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum of the triangles' areas, and of their vector areas."""
    one, two, three = points[faces].swapaxes(0, 1)
    vectors = np.cross(two - one, three - one) / 2
    return np.linalg.norm(vectors, axis=1).sum(), vectors.sum(0)


def star(generator: np.random.Generator, corners: int) -> np.ndarray:
    """A polygon around the origin whose radius is drawn at every corner, in some plane."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radii = generator.uniform(0.2, 1.0, corners)
    flat = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
    axes, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    return flat @ axes[:2] + generator.normal(size=3)


@pytest.mark.parametrize("corners", [4, 5, 8, 31])
@pytest.mark.parametrize("clockwise", [False, True])
def test_concave_polygons_are_covered_once_and_keep_their_side(corners, clockwise):
    generator = np.random.default_rng(corners)
    for _ in range(20):
        points = star(generator, corners)
        points = points[::-1].copy() if clockwise else points
        faces = cut_polygons(points, np.arange(corners), np.array([corners]))
        assert len(faces) == corners - 2
        area, normal = area_and_normal(points, faces)
        rim = points - points[0]
        expected = np.cross(rim, np.roll(rim, -1, axis=0)).sum(0) / 2  # the shoelace formula
        assert_allclose(normal, expected, atol=1e-12)
        assert_allclose(area, np.linalg.norm(expected), rtol=1e-9)  # no triangle outside


def test_triangles_stay_in_the_order_of_the_polygons():
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.9, 0.1, 0]], float)
    indices = np.array([0, 1, 2, 0, 4, 2, 3, 1, 2, 3])  # a triangle, a concave and a cut one
    faces = cut_polygons(square, indices, np.array([3, 4, 3]))
    assert_array_equal(faces[[0, 3]], [[0, 1, 2], [1, 2, 3]])
    assert set(faces[1:3].ravel()) == {0, 2, 3, 4}


def test_polygons_that_cannot_be_cut_are_fans():
    bow = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]], float)
    assert len(cut_polygons(bow, np.arange(4), np.array([4]))) == 2
    nothing = np.full((4, 3), np.nan)
    assert_array_equal(cut_polygons(nothing, np.arange(4), np.array([4])), [[0, 1, 2], [0, 2, 3]])
