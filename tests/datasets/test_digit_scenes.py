from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import digit_scenes
from datasets.cityscapes import SPLITS
from datasets.digit_scenes import (
    CLASSES,
    COLORS,
    DigitScenes,
    digits_of,
    make_scene,
    write_digit_scenes,
)
from datasets.mesh_cache import CacheWarning

FEW = {"size": 48, "num_train": 2, "num_val": 1, "num_test": 1}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_digit_scenes(tmp_path_factory.mktemp("data"), **FEW)


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_layout_is_that_of_cityscapes(written):
    assert sorted(contents(written)) == [
        *(
            f"{folder}/{split}/digits/digits_{number:06}_000000_{ending}.png"
            for folder, ending in (("gtFine", "gtFine_labelIds"), ("leftImg8bit", "leftImg8bit"))
            for split, count in (("test", 1), ("train", 2), ("val", 1))
            for number in range(count)
        ),
        "manifest.json",
    ]


def test_the_same_seed_makes_the_same_bytes_and_another_one_others(written, tmp_path):
    same = contents(write_digit_scenes(tmp_path / "same", **FEW))
    other = contents(write_digit_scenes(tmp_path / "other", seed=1, **FEW))
    assert same == contents(written)
    assert not any(other[name] == content for name, content in same.items())


def test_what_is_written_is_read_as_it_was_made(written):
    scenes = DigitScenes(written.parent, "train", **FEW)
    image, mask = make_scene("train", 0, 1, 48)
    assert scenes[1].image.permute(1, 2, 0).numpy().tolist() == image.tolist()
    assert torch.equal(scenes[1].mask, torch.from_numpy(mask).long())
    assert scenes.classes == CLASSES
    assert len(set(COLORS)) == len(CLASSES) == 11


def test_no_digit_is_in_two_splits_and_all_are_used():
    parts = [digits_of(split, seed=0) for split in SPLITS]
    assert [len(targets) for _, targets in parts] == [3500, 500, 1000]
    assert all((np.bincount(targets) == len(targets) // 10).all() for _, targets in parts)
    digits = np.concatenate([pixels for pixels, _ in parts]).reshape(5000, -1)
    assert len(np.unique(digits, axis=0)) == 5000


def test_mask_is_exactly_where_the_digit_was_painted(monkeypatch):
    """With flat colors and no noise, a pixel has the ink's color just where the mask says so."""
    monkeypatch.setattr(digit_scenes, "texture", lambda size, _: np.zeros((size, size, 3)))
    monkeypatch.setattr(digit_scenes, "clutter", lambda canvas, _: canvas)
    monkeypatch.setattr(digit_scenes, "ink", lambda *_: np.ones(3))
    monkeypatch.setattr(digit_scenes, "DIGITS", (1, 1))
    image, mask = make_scene("test", 0, 0, 64)
    assert len(np.unique(mask)) == 2
    np.testing.assert_array_equal(image.mean(axis=2)[mask > 0] > 110, True)
    np.testing.assert_array_equal(image.mean(axis=2)[mask == 0] < 145, True)


def test_enough_is_seen_of_every_digit_that_lies_below_others():
    glyph = np.ones((8, 8))
    places = np.zeros((16, 16), int)
    places[:8] = 1
    generator = np.random.default_rng(0)
    alpha = digit_scenes._place(glyph, places, [0, 128], generator)
    assert alpha is not None
    assert (places[alpha < 0.5] == 1).sum() >= digit_scenes.VISIBLE * 128
    assert digit_scenes._place(np.ones((16, 16)), places, [0, 128], generator) is None


def test_scenes_hold_several_digits_of_all_classes():
    masks = [make_scene("train", 0, number, 64)[1] for number in range(40)]
    assert len(np.unique(np.stack(masks))) == 11
    counts = [len(np.unique(mask)) - 1 for mask in masks]
    assert np.mean(counts) > 1.5
    assert 0.05 < np.mean(np.stack(masks) > 0) < 0.4


@pytest.mark.parametrize(
    ("options", "version", "message"),
    [({"seed": 3}, None, "seed"), ({"num_val": 2}, None, "counts"), ({}, 99, "generator")],
)
def test_other_arguments_or_another_generator_write_anew(
    tmp_path, options, version, message, monkeypatch
):
    write_digit_scenes(tmp_path, **FEW)
    monkeypatch.setattr(digit_scenes, "VERSION", version or digit_scenes.VERSION)
    with pytest.warns(CacheWarning, match=f"other {message};"):
        write_digit_scenes(tmp_path, **FEW | options)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"size": 31}, {"num_val": 0}])
def test_wrong_arguments_are_told(tmp_path, wrong):
    with pytest.raises(ValueError, match="seed must be 0 or more, size at least 32"):
        write_digit_scenes(tmp_path, **{**FEW, **wrong})
