"""Networks of point clouds on folders of the user's own: trained, tested, asked, reported."""

import csv
import io
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trimesh
from training_runs import run

from datasets.off import format_off
from scripts.report import name_columns
from scripts.training.points import PointClouds
from scripts.training.reliability.errors import TrainingError
from scripts.training.reports.report import read_splits
from scripts.training.results import same_test

MAKERS = {
    "ball": lambda size: trimesh.creation.icosphere(2, radius=size),
    "crate": lambda size: trimesh.creation.box((1, 1, size)),
    "pipe": lambda size: trimesh.creation.cylinder(0.2, height=2 * size),
}
FORMATS = (".off", ".stl", ".ply", ".obj", ".glb")


def make_folder(root: Path, classes=tuple(MAKERS), counts=(6, 3)) -> Path:
    """Write shapes in five formats, all with z up; glTF, which says so, with y up."""
    for name in classes:
        for split, count in zip(("train", "test"), counts, strict=True):
            for number in range(count):
                mesh = MAKERS[name](1 + number / 5)
                path = root / name / split / f"{number}{FORMATS[number % len(FORMATS)]}"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_shape(path, mesh)
    return root


def write_shape(path: Path, mesh: trimesh.Trimesh) -> None:
    """Write a mesh with z up."""
    if path.suffix == ".off":
        path.write_bytes(format_off(mesh.vertices, mesh.faces))
    elif path.suffix in (".glb", ".gltf"):
        mesh = mesh.copy()
        mesh.apply_transform(np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]]))
        mesh.export(path)
    else:
        mesh.export(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Shapes of three classes, six and three of each."""
    return make_folder(tmp_path_factory.mktemp("shapes") / "mine")


NETWORK = ["--model.name", "pointnet", "--model.options.width", 16, "--data.num_points", 64]
NETWORK += ["--model.optimizer.lr", 0.01, "--threads", 1, "--data.batch_size", 6]
VOTES = 8  # fewer than by default, which take their time
NETWORK += ["--data.votes", VOTES]


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Path:
    """A run on that folder."""
    place = tmp_path_factory.mktemp("run")
    data = ["--data.name", "folder", "--data.root", folder, "--data.balance", "true"]
    data += ["--data.val_fraction", 0.2, "--model.weigh_classes", "true"]
    command = ["fit", *data, *NETWORK, "--trainer.max_epochs", 25, "--run_dir", place / "run"]
    run(place / "log", *command)
    return place / "run"


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    """A run on generated furniture, without a report."""
    place = tmp_path_factory.mktemp("generated")
    data = ["--data.root", place / "data", "--data.shapes_per_class", "[3, 1, 1]"]
    command = ["fit", *data, *NETWORK, "--trainer.max_epochs", 1, "--run_dir", place / "run"]
    run(place / "log", *command, "--report", "false")
    return place / "run"


@pytest.fixture
def call(tmp_path):
    """Runs a stage on a copy of a run in ``tmp_path / "run"``; the rest is as of ``run``."""

    def stage(name: str, folder: Path, *args: object, code=0) -> str:
        place = tmp_path / "run"
        if not place.exists():
            shutil.copytree(folder, place)
        return run(tmp_path / "log", name, "--run_dir", place, *args, code=code)

    return stage


def test_class_names_of_a_folder_are_found_and_kept_with_the_weights(whole):
    assert json.loads((whole / "model.json").read_text())["classes"] == ["ball", "crate", "pipe"]
    result = json.loads((whole / "test.json").read_text())
    assert result["accuracy"] > 0.7
    report = (whole / "report.html").read_text()
    assert "crate" in report
    assert "labels of test that change among 8 draws" in report


def test_a_result_says_what_was_tested(whole, folder):
    tested = json.loads((whole / "test.json").read_text())["tested"]
    assert tested["data"] == "folder"
    assert tested["root"] == str(folder)
    facts = [tested[key] for key in ("split", "num_points", "votes", "seed", "sampling")]
    assert facts == ["test", 64, VOTES, 0, "random"]
    assert PointClouds().votes == 32  # where nothing else is asked for
    assert all(len(tested[key]) == 64 for key in ("files", "shapes", "weights"))


def read_csv(text: str) -> dict[str, dict[str, str]]:
    rows = csv.DictReader(io.StringIO(text))
    return {row["file"]: row for row in rows}


@pytest.mark.parametrize("votes", [1, VOTES])
def test_predict_says_of_every_file_what_the_test_says(votes, whole, folder, tmp_path, call):
    path = whole / "predictions.npz"
    if votes != VOTES:
        call("test", whole, "--votes", votes, "--report", "false")
        (path,) = (tmp_path / "run").glob("predictions-test-folder-*.npz")
    with np.load(path) as arrays:
        names, tested = arrays["names"], arrays["probabilities"]
    files = [str(folder / name) for name in names]
    rows = read_csv(
        call("predict", whole, "--votes", votes, "--up", "z", "--format", "csv", *files)
    )
    predicted = [[float(rows[file][c]) for c in ("ball", "crate", "pipe")] for file in files]
    np.testing.assert_allclose(predicted, tested, atol=1e-5)


def test_test_of_a_root_tests_the_meshes_that_are_there(generated, folder, tmp_path, call):
    other = tmp_path / "furniture"
    for name, shape in (("chair", "crate"), ("table", "pipe")):
        shutil.copytree(folder / shape, other / name)
    told = call("test", generated, "--data.root", other, "--report", "true")
    assert "6 samples" in told
    (path,) = (tmp_path / "run").glob("test-folder-*.json")
    result = json.loads(path.read_text())
    assert result["tested"]["root"] == str(other)
    assert len(result["classes"]) == 10  # of the network
    assert not (other / "shapes10").exists()
    assert (tmp_path / "run" / "test.json").read_bytes() == (generated / "test.json").read_bytes()
    assert path.stem in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.fault(55)
def test_a_folder_of_other_classes_than_those_of_the_network_is_refused(generated, folder, call):
    told = call("test", generated, "--data.root", folder, code=1)
    assert "folders that are no class: ball, crate, pipe" in told


@pytest.mark.fault(55)
@pytest.mark.parametrize("root", ["empty", "none"])
def test_a_root_without_meshes_is_refused(root, generated, tmp_path, call):
    (tmp_path / "empty").mkdir()
    told = call("test", generated, "--data.root", tmp_path / root, code=1)
    assert "error: cannot use the data" in told
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.fault(55)
def test_training_on_made_shapes_in_a_folder_of_meshes_is_refused(folder):
    with pytest.raises(ValueError, match="makes its own shapes: --data"):
        PointClouds(root=str(folder))


@pytest.mark.fault(55)
def test_results_of_different_tests_are_kept_side_by_side_and_never_share_a_column(
    generated, call, tmp_path
):
    for _ in range(2):
        call("test", generated, "--votes", 2)
    run_dir = tmp_path / "run"
    kept = [path.name for path in run_dir.glob("test*.json")]
    assert len(kept) == 2
    runs = {name: read_splits(place) for name, place in (("a", generated), ("b", run_dir))}
    columns = name_columns(runs)
    (own,), (first, second) = ([columns[id(s)] for s in splits] for splits in runs.values())
    assert own == first != second
    two, most = (split.summary["tested"] for split in runs["b"])
    assert not same_test(two, most)
    assert {two["votes"], most["votes"]} == {2, VOTES}


def test_predict_goes_on_past_files_it_cannot_read(whole, folder, tmp_path, call):
    bad = tmp_path / "bad.off"
    bad.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\nnan 0 0\n3 0 1 2\n")
    dae, unknown = tmp_path / "a.dae", tmp_path / "b.doc"
    dae.touch()
    unknown.touch()
    good = folder / "ball" / "test" / "0.off"
    told = call("predict", whole, bad, tmp_path / "none.stl", dae, unknown, good, code=1)
    assert told.count("error: cannot read") == 4
    assert "pip install pycollada" in told
    assert "b.doc: no format that is read; those are .off .ply" in told
    assert told.splitlines()[-1].startswith(f"{good}  ")
    assert "±" in told.splitlines()[-1]


def test_predict_is_lenient_where_the_run_is_or_the_command_line_says_so(whole, tmp_path, call):
    flat = tmp_path / "flat.off"
    flat.write_text("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n")
    assert "the mesh has no faces" in call("predict", whole, flat, code=1)
    told = call("predict", whole, "--data.lenient", "true", flat)
    assert told.splitlines()[-1].startswith(f"{flat}  ")


def test_predict_takes_point_clouds(whole, tmp_path, call):
    points = trimesh.sample.sample_surface(MAKERS["ball"](1.0), 500, seed=0)[0]
    files = [tmp_path / f"cloud{suffix}" for suffix in (".xyz", ".npy", ".pcd", ".ply")]
    rows = "".join(f"{x} {y} {z}\n" for x, y, z in points)
    head = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nPOINTS 500\nDATA ascii\n"
    files[0].write_text(rows)
    np.save(files[1], points)
    files[2].write_text(head + rows)
    trimesh.PointCloud(points).export(files[3])
    found = json.loads(call("predict", whole, "--up", "z", "--format", "json", *files))
    assert [row["class"] for row in found] == ["ball"] * 4
    assert all(sum(row["probabilities"].values()) == pytest.approx(1) for row in found)


@pytest.mark.fault(56)
def test_a_shape_gets_the_same_label_with_z_up_and_as_gltf_with_y_up(whole, tmp_path, call):
    files = []
    for name, make in MAKERS.items():
        for suffix in (".stl", ".glb", ".ply", ".off"):
            files.append(tmp_path / f"{name}{suffix}")
            write_shape(files[-1], make(1.3))
    rows = json.loads(call("predict", whole, "--up", "z", "--format", "json", *files))
    for first in range(0, len(rows), 4):
        one = rows[first]["probabilities"].values()
        for other in rows[first + 1 : first + 4]:
            assert list(other["probabilities"].values()) == pytest.approx(list(one), abs=1e-3)


@pytest.mark.fault(56)
def test_an_axis_that_is_not_known_is_warned_about_and_an_option_turns_it(whole, tmp_path, call):
    path, turned, over = (tmp_path / name for name in ("pipe.stl", "y-pipe.stl", "over.stl"))
    mesh = MAKERS["pipe"](1.0)
    mesh.export(path)
    upright = mesh.vertices
    mesh.vertices = upright[:, [0, 2, 1]] * [1, 1, -1]
    mesh.export(turned)
    mesh.vertices = upright * [1, -1, -1]
    mesh.export(over)
    ask = partial(call, "predict", whole, "--format", "json")
    told = ask(path)
    assert "does not say which axis is up; taken for z" in told
    (one,) = json.loads(told[told.index("[") :])
    probabilities = list(one["probabilities"].values())
    for up, file in (("y", turned), ("-z", over)):
        (other,) = json.loads(ask("--up", up, file))
        assert list(other["probabilities"].values()) == pytest.approx(probabilities, abs=1e-3)


def test_a_file_that_is_not_read_is_not_asked_for_its_axis(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("1 2 3")
    with pytest.raises(TrainingError, match="no format that is read"):
        PointClouds().read_file(path, {})


def test_other_seeds_draw_other_points(whole, folder, call):
    with np.load(whole / "predictions.npz") as arrays:
        name, tested = arrays["names"][0], arrays["probabilities"][0]  # of seed 0
    told = call("predict", whole, "--up", "z", "--format", "json", "--seed", 1, folder / name)
    (row,) = json.loads(told)
    assert np.abs(list(row["probabilities"].values()) - tested).max() > 1e-4


def test_a_network_of_its_own_classes_tests_a_folder_that_lacks_some(whole, tmp_path, call):
    few = make_folder(tmp_path / "few", ("pipe",))
    told = call("test", whole, "--data.root", few, "--report", "false")
    assert "3 samples" in told
    assert "has no ball, no crate" in told


def test_a_network_sees_normals_in_training_test_and_prediction(folder, tmp_path, call):
    data = ["--data.name", "folder", "--data.root", folder, "--data.features", "xyz,normal"]
    few = ["--data.val_fraction", 0.2, "--trainer.max_epochs", 1, "--report", "false"]
    run(tmp_path / "log", "fit", *data, *NETWORK, *few, "--run_dir", tmp_path / "normals")
    result = json.loads((tmp_path / "normals" / "test.json").read_text())
    assert result["tested"]["features"] == "xyz,normal"
    with np.load(tmp_path / "normals" / "predictions.npz") as arrays:
        first, tested = arrays["names"][0], arrays["probabilities"][0]
    bare = tmp_path / "bare.xyz"
    bare.write_text("0 0 0\n1 0 0\n0 1 0\n")
    ask = partial(call, "predict", tmp_path / "normals", "--up", "z", "--format", "json")
    told = ask(folder / first, bare, code=1)
    assert "bare.xyz: cannot be read as XYZ: it holds no normal, but xyz" in told
    (row,) = json.loads(told[told.index("[") :])
    np.testing.assert_allclose(list(row["probabilities"].values()), tested, atol=1e-5)
    told = ask("--data.features", "xyz", folder / first, code=1)
    assert "data.features must be xyz,normal, on which the network was trained, got xyz" in told
    told = ask("--labels", tmp_path / "labels", folder / first, code=1)
    assert "--labels is for networks that tell the parts of point clouds apart" in told


def test_features_that_a_data_set_does_not_have_are_refused(tmp_path):
    data = PointClouds(root=str(tmp_path), features="xyz,color")
    with pytest.raises(TrainingError, match=r"has no color; data\.features can be xyz,normal"):
        data.setup("fit")
