import hashlib
import http.server
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import textwrap
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch_geometric.loader import DataLoader

from datasets import modelnet10, source
from datasets.download import DownloadError, download
from datasets.mesh_cache import CacheWarning, open_cache
from datasets.mesh_dataset import EmptyClassWarning
from datasets.modelnet10 import (
    CLASSES,
    COUNTS,
    Augment,
    CountsWarning,
    ModelNet10,
    fetch,
    stratified_split,
)
from datasets.off import OFFError, OFFWarning, format_off
from datasets.source import SourceError

CHECKOUT = Path(__file__).parents[1]
FEW = dict.fromkeys(CLASSES, (2, 1))
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def mesh_text(kind, number):
    """A tetrahedron that no other class and number has."""
    height = 1 + CLASSES.index(kind) + number / 10
    return format_off(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, height]]), FACES)


def fill(folder, counts=FEW):
    """Write ModelNet10's layout with few shapes; numbers run on from train to test."""
    for kind, (num_train, num_test) in counts.items():
        for number in range(1, num_train + num_test + 1):
            split = "train" if number <= num_train else "test"
            path = folder / kind / split / f"{kind}_{number:04}.off"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mesh_text(kind, number))
    return folder


@pytest.fixture
def root(tmp_path):
    fill(tmp_path / "ModelNet10")
    return tmp_path


def load(root, split="train", **options):
    return ModelNet10(root, split, **{"num_points": 32, "expected_counts": FEW, **options})


