import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from meshes import FACES, fill, load, mesh_text
from torch.testing import assert_close
from torch_geometric.loader import DataLoader

from datasets.augment import Augment
from datasets.mesh_cache import CacheWarning
from datasets.mesh_dataset import EmptyClassWarning
from datasets.modelnet10 import CLASSES, COUNTS, CountsWarning
from datasets.off import OFFError, OFFWarning, format_off
from datasets.source import SourceError


def test_an_item_has_points_label_name_and_index(root):
    item = load(root)[3]
    assert item.pos.dtype == torch.float32
    assert item.pos.shape == (32, 3)
    assert_close(item.y, torch.tensor([1]))
    assert (item.name, item.index) == ("bed/train/bed_0002.off", 3)


def test_points_lie_on_the_mesh_up_to_shift_and_scale(root):
    pos = load(root, "test", num_points=500)[0].pos.double()  # a tetrahedron of height 1.3
    plane = np.array([1, 1, 1 / 1.3])  # its slanted face is plane @ p == 1, no p has more
    outward = torch.from_numpy(plane / np.linalg.norm(plane))
    walls = torch.cat([pos, -(pos @ outward)[:, None]], dim=1)
    near = walls - walls.min(dim=0).values < 1e-2
    assert near.any(dim=1).all()  # each point is on one of the four faces


def test_a_cloud_has_mean_0_and_radius_1(root):
    pos = load(root, num_points=100)[0].pos
    assert_close(pos.mean(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
    assert_close(pos.norm(dim=1).max(), torch.tensor(1.0))


def test_names_are_sorted_by_class_and_file(root):
    data = load(root)
    assert data.classes == sorted(CLASSES)
    assert data.names == sorted(data.names)
    assert data.targets == [label for label in range(10) for _ in range(2)]
    assert (len(data), data.split) == (20, "train")


def test_an_index_is_not_shifted_in_a_batch(root):
    batch = next(iter(DataLoader(load(root), batch_size=4)))
    assert batch.index.tolist() == [0, 1, 2, 3]  # PyG adds node counts to names with "index"
    assert batch.y.tolist() == [0, 0, 1, 1]


def test_training_points_depend_on_seed_epoch_and_index_only(root):
    a, b = load(root), load(root)
    b[0, 1], b[7, 2]
    assert_close(a[3, 5].pos, b[3, 5].pos, atol=0, rtol=0)
    for other in (a[4, 5], a[3, 4], load(root, seed=1)[3, 5]):
        assert not torch.equal(a[3, 5].pos, other.pos)


def test_an_index_alone_is_epoch_0(root):
    data = load(root)
    assert_close(data[5].pos, data[0, 5].pos, atol=0, rtol=0)


def test_test_points_are_the_same_in_every_epoch(root):
    data = load(root, "test")
    assert_close(data[9, 5].pos, data[5].pos, atol=0, rtol=0)


def test_workers_change_nothing(root):
    data = load(root, augment=Augment(rotate_z=180, jitter=0.01))
    order = [(2, index) for index in (4, 0, 7, 3)]
    alone, helped = (
        [item.pos for item in DataLoader(data, sampler=order, batch_size=1, num_workers=count)]
        for count in (0, 2)
    )
    assert_close(helped, alone, atol=0, rtol=0)


def test_a_pickled_data_set_maps_its_arrays_anew(root):
    data = load(root)
    text = pickle.dumps(data)
    assert len(text) < 10_000
    assert_close(pickle.loads(text)[1, 2].pos, data[1, 2].pos, atol=0, rtol=0)


@pytest.mark.parametrize("index", [20, -21])
def test_an_index_out_of_range_is_an_error(root, index):
    with pytest.raises(IndexError, match=f"index {index} is out of range for 20 shapes"):
        load(root)[index]


def test_iteration_ends(root):
    assert len(list(load(root, "test"))) == 10


def test_repr_says_what_it_is(root):
    assert repr(load(root)) == "ModelNet10(train, 20 shapes of 10 classes, 32 points)"


@pytest.mark.fault(22)
@pytest.mark.parametrize("scale", [1e-30, 1e11])
def test_a_mesh_in_any_unit_gives_the_same_points(root, scale):
    path = root / "ModelNet10/bed/test/bed_0003.off"
    plain = load(root, "test")[1].pos
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 2.3]]) * scale
    path.write_bytes(format_off(points, FACES))
    with pytest.warns(CacheWarning):
        pos = load(root, "test")[1].pos
    assert_close(pos, plain, atol=1e-6, rtol=0)


def test_stray_vertices_do_not_move_the_mesh(root):
    path = root / "ModelNet10/bed/test/bed_0003.off"
    plain = load(root, "test")[1].pos
    text = path.read_bytes().replace(b"4 4 0\n", b"5 4 0\n").replace(b"\n3 ", b"\n1e30 0 0\n3 ", 1)
    path.write_bytes(text)
    with pytest.warns(CacheWarning):
        assert_close(load(root, "test")[1].pos, plain)


def test_the_folder_itself_is_a_root_too(root):
    assert load(root / "ModelNet10").names == load(root).names


def test_a_source_may_be_elsewhere(root, tmp_path):
    data = load(tmp_path / "other", source=root)
    assert len(data) == 20
    assert (tmp_path / "other/.mesh-cache/modelnet10-train").is_dir()


def test_the_cache_may_be_elsewhere(root, tmp_path):
    load(root, cache_dir=tmp_path / "cache")
    assert (tmp_path / "cache/modelnet10-train").is_dir()
    assert not (root / ".mesh-cache").exists()


