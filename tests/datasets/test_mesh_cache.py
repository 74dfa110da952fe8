import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from meshes import FACES, flip, load

from datasets.mesh_cache import CacheWarning, open_cache

CHECKOUT = Path(__file__).parents[2]


def mesh_list(count=3):
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    return [(points * [1, 1, i + 1], FACES) for i in range(count)]


def never():
    raise AssertionError("the cache was built again")


def test_what_only_changes_the_points_keeps_the_cache(root, monkeypatch):
    load(root)
    monkeypatch.setattr("datasets.mesh_dataset.parse_shape", never)
    assert load(root, num_points=7, seed=5)[0].pos.shape == (7, 3)


@pytest.mark.fault(26)
def test_a_changed_file_builds_the_cache_again(root):
    before = load(root)[0].pos
    path = root / "ModelNet10/bathtub/train/bathtub_0001.off"
    path.write_bytes(path.read_bytes().replace(b" 1.1\n", b" 9.5\n"))  # of the same size
    os.utime(path, ns=(0, 0))
    with pytest.warns(CacheWarning, match="made with other files"):
        after = load(root)[0].pos
    assert not torch.equal(before, after)


ARRAYS = ["vertices.bin", "faces.bin", "areas.bin", "starts.bin"]


def clip(path):
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.fault(26)
@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("harm", [flip, clip, Path.unlink])
def test_a_damaged_array_is_noticed_and_built_again(tmp_path, name, harm):
    folder = tmp_path / "cache"
    good = [[a.tobytes() for a in mesh] for mesh in open_cache(folder, {}, mesh_list)]
    harm(folder / name)
    with pytest.warns(CacheWarning, match=f"{name} is damaged|not a whole cache"):
        mended = open_cache(folder, {}, mesh_list)
    assert [[a.tobytes() for a in mesh] for mesh in mended] == good


@pytest.mark.fault(26)
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"key": 3, "files": 4}', "\0"])
def test_a_damaged_manifest_is_noticed(tmp_path, text):
    folder = tmp_path / "cache"
    open_cache(folder, {}, mesh_list)
    (folder / "manifest.json").write_text(text)
    with pytest.warns(CacheWarning, match="not a whole cache"):
        open_cache(folder, {}, mesh_list)


@pytest.mark.fault(26)
def test_a_cache_of_another_format_is_built_again(tmp_path, monkeypatch):
    open_cache(tmp_path / "cache", {}, mesh_list)
    monkeypatch.setattr("datasets.mesh_cache.FORMAT", 999)
    with pytest.warns(CacheWarning, match="made with other format"):
        open_cache(tmp_path / "cache", {}, mesh_list)


@pytest.mark.fault(26)
def test_a_cache_for_other_parameters_is_built_again(tmp_path):
    open_cache(tmp_path / "cache", {"lenient": False, "a": 1}, mesh_list)
    with pytest.warns(CacheWarning, match="made with other b, lenient"):
        open_cache(tmp_path / "cache", {"lenient": True, "a": 1, "b": 2}, mesh_list)
    open_cache(tmp_path / "cache", {"lenient": True, "a": 1, "b": 2}, never)


@pytest.mark.fault(4)
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


@pytest.mark.fault(25)
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


@pytest.mark.fault(25)
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


@pytest.mark.fault(27)
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