def zipped(path, folder, prefix="ModelNet10/"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.off")):
            archive.write(file, prefix + str(file.relative_to(folder)))
    return path


# items


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


# augmentation


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


# validation


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


# folders


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


def test_a_missing_class_folder_is_an_error(root):
    shutil.rmtree(root / "ModelNet10/sofa")
    with pytest.raises(SourceError, match=r"folders missing: sofa; expected are bathtub, bed"):
        load(root)


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


def test_an_empty_split_is_an_error(root):
    for folder in (root / "ModelNet10").glob("*/test"):
        shutil.rmtree(folder)
    with pytest.raises(SourceError, match=r"the split 'test' is empty; found train; expected are"):
        load(root, "test")


def test_a_class_without_a_shape_is_an_error(root):
    shutil.rmtree(root / "ModelNet10/sofa/test")
    with pytest.raises(SourceError, match=r"classes without a shape in test.*\n(.*\n)*sofa +0 +1"):
        load(root, "test")


def test_a_class_without_a_shape_is_a_warning_where_no_counts_are_expected(root):
    shutil.rmtree(root / "ModelNet10/sofa/test")
    with pytest.warns(EmptyClassWarning, match="has no sofa"):
        data = load(root, "test", expected_counts=None)
    assert data.targets == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_other_counts_are_a_warning_with_a_table(root):
    with pytest.warns(CountsWarning, match=r"20 shapes, not 3991(.*\n)*bed +2 +515\n"):
        load(root, expected_counts=COUNTS)


def test_the_counts_are_those_of_modelnet10():
    assert [sum(n[i] for n in COUNTS.values()) for i in (0, 1)] == [3991, 908]


@pytest.mark.parametrize("place", ["chair/train/bed_0009.off", "night_stand/test/bed_0001.off"])
def test_a_shape_in_the_folder_of_another_class_is_an_error(root, place):
    (root / "ModelNet10" / place).write_bytes(mesh_text("bed", 1))
    with pytest.raises(SourceError, match=rf"{place}: a bed among the shapes of"):
        load(root, place.split("/")[1])


@pytest.mark.parametrize(("split", "number"), [("train", 3), ("test", 1)])
def test_a_shape_in_the_wrong_split_is_an_error(root, split, number):
    path = root / f"ModelNet10/bed/{split}/bed_{number:04}.off"
    path.write_bytes(mesh_text("bed", number))
    with pytest.raises(SourceError, match=f"bed_{number:04}.off belongs to"):
        load(root, split)


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


# archives


@pytest.mark.parametrize("prefix", ["ModelNet10/", "", "a/b/"])
def test_a_zip_gives_what_its_folder_gives(root, tmp_path, prefix):
    path = zipped(tmp_path / "meshes.zip", root / "ModelNet10", prefix)
    data = load(tmp_path / "other", source=path)
    assert data.names == load(root).names
    assert_close(data[2, 3].pos, load(root)[2, 3].pos, atol=0, rtol=0)


def test_a_zip_is_opened_once_for_all_its_meshes(root, tmp_path, monkeypatch):
    path = zipped(tmp_path / "meshes.zip", root / "ModelNet10")
    opened = []

    class Counted(zipfile.ZipFile):
        def __init__(self, *args):
            opened.append(args)
            super().__init__(*args)

    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    load(tmp_path / "other", source=path)
    assert len(opened) == 2  # to list and to read: its directory of 10,000 entries takes a while


def test_a_zip_as_root_is_an_error_that_says_where_it_goes(root, tmp_path):
    path = zipped(tmp_path / "meshes.zip", root / "ModelNet10")
    with pytest.raises(ValueError, match=r"root must be a folder.*a zip goes to source="):
        load(path)


def test_a_zip_in_the_root_is_found(root):
    zipped(root / "ModelNet10.zip", root / "ModelNet10")
    shutil.rmtree(root / "ModelNet10")
    assert len(load(root)) == 20


def hostile_zip(path, folder, name, *, content=b"x", **attributes):
    """A good archive with one more entry."""
    zipped(path, folder)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        for attribute in ("create_system", "external_attr"):
            setattr(info, attribute, attributes.get(attribute, getattr(info, attribute)))
        archive.writestr(info, content)
        for attribute, value in attributes.items():  # after writing: only the directory tells it
            setattr(archive.filelist[-1], attribute, value)
    return path


LINK = {"create_system": 3, "external_attr": (stat.S_IFLNK | 0o777) << 16}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("../evil.off", {}, "lies outside the archive"),
        ("ModelNet10/../../evil.off", {}, "lies outside the archive"),
        ("..\\evil.off", {}, "lies outside the archive"),
        ("/tmp/evil.off", {}, "lies outside the archive"),
        ("\\\\server\\evil.off", {}, "lies outside the archive"),
        ("C:\\evil.off", {}, "lies outside the archive"),
        ("ModelNet10/bed/train/link.off", {"content": b"/etc/passwd", **LINK}, "is a link"),
        ("ModelNet10/zeros.bin", {"content": bytes(5 << 20)}, "unpacks from .* to 5242880 bytes"),
        ("ModelNet10/bed/train/b.off", {"file_size": 2 << 30}, "claims 2147483648 bytes"),
        ("ModelNet10/bed/train/b.off", {"flag_bits": 1}, "is encrypted"),
        ("ModelNet10/Bed/train/BED_0001.off", {}, "is there twice"),
    ],
)
def test_a_hostile_archive_is_refused_and_writes_nothing(root, tmp_path, name, options, message):
    place = tmp_path / "inner"
    place.mkdir()
    path = hostile_zip(place / "m.zip", root / "ModelNet10", name, **options)
    with pytest.raises(SourceError, match=rf"m\.zip: refused, the entry .*{message}"):
        load(place, source=path)
    assert os.listdir(place) == ["m.zip"]
    assert not list(tmp_path.rglob("evil*"))


def test_a_name_twice_in_an_archive_is_refused(root, tmp_path):
    name = "ModelNet10/bed/train/bed_0001.off"
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = hostile_zip(tmp_path / "m.zip", root / "ModelNet10", name)
    with pytest.raises(SourceError, match="is there twice"):
        load(tmp_path, source=path)


def test_many_large_entries_are_refused(root, tmp_path, monkeypatch):
    path = zipped(tmp_path / "m.zip", root / "ModelNet10")
    monkeypatch.setattr(source, "MAX_TOTAL_BYTES", 1000)
    with pytest.raises(SourceError, match=r"refused, it unpacks to \d+ bytes, limit 1000"):
        load(tmp_path, source=path)


def test_an_entry_longer_than_it_claims_is_refused(root, tmp_path):
    name = "ModelNet10/bed/train/bed_0009.off"
    options = {"content": mesh_text("bed", 1) + bytes(10_000), "file_size": 50}
    path = hostile_zip(tmp_path / "m.zip", root / "ModelNet10", name, **options)
    with pytest.raises(SourceError, match=r"bed_0009\.off: damaged archive"):
        load(tmp_path, source=path, expected_counts=None)


