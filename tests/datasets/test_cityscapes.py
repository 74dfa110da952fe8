import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import CAR, PLATE, ROAD, SKY, write_scene
from PIL import Image

from datasets.cityscapes import CLASSES, COLORS, IGNORED, LABELS, Cityscapes, CountsWarning
from datasets.image_files import ImageFileError


@pytest.fixture
def root(tmp_path) -> Path:
    for number, city in enumerate(("ulm", "aachen", "ulm", "köln")):
        write_scene(tmp_path, "train", city, number, np.array([[ROAD, SKY, CAR], [0, PLATE, 4]]))
    return tmp_path


def open_train(root: Path) -> Cityscapes:
    return Cityscapes(root, "train", check_counts=False)


def test_there_are_the_19_classes_of_the_benchmark():
    assert CLASSES[0] == "road"
    assert CLASSES[13] == "car"
    assert CLASSES[18] == "bicycle"
    assert len(CLASSES) == len(COLORS) == len(set(COLORS)) == 19
    assert sorted(set(LABELS.values())) == [*range(19), IGNORED]
    assert sum(label != IGNORED for label in LABELS.values()) == 19


def test_numbers_in_files_become_classes_and_the_rest_is_ignored(root):
    mask = open_train(root)[0].mask
    assert mask.dtype == torch.int64
    assert mask.tolist() == [[0, 10, 13], [IGNORED] * 3]


def test_order_is_by_city_and_name_whatever_the_file_system_says(root):
    scenes = open_train(root)
    assert [name.split("/")[1][:9] for name in scenes.names] == [
        *("aachen_00", "köln_0000", "ulm_00000", "ulm_00000")
    ]
    assert scenes.names[2:] == ["ulm/ulm_000000_000019", "ulm/ulm_000002_000019"]
    assert [scenes[i].image[0, 0, 0].item() for i in range(4)] == [1, 3, 0, 2]
    assert scenes[5, 1].index == 1  # as a training loader asks: epoch, index


def test_other_files_are_left_alone(root):
    (root / "leftImg8bit/train/.DS_Store").write_text("x")
    (root / "leftImg8bit/train/ulm/Thumbs.db").write_text("x")
    (root / "gtFine/train/ulm/ulm_000000_000019_gtFine_color.png").write_text("x")
    assert len(open_train(root)) == 4


@pytest.mark.parametrize("folder", ["leftImg8bit", "gtFine"])
def test_missing_folder_is_named_with_what_is_expected(root, folder):
    (root / folder).rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"no folder {folder}/train; expected leftImg8bit"):
        open_train(root)


@pytest.mark.parametrize(("folder", "kind"), [("gtFine", "mask"), ("leftImg8bit", "image")])
def test_missing_file_is_named_and_counted(root, folder, kind):
    missing = next((root / folder / "train/aachen").iterdir())
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 4 scenes have no {kind}") as error:
        open_train(root)
    assert str(missing) in str(error.value)


@pytest.mark.fault(28)
def test_empty_split_is_an_error(root):
    for folder in ("leftImg8bit", "gtFine"):
        (root / folder / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="val: no CITY"):
        Cityscapes(root, "val")


def test_unknown_split_is_an_error(root):
    with pytest.raises(ValueError, match="train, val, test, got 'tset'"):
        Cityscapes(root, "tset")


@pytest.mark.fault(38, 39)
def test_number_that_is_no_label_is_an_error_with_its_file(root):
    mask = write_scene(root, "train", "ulm", 9, np.array([[ROAD, 77]]))
    with pytest.raises(ImageFileError, match="77 is no label; labels are 0, 1, 2") as error:
        open_train(root)[4]
    assert str(mask) in str(error.value)


def test_mask_of_another_size_is_an_error(root):
    mask = next((root / "gtFine/train/aachen").iterdir())
    Image.new("L", (5, 4)).save(mask)
    with pytest.raises(ImageFileError, match="the mask has 5 x 4 pixels, the image 3 x 2"):
        open_train(root)[0]


@pytest.mark.fault(39)
@pytest.mark.parametrize("damage", ["cut", "text", "color"])
def test_damaged_mask_is_named(root, damage):
    mask = next((root / "gtFine/train/aachen").iterdir())
    if damage == "cut":
        mask.write_bytes(mask.read_bytes()[:50])
    elif damage == "text":
        mask.write_text("<html>404</html>")
    else:
        Image.new("RGB", (3, 2)).save(mask)
    with pytest.raises(ImageFileError) as error:
        open_train(root)[0]
    assert str(mask) in str(error.value)


@pytest.mark.fault(29)
def test_other_number_of_images_than_published_is_warned_about(root):
    with pytest.warns(CountsWarning, match="train has 4 images, not 2975"):
        Cityscapes(root, "train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repr(open_train(root)) == "Cityscapes(train, 4 images, 19 classes)"
