"""Generated folders appear whole, are recognized, and are written again where they differ."""

import json

import pytest

from datasets.generated import write_generated
from datasets.mesh_cache import CacheWarning


def write(root, seed=0):
    def fill(folder):
        (folder / "part").mkdir()
        (folder / "part/file.txt").write_text(f"made with {seed}")

    return write_generated(root / "new", {"data": "new", "seed": seed}, fill)


def contents(folder):
    return {path: path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_is_there_is_left_alone(tmp_path):
    file = write(tmp_path) / "part/file.txt"
    before = file.stat().st_mtime_ns
    write(tmp_path)
    assert file.stat().st_mtime_ns == before


def test_what_was_made_otherwise_is_written_again(tmp_path):
    write(tmp_path)
    with pytest.warns(CacheWarning, match="other seed"):
        folder = write(tmp_path, seed=3)
    assert (folder / "part/file.txt").read_text() == "made with 3"
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 3


@pytest.mark.fault(25)
@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_text("m")])
def test_a_lost_or_cut_file_is_written_again(tmp_path, harm):
    folder = write(tmp_path)
    before = contents(folder)
    harm(folder / "part/file.txt")
    with pytest.warns(CacheWarning, match="files are missing or changed"):
        write(tmp_path)
    assert contents(folder) == before


@pytest.mark.parametrize("manifest", [None, "", "[]", "{}", '{"data": "mine"}'])
def test_a_folder_of_someone_else_is_left_alone(tmp_path, manifest):
    (tmp_path / "new").mkdir()
    (tmp_path / "new/thesis.txt").write_text("dear")
    if manifest is not None:
        (tmp_path / "new/manifest.json").write_text(manifest)
    before = contents(tmp_path / "new")
    with pytest.raises(FileExistsError, match="is in the way: it has no manifest of new"):
        write(tmp_path)
    assert contents(tmp_path / "new") == before


@pytest.mark.fault(25)
def test_a_write_that_fails_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "file.txt").touch()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_generated(tmp_path / "new", {"data": "new"}, fail)
    assert [path.name for path in tmp_path.iterdir()] == [".new.lock"]


@pytest.mark.fault(25)
def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".new-writing-abc/part").mkdir(parents=True)
    write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".new.lock", "new"}