def test_what_mac_os_adds_to_an_archive_is_ignored(root, tmp_path):
    name = "__MACOSX/ModelNet10/bed/train/._bed_0001.off"
    path = hostile_zip(tmp_path / "m.zip", root / "ModelNet10", name)
    assert len(load(tmp_path, source=path)) == 20


def test_backslashes_in_an_archive_are_slashes(root, tmp_path):
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((root / "ModelNet10").rglob("*.off")):
            archive.writestr(str(file.relative_to(root)).replace("/", "\\"), file.read_bytes())
    assert load(tmp_path / "other", source=path).names == load(root).names


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04" + bytes(50)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "m.zip"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"m\.zip: not a zip archive"):
        load(tmp_path, source=path)


def test_a_cut_archive_is_refused(root, tmp_path):
    path = zipped(tmp_path / "m.zip", root / "ModelNet10")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SourceError, match="not a zip archive"):
        load(tmp_path, source=path)


def test_a_flipped_bit_in_an_archive_is_noticed(root, tmp_path):
    path = zipped(tmp_path / "m.zip", root / "ModelNet10")
    content = bytearray(path.read_bytes())
    content[100] ^= 1  # inside the first entry
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"bathtub_0003\.off: damaged archive"):
        load(tmp_path, "test", source=path)


def test_an_archive_without_the_classes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("ModelNet10/lamp/train/lamp_0001.off", "x")
    with pytest.raises(SourceError, match=r"was found nowhere; the classes are bathtub"):
        load(tmp_path, source=tmp_path / "m.zip")


def test_two_data_sets_in_an_archive_are_refused(root, tmp_path):
    path = zipped(tmp_path / "m.zip", root / "ModelNet10", "a/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b/bed/train/bed_0001.off", "x")
    with pytest.raises(SourceError, match=r"in 2 places: \['a/', 'b/'\]"):
        load(tmp_path, source=path)


# the cache


def mesh_list(count=3):
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    return [(points * [1, 1, i + 1], FACES) for i in range(count)]


def never():
    raise AssertionError("the cache was built again")


def test_a_second_start_reads_no_mesh(root, monkeypatch):
    first = load(root)[1, 2].pos
    monkeypatch.setattr("datasets.mesh_dataset.parse_off", never)
    assert_close(load(root, num_points=32, seed=0)[1, 2].pos, first, atol=0, rtol=0)


def test_what_only_changes_the_points_keeps_the_cache(root, monkeypatch):
    load(root)
    monkeypatch.setattr("datasets.mesh_dataset.parse_off", never)
    assert load(root, num_points=7, seed=5)[0].pos.shape == (7, 3)


def test_a_changed_file_builds_the_cache_again(root):
    before = load(root)[0].pos
    path = root / "ModelNet10/bathtub/train/bathtub_0001.off"
    path.write_bytes(path.read_bytes().replace(b" 1.1\n", b" 9.5\n"))  # of the same size
    os.utime(path, ns=(0, 0))
    with pytest.warns(CacheWarning, match="made with other files"):
        after = load(root)[0].pos
    assert not torch.equal(before, after)


def flip(path, place=10):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


ARRAYS = ["vertices.bin", "faces.bin", "areas.bin", "starts.bin"]


def clip(path):
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("harm", [flip, clip, Path.unlink])
def test_a_damaged_array_is_noticed_and_built_again(tmp_path, name, harm):
    folder = tmp_path / "cache"
    good = [[a.tobytes() for a in mesh] for mesh in open_cache(folder, {}, mesh_list)]
    harm(folder / name)
    with pytest.warns(CacheWarning, match=f"{name} is damaged|not a whole cache"):
        mended = open_cache(folder, {}, mesh_list)
    assert [[a.tobytes() for a in mesh] for mesh in mended] == good


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": 3, "files": 4}', "\0"])
def test_a_damaged_manifest_is_noticed(tmp_path, text):
    folder = tmp_path / "cache"
    open_cache(folder, {}, mesh_list)
    (folder / "manifest.json").write_text(text)
    with pytest.warns(CacheWarning, match="not a whole cache"):
        open_cache(folder, {}, mesh_list)


def test_a_cache_of_another_format_is_built_again(tmp_path, monkeypatch):
    open_cache(tmp_path / "cache", {}, mesh_list)
    monkeypatch.setattr("datasets.mesh_cache.FORMAT", 999)
    with pytest.warns(CacheWarning, match="made with other format"):
        open_cache(tmp_path / "cache", {}, mesh_list)


