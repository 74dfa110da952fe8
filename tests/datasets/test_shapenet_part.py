"""ShapeNet Part, from small files in its layout."""

import numpy as np
import pytest
from shapenet import LISTED, NUM_POINTS, write_shapenet
from torch.testing import assert_close
from torch_geometric.datasets import ShapeNet

from datasets.shapenet_part import KINDS, PARTS, ShapeNetPart
from datasets.source import SourceError


@pytest.fixture
def root(tmp_path):
    return write_shapenet(tmp_path / "raw")


def test_kinds_and_parts_are_numbered_as_in_pyg():
    assert {kind.capitalize(): synset for kind, (synset, _) in KINDS.items()} == (
        ShapeNet.category_ids
    )
    numbers = {
        kind.capitalize(): [n for n, part in enumerate(PARTS) if part.startswith(f"{kind}-")]
        for kind in KINDS
    }
    assert numbers == ShapeNet.seg_classes


@pytest.mark.parametrize("place", [".", ".."])
def test_the_authors_lists_make_the_splits(place, root):
    data = ShapeNetPart(root / place, "trainval", num_points=8)
    assert data.names == ["chair/train/a", "chair/train/b", "mug/train/c", "mug/val/d"]
    assert data.held_out == [3]
    assert [list(KINDS)[target] for target in data.targets] == ["chair", "chair", "mug", "mug"]
    assert [len(ShapeNetPart(root / place, split)) for split in LISTED] == [3, 1, 1]


def test_points_keep_their_part_and_normal_and_have_z_up(root):
    data = ShapeNetPart(root, "test", num_points=NUM_POINTS, features=("normal",))
    item = data[0]
    assert item.x.shape == item.pos.shape == (NUM_POINTS, 3)
    names = [PARTS[part] for part in item.part]
    low = min(z for z, name in zip(item.pos[:, 2], names, strict=True) if name == "airplane-3")
    assert all(z < low for z, n in zip(item.pos[:, 2], names, strict=True) if n == "airplane-0")
    table = np.loadtxt(root / "02691156" / "e.txt")
    stored = np.sort(table[:, 4])  # y of the normals
    assert_close(np.sort(item.x[:, 2].numpy()).astype(float), stored, atol=1e-5, rtol=0)
    assert ShapeNetPart(root, "test")[0].x is None


def test_training_draws_anew_and_a_test_does_not(root):
    train, test = (ShapeNetPart(root, split, num_points=8) for split in ("train", "test"))
    assert not train[0, 0].pos.equal(train[1, 0].pos)
    assert test[0, 0].pos.equal(test[1, 0].pos)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("03797390/c.txt", "0 0 0 1\n", r"c\.txt: expected finite lines of 7 numbers: x y z nx"),
        ("03797390/c.txt", "a\n", r"c\.txt: expected lines of 7 numbers"),
        ("03797390/c.txt", "0 0 0 0 0 1 50\n", r"c\.txt: parts must be from 0 to 49"),
        ("03797390/c.txt", None, r"c\.txt: a list names it, but No such file"),
        ("train_test_split/shuffled_train_file_list.json", "[", "cannot be read as a list of"),
        ("train_test_split/shuffled_train_file_list.json", '["x/1/a"]', "cannot be read as a list"),
    ],
)
def test_what_is_missing_or_wrong_is_named(name, content, message, root):
    (root / name).unlink() if content is None else (root / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        ShapeNetPart(root, "train")


def test_what_is_out_of_range_is_said(root, tmp_path):
    with pytest.raises(SourceError, match="no folder train_test_split in it"):
        ShapeNetPart(tmp_path / "none")
    with pytest.raises(ValueError, match="split must be one of train, val, test, trainval"):
        ShapeNetPart(root, "valid")
    with pytest.raises(ValueError, match="features can be normal, got color"):
        ShapeNetPart(root, features=("color",))
