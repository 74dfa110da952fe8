"""Training of networks that tell the parts of point clouds apart."""

import json
from pathlib import Path

import numpy as np
import pytest
from training_runs import run

from datasets.shapes10_parts import PARTS
from scripts.training.parts import PartClouds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "shapes10"}, "must be 'shapes10_parts', got 'shapes10'"),
        ({"num_points": 0}, "num_points must be at least 1, got 0"),
        ({"shapes_per_class": (3, 0, 1)}, r"three numbers from 1 up, got \[3, 0, 1\]"),
        ({"test_splits": ["test", "tset"]}, "no split tset in shapes10_parts; there are train"),
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
    with np.load(whole / "predictions.npz", allow_pickle=False) as file:
        assert file["confusion"].sum() == 10 * 256
        assert file["parts"].shape == file["truths"].shape == (10, 256)
    report = (whole / "report.html").read_text()
    assert "Intersection over union by part" in report
    assert "<td>1: highest validation mIoU" in report  # counted from 1, as everywhere
    assert report.count("of 10 clouds, evenly spaced") == 2 * 2  # caption and alt
