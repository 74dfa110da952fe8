"""The points that stand for a shape where it is evaluated."""

import numpy as np
import pytest
import torch
import trimesh
from torch.testing import assert_close

from datasets.augment import AnyRotation, Augment
from datasets.draws import Draws, farthest_points
from datasets.mesh_folder import MeshFolder
from datasets.off import format_off
from datasets.source import SourceError
from datasets.surface import prepare

BOX = trimesh.creation.box((2, 4, 6))


def points(draws: Draws, mesh: trimesh.Trimesh = BOX, count: int = 32) -> np.ndarray:
    return draws.points(*prepare(np.asarray(mesh.vertices), np.asarray(mesh.faces)), count)


def test_points_depend_on_seed_and_vote_and_on_nothing_else():
    draws = points(Draws(votes=3, seed=5))
    assert_close(draws, points(Draws(votes=3, seed=5)), rtol=0, atol=0)
    assert_close(draws[:2], points(Draws(votes=2, seed=5)), rtol=0, atol=0)
    assert np.abs(draws - points(Draws(votes=3, seed=6))).max() > 0.1
    assert np.abs(draws[0] - draws[1]).max() > 0.1


def test_the_same_mesh_moved_and_scaled_has_the_same_points():
    other = BOX.copy()
    other.vertices = 1000 * other.vertices + 7
    assert_close(points(Draws()), points(Draws(), other), rtol=0, atol=1e-5)


def test_farthest_points_are_those_of_the_definition_and_cover_more():
    cloud = np.random.default_rng(0).random((60, 3))
    chosen = [0]
    for _ in range(9):
        distances = np.linalg.norm(cloud[:, None] - cloud[chosen], axis=2).min(axis=1)
        chosen.append(int(distances.argmax()))
    assert farthest_points(cloud, 10).tolist() == chosen

    def closest(cloud: np.ndarray) -> float:
        distances = np.linalg.norm(cloud[:, None] - cloud, axis=2)
        return float((distances + 9 * np.eye(len(cloud))).min(axis=1).mean())

    random, even = (points(Draws(sampling=kind))[0] for kind in ("random", "farthest"))
    assert closest(even) > 1.5 * closest(random)


def test_a_point_cloud_is_drawn_from_without_repetition_while_it_lasts():
    cloud = np.random.default_rng(0).random((40, 3))
    none = np.empty((0, 3), np.int64)
    few, many = (Draws().points(*prepare(cloud, none), n)[0] for n in (40, 50))
    assert len(np.unique(few, axis=0)) == 40
    assert len(many) == 50


@pytest.mark.parametrize(("options", "match"), [({"votes": 0}, "votes"), ({"seed": -1}, "seed")])
def test_draws_that_make_no_sense_are_refused(options, match):
    with pytest.raises(ValueError, match=f"{match} must be"):
        Draws(**options)


def test_thinned_clouds_keep_their_first_points():
    cloud, generator = torch.rand(100, 3), np.random.default_rng(0)
    sizes = [len(Augment(keep=(0.2, 0.5))(cloud, generator)) for _ in range(50)]
    assert min(sizes) >= 20
    assert max(sizes) <= 50
    assert len(set(sizes)) > 10
    thin = Augment(keep=(0.5, 0.5))(cloud, generator)
    assert_close(thin, cloud[:50])
    with pytest.raises(ValueError, match="keep must be 0 < low <= high <= 1"):
        Augment(keep=(0.5, 1.5))


def test_any_rotation_keeps_distances_and_has_no_favorite_axis():
    turned = [AnyRotation()(torch.eye(3), np.random.default_rng(n)) for n in range(400)]
    assert_close(turned[0] @ turned[0].T, torch.eye(3), rtol=0, atol=1e-6)
    assert_close(torch.linalg.det(turned[1]), torch.tensor(1.0))
    mean = torch.stack(turned).mean(dim=0)
    assert mean.abs().max() < 0.1  # of 400 with a standard deviation of 0.58 each


# folders


@pytest.fixture
def shapes(tmp_path):
    for name in ("b", "a"):
        for split in ("train", "test"):
            (tmp_path / "mine" / name / split).mkdir(parents=True)
            path = tmp_path / "mine" / name / split / "x.off"
            path.write_bytes(format_off(np.asarray(BOX.vertices), np.asarray(BOX.faces)))
    return tmp_path


def test_classes_are_found_in_a_folder_or_in_the_only_one_it_has(shapes):
    for root in (shapes, shapes / "mine"):
        data = MeshFolder(root, "test", num_points=8, cache_dir=shapes / "cache")
        assert data.classes == ["a", "b"]
        assert data.names == ["a/test/x.off", "b/test/x.off"]
        assert data.targets == [0, 1]


def test_validation_and_test_see_the_same_points_of_a_file(shapes):
    options = {"num_points": 8, "draws": Draws(seed=3), "cache_dir": shapes / "cache"}
    train, test = (MeshFolder(shapes, split, **options) for split in ("train", "test"))
    assert_close(train[1].pos, test[1].pos, rtol=0, atol=0)


def test_labels_count_within_the_classes_that_are_given(shapes):
    with pytest.warns(UserWarning, match="has no 0"):
        data = MeshFolder(shapes, "test", classes=["0", "a", "b"], cache_dir=shapes / "cache")
    assert data.targets == [1, 2]
    with pytest.raises(SourceError, match="folders that are no class: b; the classes are a"):
        MeshFolder(shapes, "test", classes=["a"], cache_dir=shapes / "cache")


def test_a_folder_that_cannot_be_written_to_has_its_cache_elsewhere(shapes, monkeypatch):
    monkeypatch.setattr("os.access", lambda *args: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shapes / "home"))
    MeshFolder(shapes / "mine", "test", num_points=8)
    assert not (shapes / "mine" / ".mesh-cache").exists()
    assert list((shapes / "home").glob("mgic/meshes/*/folder-test/manifest.json"))


def test_a_list_places_files_wherever_they_are(shapes):
    table = shapes / "list.csv"
    rows = ["mine/a/train/x.off,bolt,train,3", "mine/b/test/x.off,nut,train,1"]
    rows += ["mine/b/train/x.off,nut,test,2"]
    table.write_text("\n".join(["file,class,split,size", *rows, ""]))
    data = MeshFolder(table, "train", num_points=8, cache_dir=shapes / "cache")
    assert data.classes == ["bolt", "nut"]
    assert data.names == ["bolt/train/mine/a/train/x.off", "nut/train/mine/b/test/x.off"]
    assert data.targets == [0, 1]
    assert data[0, 1].pos.shape == (8, 3)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("file,class\nx.off,a\n", "no column split; expected is a header with file, class, split"),
        ("file,class,split\nx.off,a,train\n", "line 2: No such file or directory: x.off"),
        ("file,class,split\nx.off,a,\n", "line 2: expected a file, a class and a split"),
        ("file,class,split\nx.doc,a,train\n", "line 2: x.doc is no .off"),
        ("file,class,split\n" + 2 * "mine/a/test/x.off,a,train\n", "x.off is named twice"),
        ("file,class,split\n", "no <class>/train and <class>/test"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(text, match, shapes):
    table = shapes / "list.csv"
    table.write_text(text)
    with pytest.raises(SourceError, match=match):
        MeshFolder(table, "train")


@pytest.mark.parametrize(("name", "match"), [("none", "neither a folder"), ("empty", "no <class>")])
def test_a_folder_without_shapes_is_refused(name, match, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=match):
        MeshFolder(tmp_path / name, "test")