def test_a_cache_for_other_parameters_is_built_again(tmp_path):
    open_cache(tmp_path / "cache", {"lenient": False, "a": 1}, mesh_list)
    with pytest.warns(CacheWarning, match="made with other b, lenient"):
        open_cache(tmp_path / "cache", {"lenient": True, "a": 1, "b": 2}, mesh_list)
    open_cache(tmp_path / "cache", {"lenient": True, "a": 1, "b": 2}, never)


def test_without_hashes_sizes_are_still_compared(tmp_path):
    folder = tmp_path / "cache"
    open_cache(folder, {}, mesh_list)
    flip(folder / "areas.bin")
    open_cache(folder, {}, never, verify=False)
    clip(folder / "areas.bin")
    with pytest.warns(CacheWarning, match=r"areas\.bin is damaged"):
        open_cache(folder, {}, mesh_list, verify=False)


def test_a_cache_is_never_unpickled(tmp_path):
    folder = tmp_path / "cache"
    open_cache(folder, {}, mesh_list)
    canary = tmp_path / "canary"
    payload = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ARRAYS:
        (folder / name).write_bytes(payload)
        digest = hashlib.sha256(payload).hexdigest()
        manifest["files"][name] = {"bytes": len(payload), "sha256": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(CacheWarning, match=r"vertices\.bin is damaged"):
        open_cache(folder, {}, mesh_list)
    assert not canary.exists()


def test_a_failed_build_leaves_nothing_and_keeps_the_old_cache(tmp_path):
    def fail():
        yield mesh_list()[0]
        raise OSError(28, "No space left on device")

    open_cache(tmp_path / "cache", {"a": 1}, mesh_list)
    with pytest.warns(CacheWarning), pytest.raises(OSError, match="No space left"):
        open_cache(tmp_path / "cache", {"a": 2}, fail)
    assert {p.name for p in tmp_path.iterdir()} == {"cache", ".cache.lock"}
    open_cache(tmp_path / "cache", {"a": 1}, never)


def run(script, *arguments):
    """Start a Python that imports numpy but not torch."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)


def test_a_killed_build_is_done_again(tmp_path):
    script = """
        import os, signal, sys
        import numpy as np
        from datasets.mesh_cache import open_cache

        def meshes():
            yield np.eye(3), np.array([[0, 1, 2]])
            os.kill(os.getpid(), signal.SIGKILL)

        open_cache(sys.argv[1], {}, meshes)
    """
    process = run(script, tmp_path / "cache")
    assert process.wait() == -9
    process.stdout.close()
    assert len(list(tmp_path.glob(".cache-writing-*"))) == 1
    assert len(open_cache(tmp_path / "cache", {}, mesh_list)) == 3  # no warning: there was none
    assert {p.name for p in tmp_path.iterdir()} == {"cache", ".cache.lock"}


def test_of_two_processes_one_builds_and_both_read_the_same(tmp_path):
    script = """
        import hashlib, sys, time
        import numpy as np
        from datasets.mesh_cache import open_cache

        def meshes():
            open(sys.argv[2], "a").write("built ")
            time.sleep(0.5)
            yield np.eye(3), np.array([[0, 1, 2]])

        vertices, faces, areas = open_cache(sys.argv[1], {}, meshes)[0]
        print(vertices.tobytes().hex(), faces.tobytes().hex(), areas.tobytes().hex())
    """
    log = tmp_path / "log"
    processes = [run(script, tmp_path / "cache", log) for _ in range(2)]
    results = [process.communicate()[0] for process in processes]
    assert log.read_text() == "built "
    assert results[0] == results[1] != ""


def test_a_build_gives_the_same_bytes_every_time(tmp_path):
    for name in ("a", "b"):
        open_cache(tmp_path / name / "cache", {"x": 1}, mesh_list)
    for name in [*ARRAYS, "manifest.json"]:
        a, b = ((tmp_path / k / "cache" / name).read_bytes() for k in "ab")
        assert a == b


def test_a_finished_cache_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    open_cache(tmp_path / "cache", {}, mesh_list)

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    assert len(open_cache(tmp_path / "cache", {}, never)) == 3
    with pytest.raises(PermissionError):
        open_cache(tmp_path / "cache", {"a": 1}, mesh_list)


# download


CONTENT = np.random.default_rng(0).bytes(200_000)
EXPECTED = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, honestly or not: the path says how."""

    requests: list[str]

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.requests.append(f"{self.path} {start}")
        if self.path == "/missing":
            self.send_error(404)
            return
        bodies = {"/page": b"<html>404</html>", "/wrong": CONTENT[::-1], "/long": CONTENT * 2}
        body = bodies.get(self.path, CONTENT)
        whole = self.path == "/stubborn" or start == 0
        self.send_response(200 if whole else 206)
        if not whole:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    Handler.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_download_is_whole_and_leaves_no_part(server, tmp_path):
    path = download(f"{server}/good", tmp_path / "new/file.zip", **EXPECTED)
    assert path.read_bytes() == CONTENT
    assert not list(tmp_path.rglob("*.part"))


def test_a_cut_download_is_continued(server, tmp_path):
    path = tmp_path / "file.zip"
    with pytest.raises(DownloadError, match="100000 of 200000 bytes"):
        download(f"{server}/cut", path, **EXPECTED)
    assert not path.exists()
    download(f"{server}/good", path, **EXPECTED)
    assert path.read_bytes() == CONTENT
    assert Handler.requests == ["/cut 0", "/good 100000"]


def test_a_server_that_cannot_continue_is_asked_for_all(server, tmp_path):
    path = tmp_path / "file.zip"
    path.with_name("file.zip.part").write_bytes(b"x" * 1000)
    download(f"{server}/stubborn", path, **EXPECTED)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("page", "removed what came, it is a web page"),
        ("wrong", "removed what came, its SHA-256 is"),
        ("long", "removed what came, it is more than the 200000 bytes"),
        ("missing", "the server answers 404"),
    ],
)
def test_a_wrong_download_is_removed(server, tmp_path, place, message):
    with pytest.raises(DownloadError, match=message):
        download(f"{server}/{place}", tmp_path / "file.zip", **EXPECTED)
    assert not list(tmp_path.glob("file*"))


