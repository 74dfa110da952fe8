import numpy as np
import pytest
import torch
from meshes import load
from torch.testing import assert_close

from datasets.augment import Augment
from datasets.splits import stratified_split


def test_only_training_points_are_augmented(root):
    def double(pos, generator):
        return pos * 2

    for split, factor in (("train", 2), ("test", 1)):
        changed, plain = load(root, split, augment=double)[0], load(root, split)[0]
        assert_close(changed.pos, plain.pos * factor)


def test_rotation_keeps_heights_and_distances():
    pos = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned = Augment(rotate_z=180)(pos, np.random.default_rng(0))
    assert_close(turned[:, 2], pos[:, 2])
    assert_close(torch.cdist(turned, turned), torch.cdist(pos, pos), atol=1e-6, rtol=0)
    assert not torch.allclose(turned, pos, atol=0.1)


def test_rotation_goes_to_both_sides():
    x = torch.tensor([[1.0, 0, 0]])
    angles = [Augment(rotate_z=90)(x, np.random.default_rng(i))[0, 1] for i in range(20)]
    assert min(angles) < 0 < max(angles)


def test_scale_is_drawn_for_each_axis():
    factors = Augment(scale=(0.5, 2.0))(torch.ones(1, 3), np.random.default_rng(0))[0]
    assert len(set(factors.tolist())) == 3
    assert ((factors >= 0.5) & (factors <= 2)).all()


def test_jitter_is_cut_at_three_deviations():
    noise = Augment(jitter=0.1)(torch.zeros(5000, 3), np.random.default_rng(0))
    assert_close(noise.std(), torch.tensor(0.1), atol=0.003, rtol=0)
    assert noise.abs().max() <= 0.3 + 1e-6


def test_translation_moves_all_points_alike():
    moved = Augment(translate=0.2)(torch.zeros(5, 3), np.random.default_rng(0))
    assert_close(moved, moved[:1].expand(5, 3))
    assert 0 < moved.abs().max() <= 0.2


def test_no_augmentation_is_the_identity():
    pos = torch.randn(10, 3, dtype=torch.float64)
    assert_close(Augment()(pos, np.random.default_rng(0)), pos)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.0, 1.0)}, "scale must be 0 < low <= high"),
        ({"scale": (2.0, 1.0)}, "scale must be 0 < low <= high"),
        ({"jitter": -0.1}, "jitter must be 0 or more"),
        ({"rotate_z": float("nan")}, "rotate_z must be 0 or more"),
    ],
)
def test_augmentation_refuses_strengths_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)


def test_a_split_holds_out_the_same_share_of_every_class():
    targets = [0] * 50 + [1] * 20 + [2] * 10
    kept, held_out = stratified_split(targets, 0.1, seed=0)
    assert sorted(kept + held_out) == list(range(80))
    assert [sum(targets[i] == label for i in held_out) for label in range(3)] == [5, 2, 1]


def test_a_split_depends_on_its_seed_alone():
    targets = [0] * 50
    assert stratified_split(targets, 0.2, seed=3) == stratified_split(targets, 0.2, seed=3)
    assert stratified_split(targets, 0.2, seed=3) != stratified_split(targets, 0.2, seed=4)


def test_a_small_class_keeps_a_shape_on_both_sides_if_it_can():
    assert [len(part) for part in stratified_split([0, 0, 1], 0.01, seed=0)] == [2, 1]
    assert [len(part) for part in stratified_split([0, 0, 1], 0.99, seed=0)] == [2, 1]


@pytest.mark.parametrize("fraction", [0, 1, -0.1])
def test_a_split_needs_a_fraction(fraction):
    with pytest.raises(ValueError, match="fraction must lie between 0 and 1"):
        stratified_split([0, 1], fraction, seed=0)
