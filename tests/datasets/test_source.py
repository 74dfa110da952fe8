import os
import shutil
import stat
import zipfile

import pytest
from meshes import flip, load, mesh_text, zipped
from torch.testing import assert_close

from datasets import source
from datasets.source import SourceError


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


@pytest.mark.fault(23)
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


@pytest.mark.fault(23)
def test_a_name_twice_in_an_archive_is_refused(root, tmp_path):
    name = "ModelNet10/bed/train/bed_0001.off"
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = hostile_zip(tmp_path / "m.zip", root / "ModelNet10", name)
    with pytest.raises(SourceError, match="is there twice"):
        load(tmp_path, source=path)


@pytest.mark.fault(23)
def test_many_large_entries_are_refused(root, tmp_path, monkeypatch):
    path = zipped(tmp_path / "m.zip", root / "ModelNet10")
    monkeypatch.setattr(source, "MAX_TOTAL_BYTES", 1000)
    with pytest.raises(SourceError, match=r"refused, it unpacks to \d+ bytes, limit 1000"):
        load(tmp_path, source=path)


@pytest.mark.fault(23)
def test_an_entry_longer_than_it_claims_is_refused(root, tmp_path):
    name = "ModelNet10/bed/train/bed_0009.off"
    options = {"content": mesh_text("bed", 1) + bytes(10_000), "file_size": 50}
    path = hostile_zip(tmp_path / "m.zip", root / "ModelNet10", name, **options)
    with pytest.raises(SourceError, match=r"bed_0009\.off: damaged archive"):
        load(tmp_path, source=path, expected_counts=None)


@pytest.mark.fault(23)
def test_what_mac_os_adds_to_an_archive_is_ignored(root, tmp_path):
    name = "__MACOSX/ModelNet10/bed/train/._bed_0001.off"
    path = hostile_zip(tmp_path / "m.zip", root / "ModelNet10", name)
    assert len(load(tmp_path, source=path)) == 20


@pytest.mark.fault(44)
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
    flip(path, 100)  # inside the first entry
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
