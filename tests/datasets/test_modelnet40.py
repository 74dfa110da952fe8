"""ModelNet40, from small files in its layout."""

import hashlib

import pytest
from meshes import mesh_text, zipped

from datasets import modelnet40
from datasets.download import DownloadError
from datasets.modelnet10 import CountsWarning
from datasets.modelnet40 import ModelNet40, fetch
from datasets.source import SourceError
from scripts.training.points import PointClouds
from scripts.training.reliability.errors import TrainingError

FEW = {"train": 4, "test": 2}


@pytest.fixture
def root(tmp_path):
    """Two of its classes, one with an underscore, and what a Mac leaves behind."""
    for kind in ("range_hood", "chair"):
        for number in range(1, 4):
            split = "train" if number < 3 else "test"
            path = tmp_path / "ModelNet40" / kind / split / f"{kind}_{number:04}.off"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mesh_text("chair", number))
    (tmp_path / "ModelNet40" / ".DS_Store").touch()
    (tmp_path / "ModelNet40" / "README.txt").touch()
    return tmp_path


def zip_of(root):
    return zipped(root / "ModelNet40.zip", root / "ModelNet40", "ModelNet40/")


@pytest.mark.parametrize("place", ["", "ModelNet40", "ModelNet40.zip"])
def test_folder_and_zip_give_the_same_clouds(place, root, tmp_path):
    zip_of(root)
    data = ModelNet40(root / place, expected=FEW, num_points=8, cache_dir=tmp_path / "cache")
    assert data.classes == ["chair", "range_hood"]
    assert data.names[-1] == "range_hood/train/range_hood_0002.off"
    assert data[0].pos.shape == (8, 3)


def test_another_number_of_shapes_is_a_warning(root):
    with pytest.warns(CountsWarning, match="test has 2 shapes, not the 2468 of ModelNet40"):
        ModelNet40(root, "test")


def test_what_is_not_there_is_said_with_the_way_to_fetch_it(tmp_path):
    with pytest.raises(SourceError, match=r"nor a zip; modelnet40\.fetch downloads"):
        ModelNet40(tmp_path / "nowhere")
    data = PointClouds("modelnet40", str(tmp_path / "nowhere"))
    with pytest.raises(TrainingError, match=r"--data\.download true fetches ModelNet40"):
        data.setup("fit")


def test_the_zip_is_fetched_and_its_hash_is_looked_at(root, tmp_path):
    path = zip_of(root)
    known = {"url": path.as_uri(), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    found = fetch(tmp_path / "new", **known)
    assert found.read_bytes() == path.read_bytes()
    assert fetch(tmp_path / "new", **known) == found
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(tmp_path / "other", **known | {"sha256": modelnet40.ZIP_SHA256})
    assert fetch(root, url="ftp://never") == root / "ModelNet40"


def test_a_server_that_does_not_tell_the_size_is_named(tmp_path):
    with pytest.raises(DownloadError, match="does not tell the size"):
        fetch(tmp_path, url=(tmp_path / "none.zip").as_uri())


def test_the_scripts_read_it_by_name(root):
    data = PointClouds("modelnet40", root=str(root), features="xyz,normal", num_points=8)
    with pytest.warns(CountsWarning, match="train has 4 shapes"):
        data.setup("validate")
    assert data.classes == ["chair", "range_hood"]
    assert data.val_set[0].x.shape == (8, 3)
    with pytest.raises(ValueError, match=r"data.zip names one, a\.zip"):
        PointClouds("modelnet40", zip="a.zip", download=True)
