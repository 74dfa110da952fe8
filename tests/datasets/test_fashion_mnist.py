import gzip

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from datasets import fashion_mnist as module
from datasets.fashion_mnist import FILES, MEAN, STD, fashion_mnist

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
LABELS = np.array([9, 0, 3, 3, 5, 1], np.uint8)


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return header + array.tobytes()


@pytest.fixture
def little(tmp_path, monkeypatch):
    """Six images in place of 70,000, packed, in the folder that is looked into by default."""
    monkeypatch.setattr(module, "SPLITS", {"train": ("train", 6), "test": ("t10k", 6)})
    monkeypatch.setattr(module, "FOLDER", tmp_path / "data")
    monkeypatch.setattr(module, "DEBIAN", tmp_path / "debian")
    (tmp_path / "debian").mkdir()
    for name in FILES:
        content = idx(IMAGES if "images" in name else LABELS)
        (tmp_path / "debian" / name).write_bytes(gzip.compress(content))
    return tmp_path / "debian"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_are_read_packed_or_not(little, split, packed):
    if not packed:
        for path in list(little.iterdir()):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    data = fashion_mnist(None, split, size=28)
    assert [data.classes[target] for target in data.targets[:2]] == ["Ankle boot", "T-shirt/top"]
    assert data.names[5] == f"fashion_mnist/{split}/00005"
    expected = (torch.from_numpy(IMAGES[2]).float() / 255 - MEAN) / STD
    assert_close(data[2].image, expected.expand(3, -1, -1))


def test_images_are_scaled(little):
    assert fashion_mnist(little, "test", size=32)[0].image.shape == (3, 32, 32)


def test_files_that_are_nowhere_are_told_with_what_to_do(little):
    (little / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"no Fashion-MNIST; download it .* dataset-fashion-mnist"):
        fashion_mnist(None, "test")
    with pytest.raises(ValueError, match="elsewhere: no Fashion-MNIST"):
        fashion_mnist("elsewhere", "test")
    with pytest.raises(ValueError, match="split must be one of train, test, got 'val'"):
        fashion_mnist(None, "val")


@pytest.mark.fault(39)
@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_damaged_files_are_named(little, damage):
    path = little / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-20:]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        content = gzip.compress(idx(IMAGES[:5]))
    path.write_bytes(content)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        fashion_mnist(None, "train")


def test_published_files_are_fetched_and_checked(little, tmp_path, monkeypatch):
    fetched = []

    def fetch(url, path, *, size, sha256):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((little / path.name).read_bytes())
        fetched.append((url, size, sha256))

    monkeypatch.setattr(module, "download_file", fetch)
    fashion_mnist(tmp_path / "new", "test", download=True)
    assert fetched == [(f"{module.ADDRESS}/{name}", *known) for name, known in FILES.items()]
    fashion_mnist(tmp_path / "new", "test", download=True)
    assert len(fetched) == len(FILES)
