"""ScanObjectNN, from small files in its layout."""

from pathlib import Path

import numpy as np
import pytest
from torch.testing import assert_close

from datasets.draws import Draws
from datasets.scanobjectnn import CLASSES, PREFIXES, VARIANTS, ScanObjectNN
from datasets.source import SourceError
from scripts.training.points import PointClouds

h5py = pytest.importorskip("h5py")


def write(folder: Path, split: str, labels, variant: str = "_augmentedrot_scale75") -> np.ndarray:
    """Write one cloud of 40 points for each label."""
    points = np.random.default_rng(len(labels)).random((len(labels), 40, 3), np.float32)
    with h5py.File(folder / f"{PREFIXES[split]}_objectdataset{variant}.h5", "w") as file:
        file["data"], file["label"] = points, np.array(labels, np.uint8)
    return points


@pytest.fixture
def root(tmp_path):
    for split, labels in (("train", [0, 0, 1, 14, 14, 14]), ("test", [9, 14])):
        write(tmp_path, split, labels)
    return tmp_path


def test_clouds_have_their_labels_and_are_turned_to_have_z_up(root):
    data = ScanObjectNN(root, "test", num_points=40)
    assert [data.classes[label] for label in data.targets] == ["table", "toilet"]
    assert data.names == ["table/test/00000", "toilet/test/00001"]
    height = write(root, "test", [9, 14])[1][:, 1]
    found = data[1].pos[:, 2].numpy()
    scaled = (np.sort(height) - height.min()) / np.ptp(height)
    assert_close((np.sort(found) - found.min()) / np.ptp(found), scaled, rtol=0, atol=1e-5)
    assert data[1].pos.norm(dim=1).max() == pytest.approx(1)


def test_training_draws_anew_and_evaluation_does_not(root):
    train = ScanObjectNN(root, num_points=8, seed=1)
    assert not train[0, 2].pos.equal(train[1, 2].pos)
    fixed = ScanObjectNN(root, num_points=8, draws=Draws(votes=3))
    assert fixed[1].pos.shape == (24, 3)
    assert fixed[1].pos.equal(fixed[1].pos)


def test_the_variant_names_the_file(root):
    write(root, "test", [3], variant="")
    assert len(ScanObjectNN(root, "test", variant="")) == 1
    assert len(ScanObjectNN(root, "test")) == 2
    with pytest.raises(SourceError, match=r"test_objectdataset_augmentedrot\.h5: cannot be read"):
        ScanObjectNN(root, "test", variant="augmentedrot")
    with pytest.raises(ValueError, match="variant must be one of augmentedrot_scale75"):
        ScanObjectNN(root, "test", variant="hard")
    assert len(CLASSES) == 15
    assert len(set(VARIANTS)) == 5


def test_files_that_hold_something_else_are_refused(root):
    path = root / "test_objectdataset_augmentedrot_scale75.h5"
    write(root, "test", [0, 15])
    with pytest.raises(SourceError, match="labels must be from 0 to 14, got 0 to 15"):
        ScanObjectNN(root, "test")
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = np.zeros((2, 4, 2)), np.zeros(2)
    with pytest.raises(SourceError, match=r"got \(2, 4, 2\) and 2 labels"):
        ScanObjectNN(root, "test")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SourceError, match="cannot be read"):
        ScanObjectNN(root, "test")


def test_training_scripts_open_it_by_name(root):
    data = PointClouds(name="scanobjectnn", root=str(root), num_points=8, val_fraction=0.4)
    data.setup("fit")
    assert len(data.train_indices) + len(data.val_indices) == 6
    data.setup("test")
    assert data.test_set[0].pos.shape == (32 * 8, 3)
    assert len(data.about_test()["shapes"]) == 64
    with pytest.raises(ValueError, match="variant is for scanobjectnn, not for shapes10"):
        PointClouds(variant="augmentedrot")
