"""Points on the surface of a mesh."""

import numpy as np
import pytest

from datasets.solids import box
from datasets.surface import cumulative_areas, normalize, sample_faces, unit_scale

BOX = box((0, 0, 0), (1, 2, 3))


def test_points_fall_on_triangles_in_proportion_to_their_areas():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [10, 0, 5], [13, 0, 5], [10, 1, 5]])
    faces = np.array([[0, 1, 2], [3, 4, 5], [0, 0, 1]])  # areas 0.5, 1.5 and 0
    points = sample_faces(vertices, faces, 20_000, np.random.default_rng(0))[0]
    share = (points[:, 2] == 5).mean()
    assert abs(share - 0.75) < 0.012  # four standard deviations


def test_points_are_uniform_inside_a_triangle():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    points = sample_faces(vertices, np.array([[0, 1, 2]]), 20_000, np.random.default_rng(0))[0]
    np.testing.assert_allclose(points.mean(axis=0), [1 / 3, 1 / 3, 0], atol=0.01)
    assert abs((points.sum(axis=1) < 0.5).mean() - 0.25) < 0.013  # the lower left quarter


def test_given_areas_change_no_point():
    vertices, faces = BOX
    a = sample_faces(vertices, faces, 100, np.random.default_rng(1))[0]
    areas = cumulative_areas(vertices, faces)
    b = sample_faces(vertices, faces, 100, np.random.default_rng(1), cumulative=areas)[0]
    assert a.tobytes() == b.tobytes()


@pytest.mark.fault(22)
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e11, 1e300])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_any_unit_gives_the_same_finite_cloud(scale, offset):
    vertices, faces = BOX
    points = unit_scale((vertices + offset) * scale)
    cloud = normalize(sample_faces(points, faces, 64, np.random.default_rng(0))[0])
    plain = normalize(sample_faces(unit_scale(vertices), faces, 64, np.random.default_rng(0))[0])
    np.testing.assert_allclose(cloud, plain, atol=1e-6)


@pytest.mark.fault(22)
def test_the_largest_numbers_there_are_do_not_overflow():
    extreme = np.array([[-1.7e308, 0, 0], [1.7e308, 0, 0]])
    assert normalize(extreme).tolist() == [[-1, 0, 0], [1, 0, 0]]


def test_normalized_points_have_mean_0_and_radius_1():
    cloud = normalize(np.random.default_rng(0).normal(5, 3, (100, 3)))
    assert cloud.dtype == np.float32
    np.testing.assert_allclose(cloud.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(cloud, axis=1).max(), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("vertices", "num_points", "message"),
    [(np.zeros((3, 3)), 0, "num_points must be at least 1"), (np.zeros((0, 3)), 1, "without vert")],
)
def test_there_must_be_something_to_sample(vertices, num_points, message):
    with pytest.raises(ValueError, match=message):
        sample_faces(vertices, np.zeros((0, 3), int), num_points, np.random.default_rng(0))[0]
