"""Training of networks that tell the parts of point clouds apart."""

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from shapenet import write_shapenet
from training_runs import run

from datasets.off import format_off
from datasets.shapes10_parts import PARTS
from scripts.training.parts import PartClouds
from scripts.training.reliability.errors import TrainingError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"votes": 2}, "data.votes must be 1: a point has its part once, got 2"),
        ({"root": "x"}, "data.root is for shapenet_part; shapes10_parts is made"),
        ({"features": "xyz,color,x"}, "features must be xyz, also with normal and color"),
        ({"num_points": 0}, "num_points must be at least 1, got 0"),
        ({"shapes_per_class": (3, 0, 1)}, r"three numbers from 1 up, got \[3, 0, 1\]"),
        ({"test_splits": ["test", "tset"]}, "no split tset in shapes10_parts; there are train"),
        ({"name": "shapenet_part", "shapes_per_class": (1, 1, 1)}, "is for shapes10_parts, not"),
    ],
)
def test_data_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PartClouds(**options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a small run; its output is in ``log``."""
    folder = tmp_path_factory.mktemp("whole")
    config = ["--config", "scripts/configs/parts.yaml", "--model.name", "pointnet"]
    config += ["--model.options.width", 16]
    few = ["--trainer.max_epochs", 1, "--data.shapes_per_class", "[3, 1, 1]"]
    command = ["fit", *config, *few, "--run_dir", folder, "--threads", 1]
    run(folder / "log", *command, script="scripts.train_parts")
    return folder


def test_a_run_ends_with_miou_and_pictures(whole):
    result = json.loads((whole / "test.json").read_text())
    assert f"test: mIoU {result['miou']:.4f}, point accuracy" in (whole / "log").read_text()
    assert len(result["iou"]) == len(result["classes"]) == len(PARTS)
    assert result["num_samples"] == 10
    assert result["num_points"] == 10 * 256
    hard = json.loads((whole / "test-hard.json").read_text())
    assert hard["num_points"] < 10 * 256  # specks do not count
    for split, counted in ((".", 10 * 256), ("-test-hard.", hard["num_points"])):
        with np.load(whole / f"predictions{split}npz", allow_pickle=False) as file:
            assert file["parts"].shape == file["truths"].shape == (10, 256)
            assert file["confusion"].sum() == counted == (file["truths"] < len(PARTS)).sum()
    report = (whole / "report.html").read_text()
    assert "Intersection over union by part" in report
    assert "<td>1: highest validation mIoU" in report  # counted from 1, as everywhere
    assert report.count("of 10 clouds, evenly spaced") == 2 * 2  # caption and alt


BOX = trimesh.creation.box(
    (1, 2, 4), transform=trimesh.transformations.translation_matrix([9, 0, 0])
)
predict = ("predict", "--threads", 1, "--data.up", "z")


def test_labels_of_points_are_written_where_the_points_are_in_the_file(whole, tmp_path):
    mesh, file, labels = tmp_path / "box.off", tmp_path / "cloud.npy", tmp_path / "new" / "labels"
    cloud = trimesh.sample.sample_surface(BOX, 400, seed=0)[0]
    mesh.write_bytes(format_off(BOX.vertices, BOX.faces))
    np.save(file, cloud)
    command = [*predict, "--run_dir", whole, "--labels", labels, "--format", "json", mesh, file]
    row, _ = json.loads(run(tmp_path / "log", *command, script="scripts.train_parts"))
    assert sorted(found.name for found in labels.iterdir()) == [
        f"{stem}.parts.{suffix}" for stem in ("box", "cloud") for suffix in ("npy", "ply", "png")
    ]
    points, parts = read_labels(labels / "box")
    assert points.shape == (256, 3)
    sides = np.abs(np.abs(points - [9, 0, 0]) - [0.5, 1, 2]).min(axis=1)
    np.testing.assert_allclose(sides, 0, atol=1e-6)
    share = (parts == PARTS.index(row["class"])).mean()
    assert share == pytest.approx(row["probability"])
    points, _ = read_labels(labels / "cloud")
    np.testing.assert_array_equal(points, cloud)  # all of them, in the order of the file


def read_labels(stem: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points and their parts, which all files of a cloud have alike."""
    parts = np.load(f"{stem}.parts.npy")
    ply, picture = (Path(f"{stem}.parts.{suffix}").read_bytes() for suffix in ("ply", "png"))
    found = trimesh.load(f"{stem}.parts.ply")
    raw = found.metadata["_ply_raw"]["vertex"]["data"]
    np.testing.assert_array_equal(np.reshape(raw["label"], -1), parts)
    assert len(np.unique(found.colors, axis=0)) == len(np.unique(parts))
    assert (
        f"comment label {parts[0]} is {PARTS[parts[0]]}\n".encode() in ply.split(b"end_header")[0]
    )
    assert picture.startswith(b"\x89PNG")
    return np.asarray(found.vertices), parts


def test_labels_of_two_files_in_one_place_are_refused():
    with pytest.raises(TrainingError, match=r"two files would have the same labels, new/a\.parts"):
        PartClouds().check_labels(Path("new"), ["x/a.off", "y/a.stl"])


def test_shapenet_part_is_trained_with_normals_on_the_authors_lists(tmp_path):
    root = write_shapenet(tmp_path / "data")
    data = ["--data.name", "shapenet_part", "--data.root", root, "--data.num_points", 16]
    data += ["--data.batch_size", 3, "--data.features", "xyz,normal"]
    network = ["--model.name", "pointnet", "--model.options.width", 8, "--trainer.max_epochs", 1]
    network += ["--threads", 1, "--run_dir", tmp_path / "run", "--report", "false"]
    command = ["fit", *data, *network]
    told = run(tmp_path / "log", *command, script="scripts.train_parts")
    assert "1 clouds" in told
    info = json.loads((tmp_path / "run" / "model.json").read_text())
    assert info["features"] == "xyz,normal"
    assert info["options"]["num_features"] == 3
    assert len(info["classes"]) == 50
    files = [next(root.glob("02691156/*.txt")), tmp_path / "bare.xyz"]
    files[1].write_text("0 0 0\n1 0 0\n0 1 0\n")
    command = [*predict, "--run_dir", tmp_path / "run", *files]
    told = run(tmp_path / "log", *command, script="scripts.train_parts", code=1)
    assert "bare.xyz: cannot be read as XYZ: it holds no normal, but xyz" in told
    assert told.splitlines()[-1].startswith(str(files[0]))