def test_a_part_of_another_file_is_noticed(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="SHA-256"):
        download(f"{server}/good", tmp_path / "file.zip", **EXPECTED)
    assert not list(tmp_path.glob("file*"))


def test_no_server_is_a_download_error(tmp_path):
    with pytest.raises(DownloadError, match="refused"):
        download("http://127.0.0.1:1/x", tmp_path / "file.zip", **EXPECTED)


def test_addresses_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(DownloadError, match="only http, https and file"):
        download("ftp://127.0.0.1/x", tmp_path / "file.zip", **EXPECTED)


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    download(f"{server}/good", tmp_path / "file.zip", **EXPECTED)
    download(f"{server}/good", tmp_path / "file.zip", **EXPECTED)
    assert Handler.requests == ["/good 0"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(CONTENT[:-1], "199999 bytes instead of 200000"), (CONTENT[::-1], "its SHA-256 is")],
)
def test_a_wrong_file_that_is_there_is_not_used(server, tmp_path, content, message):
    (tmp_path / "file.zip").write_bytes(content)
    with pytest.raises(DownloadError, match=f"{message}.*; remove it to download it"):
        download(f"{server}/good", tmp_path / "file.zip", **EXPECTED)


def test_a_verified_file_that_changed_is_hashed_again(server, tmp_path):
    path = download(f"{server}/good", tmp_path / "file.zip", **EXPECTED)
    flip(path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(DownloadError, match="its SHA-256 is"):
        download(f"{server}/good", path, **EXPECTED)


def test_download_true_fetches_the_zip_and_reads_it(root, tmp_path, monkeypatch):
    path = zipped(tmp_path / "published.zip", root / "ModelNet10")
    monkeypatch.setattr(
        modelnet10,
        "fetch",
        lambda place: fetch(
            place,
            url=path.as_uri(),
            size=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        ),
    )
    for _ in range(2):
        data = load(tmp_path / "new", download=True)
        assert_close(data[0].pos, load(root)[0].pos, atol=0, rtol=0)
    assert (tmp_path / "new/ModelNet10.zip").read_bytes() == path.read_bytes()


def test_nothing_is_downloaded_where_the_folder_is(root):
    assert fetch(root, url="ftp://never") == root / "ModelNet10"
