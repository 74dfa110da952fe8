import numpy as np
import pytest
import torch
from torch.testing import assert_close

from datasets import shapes10_parts
from datasets.shapes10 import CLASSES, SPLITS, make_split_shape
from datasets.shapes10_parts import IGNORED, PARTS, Shapes10Parts
from datasets.surface import normalize, sample_faces


def test_what_is_out_of_range_is_said():
    with pytest.raises(ValueError, match="split must be one of train, test, test-hard"):
        Shapes10Parts("val")
    with pytest.raises(ValueError, match="num_points must be at least 1, got 0"):
        Shapes10Parts(num_points=0)


def test_all_parts_of_the_generator_have_a_label():
    found = {
        part
        for name in CLASSES
        for number in range(1, 40)
        for part in make_split_shape(name, "train", 0, number).part_names
    }
    assert found == set(PARTS)


@pytest.mark.parametrize("split", SPLITS)
def test_a_point_has_the_part_of_the_face_it_lies_on(split):
    data = Shapes10Parts(split, num_points=200, num_shapes=2)
    item = data[5]
    shape = make_split_shape(CLASSES[2], split, 0, 2)
    generator = np.random.default_rng([0, 0, 5])
    points, faces = sample_faces(shape.vertices, shape.faces, 200, generator)
    assert_close(item.pos, torch.from_numpy(normalize(points)))
    names = [shape.part_names[part] for part in shape.part_of_face[faces]]
    expected = [PARTS.index(name) if name != "stray" else IGNORED for name in names]
    assert item.part.tolist() == expected
    # and the point does lie on it
    corner, *others = shape.vertices[shape.faces[faces]].swapaxes(0, 1)
    normal = np.cross(*(other - corner for other in others))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    assert np.abs(((points - corner) * normal).sum(axis=1)).max() < 1e-6


def test_specks_of_a_damaged_scan_do_not_count():
    data = Shapes10Parts("test-hard", num_points=2000, num_shapes=1)
    shares = [(item.part == IGNORED).float().mean().item() for item in data]
    assert 0 < np.mean(shares) < 0.02


def test_points_are_drawn_anew_in_every_epoch_of_training_only():
    train, test = (Shapes10Parts(split, num_points=50, num_shapes=1) for split in SPLITS[:2])
    assert (train[0, 3].pos != train[1, 3].pos).any()
    assert_close(train[1, 3].pos, train[1, 3].pos)
    assert_close(test[0, 3].part, test[1, 3].part)


def test_shapes_are_made_once(monkeypatch):
    Shapes10Parts("train", num_points=5, num_shapes=1)
    monkeypatch.setattr(shapes10_parts, "make_split_shape", None)
    assert len(Shapes10Parts("train", num_points=9, num_shapes=1)) == 10
