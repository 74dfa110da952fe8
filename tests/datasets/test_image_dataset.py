import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import CLASSES, write_images
from PIL import Image
from torch.testing import assert_close
from torchvision import datasets as torchvision_datasets

from datasets import mnist5k as mnist
from datasets.cifar10 import MEAN, STD, cifar10
from datasets.image_dataset import ImageAugment, ImageDataset, ImageFormat
from datasets.image_files import ImageFileError, read_image
from datasets.image_folder import image_folder, imagenet
from datasets.mnist5k import mnist5k
from datasets.splits import nested_subset

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def noise(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, height, width)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def dataset(augment=None, seed=0, format=None, images=None) -> ImageDataset:
    images = noise(4, 16, 16) if images is None else images
    format = format or ImageFormat(16, 16, **PLAIN)
    names = list("abcd")
    return ImageDataset(
        images, [0, 1, 0, 1], names, "xy", format=format, augment=augment, seed=seed
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_images(root, "train", 4)
    return write_images(root, "test", 2)


# items


def test_an_image_is_scaled_cut_in_the_middle_and_normalized():
    format = ImageFormat(4, 6, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    image = noise(1, 6, 10)[0]
    expected = image[:, 1:5, 3:7] / 255 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    expected /= torch.tensor([0.5, 0.25, 1.0])[:, None, None]
    assert_close(dataset(format=format, images=[image] * 4)[1].image, expected)


def test_random_changes_depend_on_seed_epoch_and_index_only():
    augment = ImageAugment(flip=True, crop_padding=4)
    data, again = dataset(augment), dataset(augment)
    first = {key: data[key].image for key in [(0, 0), (1, 0), (2, 0), (0, 1)]}
    torch.manual_seed(5)
    for key in reversed(first):
        assert torch.equal(again[key].image, first[key])
    assert torch.equal(data[0].image, first[0, 0])
    assert not torch.equal(first[0, 0], first[1, 0])
    assert not torch.equal(dataset(augment, seed=1)[0, 0].image, first[0, 0])


def test_random_changes_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    dataset(ImageAugment(flip=True, crop_padding=2, resized_crop=(0.2, 1)))[3, 1]
    assert torch.equal(before, torch.get_rng_state())


def test_without_changes_every_epoch_has_the_same_images():
    data = dataset()
    assert torch.equal(data[7, 2].image, data[2].image)
    assert_close(data[2].image, data.images[2] / 255)


def test_flips_mirror_about_half_of_the_images():
    data, plain = dataset(ImageAugment(flip=True)), dataset()[0].image
    images = [data[epoch, 0].image for epoch in range(40)]
    mirrored = sum(torch.equal(image, plain.flip(-1)) for image in images)
    assert mirrored + sum(torch.equal(image, plain) for image in images) == 40
    assert 10 < mirrored < 30


def test_padded_crops_are_shifts_with_black_at_the_border():
    data, plain = dataset(ImageAugment(crop_padding=2)), dataset()[0].image
    padded = torch.nn.functional.pad(plain, (2, 2, 2, 2))
    shifts = [padded[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    seen = set()
    for epoch in range(30):
        image = data[epoch, 0].image
        seen |= {place for place, shift in enumerate(shifts) if torch.equal(image, shift)}
    assert len(seen) > 10


def test_random_resized_crops_have_the_size_of_the_network():
    format = ImageFormat(8, 9, **PLAIN)
    data = dataset(ImageAugment(resized_crop=(0.1, 0.5)), format=format, images=noise(4, 20, 30))
    assert data[0, 0].image.shape == (3, 8, 8)


def test_a_picture_is_what_the_network_sees_in_bytes():
    data = dataset(format=ImageFormat(8, 10, **PLAIN), images=noise(4, 10, 12))
    picture = data.picture(1)
    assert (picture.shape, picture.dtype) == ((8, 8, 3), np.uint8)
    assert_close(torch.from_numpy(picture).permute(2, 0, 1) / 255, data[1].image)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ImageFormat(0, 4, **PLAIN), "size must be from 1"),
        (lambda: ImageFormat(8, 4, **PLAIN), "from 1 to resize, which is 4; got 8"),
        (lambda: ImageFormat(4, 4, (0, 0, 0), (1, 0, 1)), "std must be above 0"),
        (lambda: ImageAugment(crop_padding=-1), "crop_padding must be 0 or more"),
        (lambda: ImageAugment(resized_crop=(0.5, 2)), "resized_crop must be"),
        (lambda: dataset(seed=-1), "seed must be 0 or more"),
        (lambda: mnist5k("val"), "split must be one of train, test"),
        (lambda: nested_subset([0, 1], 3, 0), "count must be from 1 to 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


# mnist5k


def test_mnist5k_is_4000_and_1000_digits_with_as_many_of_each_class():
    train, test = mnist5k("train"), mnist5k("test")
    assert np.bincount(train.targets).tolist() == [400] * 10
    assert np.bincount(test.targets).tolist() == [100] * 10
    assert not set(train.names) & set(test.names)
    digits, targets = mnist.load_digits()
    row = int(train.names[123].removeprefix("mnist5k/"))
    assert train.targets[123] == targets[row]
    unscaled = mnist5k("train", size=28)
    assert_close(
        unscaled[123].image, ((digits[row] / 255 - mnist.MEAN) / mnist.STD).expand(3, -1, -1)
    )
    assert train[0].image.shape == (3, 32, 32)


def test_the_division_of_mnist5k_is_pinned():
    names = "\n".join([*mnist5k("train").names, *mnist5k("test").names])
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "4b7b14372da6c7c1"


@pytest.mark.parametrize("counts", [(200, 1000), (7, 23), (1, 2)])
def test_fewer_training_images_are_part_of_more_and_even_over_the_classes(counts):
    targets = mnist5k("train").targets
    few, more = (nested_subset(targets, count, seed=0) for count in counts)
    assert set(few) < set(more)
    for chosen, count in zip((few, more), counts, strict=True):
        assert len(set(chosen)) == count
        per_class = np.bincount(np.array(targets)[chosen], minlength=10)
        assert per_class.max() - per_class.min() <= 1


# CIFAR-10


def pickled(path: Path, content: dict) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def little_cifar(tmp_path, monkeypatch) -> Path:
    reader, base = torchvision_datasets.CIFAR10, tmp_path / "cifar-10-batches-py"
    pixels = np.arange(2 * 3072, dtype=np.int64).reshape(2, 3072).astype(np.uint8)
    for name, file in (("train_list", "data_batch_1"), ("test_list", "test_batch")):
        digest = pickled(base / file, {"data": pixels, "labels": [3, 0]})
        monkeypatch.setattr(reader, name, [[file, digest]])
    names = ["plane", "car", "bird", "cat"]
    digest = pickled(base / "batches.meta", {"label_names": names})
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": digest})
    return tmp_path


def test_cifar10_is_read_by_torchvision(little_cifar):
    data = cifar10(little_cifar, "test")
    assert data.classes[data[0].target] == "cat"
    assert data.names == ["cifar10/test/00000", "cifar10/test/00001"]
    bytes_ = (torch.arange(3072) % 256).reshape(3, 32, 32) / 255
    expected = (bytes_ - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert_close(data[0].image, expected)


def test_cifar10_that_is_missing_or_damaged_is_an_error_with_its_folder(little_cifar, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.*missing or damaged; download=True"):
        cifar10(tmp_path / "nowhere", "train")
    batch = little_cifar / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(ValueError, match="missing or damaged"):
        cifar10(little_cifar, "test")


@pytest.mark.fault(38)
def test_target_that_is_no_class_is_refused():
    format = ImageFormat(4, 4, mean=(0, 0, 0), std=(1, 1, 1))
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"targets must be 0 to 1, got \[-1, 2\]"):
        ImageDataset(images, [0, 2, -1], "abc", ["cat", "dog"], format=format)


# folders


def test_a_folder_of_class_folders_is_a_data_set(folder):
    data = image_folder(folder, "train", size=8)
    assert data.classes == list(CLASSES)
    assert data.targets == [0] * 4 + [1] * 4 + [2] * 4
    sample = data[5]
    assert sample.name == "train/green/01.png"
    assert sample.image.shape == (3, 8, 8)
    assert sample.image.mean(dim=(1, 2)).argmax() == 1


@pytest.mark.fault(39)
@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "I;16", "RGBA", "1", "LA"])
def test_images_of_every_kind_become_rgb(mode, folder, tmp_path):
    write_images(tmp_path, "train", 1)
    path = tmp_path / "train" / "red" / ("00.tiff" if mode == "CMYK" else "00.png")
    gray = Image.fromarray(np.full((12, 12), 128, np.uint8))
    if mode == "I;16":
        image = Image.fromarray(np.full((12, 12), 128 * 257, np.uint16))
    elif mode == "CMYK":
        image = gray.convert("RGB").convert(mode)
        (tmp_path / "train" / "red" / "00.png").unlink()
    else:
        image = gray.convert(mode)
    image.save(path)
    data = image_folder(tmp_path, "train", size=8)
    pixels = data.images[2]
    assert pixels.shape == (3, 12, 12)
    if mode != "1":
        assert_close(pixels, torch.full_like(pixels, 128), atol=1, rtol=0)


@pytest.mark.parametrize(
    ("pixels", "read"),
    [
        (np.full((4, 4), 0.5, np.float32), None),
        (np.full((4, 4), 128, np.int32), None),
        (np.full((4, 4), 128 * 257, np.uint16), 128),
        (np.full((4, 4), 128, np.uint8), 128),
    ],
    ids=["float32", "int32", "uint16", "uint8"],
)
def test_tiff_of_numbers_without_a_known_range_is_refused(pixels, read, tmp_path):
    path = tmp_path / "a.tiff"
    Image.fromarray(pixels).save(path)
    if read is None:
        with pytest.raises(ImageFileError, match=r"a\.tiff: has numbers of 32 bits, .*8 or 16"):
            read_image(path)
    else:
        assert read_image(path).getpixel((0, 0)) == (read,) * 3


def test_gray_image_of_16_bits_in_the_ppm_format_is_scaled(tmp_path):
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 1 1 65535 " + bytes((128, 0)))
    assert read_image(path).getpixel((0, 0)) == (128,) * 3


@pytest.mark.parametrize("kind", ["gif", "avif", "jp2", "JPG", "tif", "webp", "tga"])
def test_folders_take_every_kind_of_file_that_can_be_read(kind, tmp_path):
    write_images(tmp_path, "train", 1)
    Image.new("RGB", (12, 12), (128, 128, 128)).save(tmp_path / "train" / "red" / f"01.{kind}")
    data = image_folder(tmp_path, "train", size=8)
    assert data.names[-1] == f"train/red/01.{kind}"
    assert_close(data.images[3], torch.full((3, 12, 12), 128, dtype=torch.uint8), atol=3, rtol=0)


def test_hidden_folders_and_files_are_left_out_and_others_are_counted(tmp_path, caplog):
    write_images(tmp_path, "train", 1)
    red = tmp_path / "train" / "red"
    for hidden in (tmp_path / ".git", tmp_path / "train" / ".ipynb_checkpoints", red / ".trash"):
        hidden.mkdir()
        (hidden / "00.png").write_bytes((red / "00.png").read_bytes())
    for name in ("._00.png", ".DS_Store", "notes.txt", "more.txt", "film.mpg"):
        (red / name).touch()
    data = image_folder(tmp_path, "train", size=8)
    assert data.classes == list(CLASSES)
    assert len(data) == 3
    assert "no images by their names: 2 .txt, 1 .mpg" in caplog.text


@pytest.mark.fault(39)
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_file_that_is_no_image_is_named(damage, kind, tmp_path):
    write_images(tmp_path, "train", 1)
    path = tmp_path / "train" / "red" / f"00.{kind}"
    with Image.open(path.with_suffix(".png")) as image:
        image.load()
    path.with_suffix(".png").unlink()
    image.save(path)
    content = {"cut": path.read_bytes()[:-60], "empty": b"", "text": b"<html>not found"}
    path.write_bytes(content[damage])
    with pytest.raises(ImageFileError, match=rf"red/00\.{kind}"):
        image_folder(tmp_path, "train", size=8)[2]


@pytest.mark.fault(28)
def test_missing_extra_and_empty_class_folders_are_named(tmp_path):
    write_images(tmp_path, "train", 1)
    with pytest.raises(ValueError, match="no such folder"):
        image_folder(tmp_path, "test")
    write_images(tmp_path, "test", 1)
    (tmp_path / "test" / "red").rename(tmp_path / "test" / "rot")
    with pytest.raises(
        ValueError, match=r"missing red; unknown rot; expected are blue, green, red"
    ):
        image_folder(tmp_path, "test")
    (tmp_path / "train" / "red" / "00.png").unlink()
    with pytest.raises(ValueError, match=r"train: .*red"):
        image_folder(tmp_path, "train")
    with pytest.raises(ValueError, match="no class folders"):
        image_folder(tmp_path, "train/red")


def test_imagenet_has_the_names_of_its_thousand_classes(tmp_path, folder):
    with pytest.raises(ValueError, match="has 3 class folders; ImageNet has 1000"):
        imagenet(folder, "train")
    for number in range(1000):
        (tmp_path / "val" / f"n{number:08}").mkdir(parents=True)
        (tmp_path / "val" / f"n{number:08}" / "a.JPEG").touch()
    classes = imagenet(tmp_path, "val").classes
    assert classes[0] == "n00000000 tench"
    assert len(set(classes)) == 1000