@pytest.mark.fault(28)
def test_a_missing_class_folder_is_an_error(root):
    shutil.rmtree(root / "ModelNet10/sofa")
    with pytest.raises(SourceError, match=r"folders missing: sofa; expected are bathtub, bed"):
        load(root)


@pytest.mark.fault(28)
def test_a_folder_that_is_no_class_is_an_error(root):
    (root / "ModelNet10/lamp").mkdir()
    with pytest.raises(SourceError, match=r"no class: lamp; expected are bathtub, bed"):
        load(root)


def test_hidden_files_and_other_documents_are_no_matter(root):
    (root / "ModelNet10/.DS_Store").touch()
    (root / "ModelNet10/README.txt").touch()
    (root / "ModelNet10/bed/train/._bed_0001.off").write_text("resource fork")
    shutil.copytree(root / "ModelNet10/bed", root / "ModelNet10/__MACOSX/bed")
    assert len(load(root)) == 20


def test_named_classes_are_enough(root):
    (root / "ModelNet10/lamp").mkdir()
    data = load(root, classes=["sofa", "bed"])
    assert data.classes == ["bed", "sofa"]
    assert data.targets == [0, 0, 1, 1]


@pytest.mark.fault(28)
def test_an_empty_split_is_an_error(root):
    for folder in (root / "ModelNet10").glob("*/test"):
        shutil.rmtree(folder)
    with pytest.raises(SourceError, match=r"the split 'test' is empty; found train; expected are"):
        load(root, "test")


@pytest.mark.fault(28)
def test_a_class_without_a_shape_is_an_error(root):
    shutil.rmtree(root / "ModelNet10/sofa/test")
    with pytest.raises(SourceError, match=r"classes without a shape in test.*\n(.*\n)*sofa +0 +1"):
        load(root, "test")


def test_a_class_without_a_shape_is_a_warning_where_no_counts_are_expected(root):
    shutil.rmtree(root / "ModelNet10/sofa/test")
    with pytest.warns(EmptyClassWarning, match="has no sofa"):
        data = load(root, "test", expected_counts=None)
    assert data.targets == [0, 1, 2, 3, 4, 5, 6, 8, 9]


@pytest.mark.fault(29)
def test_other_counts_are_a_warning_with_a_table(root):
    with pytest.warns(CountsWarning, match=r"20 shapes, not 3991(.*\n)*bed +2 +515\n"):
        load(root, expected_counts=COUNTS)


def test_the_counts_are_those_of_modelnet10():
    assert [sum(n[i] for n in COUNTS.values()) for i in (0, 1)] == [3991, 908]


@pytest.mark.fault(28)
@pytest.mark.parametrize("place", ["chair/train/bed_0009.off", "night_stand/test/bed_0001.off"])
def test_a_shape_in_the_folder_of_another_class_is_an_error(root, place):
    (root / "ModelNet10" / place).write_bytes(mesh_text("bed", 1))
    with pytest.raises(SourceError, match=rf"{place}: a bed among the shapes of"):
        load(root, place.split("/")[1])


@pytest.mark.fault(28)
@pytest.mark.parametrize(("split", "number"), [("train", 3), ("test", 1)])
def test_a_shape_in_the_wrong_split_is_an_error(root, split, number):
    path = root / f"ModelNet10/bed/{split}/bed_{number:04}.off"
    path.write_bytes(mesh_text("bed", number))
    with pytest.raises(SourceError, match=f"bed_{number:04}.off belongs to"):
        load(root, split)


@pytest.mark.fault(28)
@pytest.mark.parametrize("place", ["bed_0001.off", "bed/bed_0001.off", "bed/train/more/a.off"])
def test_a_shape_outside_the_split_folders_is_an_error(root, place):
    path = root / "ModelNet10" / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(mesh_text("bed", 1))
    with pytest.raises(SourceError, match=rf"{place}: not in a <class>/<split> folder"):
        load(root)


def test_a_damaged_mesh_is_named(root):
    path = root / "ModelNet10/toilet/train/toilet_0002.off"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(OFFError, match=r"toilet/train/toilet_0002\.off"):
        load(root)
    assert not (root / ".mesh-cache/modelnet10-train").exists()


def test_lenient_reads_what_is_left_of_a_mesh(root):
    path = root / "ModelNet10/toilet/train/toilet_0002.off"
    path.write_bytes(b"OFF\n2 0 0\n0 0 0\n0 0 1\n")
    with pytest.warns(OFFWarning, match="toilet_0002"):
        data = load(root, lenient=True)
    assert set(data[19].pos[:, 2].tolist()) <= {*data[19].pos[:2, 2].tolist(), -1.0, 1.0}
    assert data[19].pos.isfinite().all()


@pytest.mark.fault(44)
@pytest.mark.parametrize("name", ["a b/c", "Möbel 家具", "x" * 120 + "/" + "y" * 120, "caf\udce9"])
def test_any_path_works(tmp_path, name):
    root = tmp_path / name
    fill(root / "ModelNet10")
    os.rename(root / "ModelNet10/bed/test/bed_0003.off", root / "ModelNet10/bed/test/é\udce9 x.off")
    data = load(root, "test")
    assert data[1].name == "bed/test/é\udce9 x.off"
    with pytest.warns(CacheWarning):  # its message holds the path
        load(root, "test", lenient=True)


def test_no_folder_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(SourceError, match="neither a folder nor a zip; download=True"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split must be one of train, test, got 'val'"),
        ({"num_points": 0}, "num_points must be at least 1"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"download": True, "source": "x.zip"}, "download=True fetches the source"),
    ],
)
def test_wrong_arguments_are_named(root, options, message):
    with pytest.raises(ValueError, match=message):
        load(root, **options)
