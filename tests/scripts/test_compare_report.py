import base64
import json
import shutil

import numpy as np
import pytest
from test_report import CLASSES, LABELS, PREDICTED, make_run

from scripts import report
from scripts.training.reliability.errors import TrainingError


def read(page: str) -> dict:
    start = page.index('id="data">') + len('id="data">')
    return json.loads(page[start : page.index("</script>", start)])


def two_runs(root):
    """Two runs on the same six samples, the second of which gets one more right."""
    first = make_run(root / "first", ("test", "hard"))
    better = np.full((6, 4), 0.1, np.float32)
    guesses = PREDICTED.copy()
    guesses[2] = LABELS[2]
    better[np.arange(6), guesses] = 0.7
    return first, make_run(root / "second", ("test",), probabilities=better)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return two_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def data(runs):
    return read(report.compare(runs))


def test_runs_have_their_curves_and_results(data):
    first, second = data["runs"]
    assert (first["name"], second["name"]) == ("first", "second")
    assert first["curves"]["train_loss"] == [1.5, 0.9, 0.5]
    assert first["curves"]["epoch"] == [1, 2, 3]
    assert first["curves"]["val_loss"] == [1.6, 1.0, None]
    assert (first["weights"], first["best"], first["epochs"]) == (1234, 2, 3)
    assert first["seconds"] == pytest.approx(6.75)
    assert list(first["results"]) == ["test", "hard"]
    counts = np.zeros((4, 4), int)
    np.add.at(counts, (LABELS, PREDICTED), 1)
    assert first["results"]["test"]["confusion"] == counts.tolist()


def test_what_most_runs_got_wrong_comes_first(data):
    samples = data["splits"]["test"]
    rights = [[verdict["right"] for verdict in s["runs"].values()] for s in samples]
    assert rights == sorted(rights, key=sum)
    assert rights[0] == [0.0, 0.0]
    assert rights[1] == [0.0, 1.0]
    assert samples[0]["name"] == "4"
    assert samples[0]["runs"]["first"]["guess"] == CLASSES[2]
    assert samples[0]["label"] == CLASSES[1]


def test_a_cloud_keeps_its_shape(data):
    sample = next(s for s in data["splits"]["test"] if s["name"] == "3")
    found = np.frombuffer(base64.b64decode(sample["points"]), "<i2").reshape(-1, 3) / 2**14
    points = np.random.default_rng(0).random((6, 64, 3), dtype=np.float32)[3]
    ratio = np.linalg.norm(points[0] - points[1]) / np.linalg.norm(found[0] - found[1])
    assert np.abs((points - points[0]) - ratio * (found - found[0])).max() < 1e-3


def test_no_text_of_a_run_is_read_as_markup(runs):
    page = report.compare(runs)
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert page.count("</script>") == 2
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_runs_of_the_same_name_are_told_apart(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "first")
    names = report.name_runs([runs[0], tmp_path / "first"])
    assert names == [f"{folder.parent.name}/first" for folder in (runs[0], tmp_path / "first")]


def test_a_run_that_has_not_been_tested_is_shown(runs, tmp_path):
    (tmp_path / "metrics.csv").write_text((runs[0] / "metrics.csv").read_text())
    data = read(report.compare([tmp_path, runs[1]]))
    assert data["runs"][0]["results"] == {}
    assert data["runs"][0]["weights"] is None


def test_what_cannot_be_compared_is_said(runs, tmp_path, capsys):
    with pytest.raises(TrainingError, match="first is given twice"):
        report.compare([runs[0], runs[0]])
    with pytest.raises(TrainingError, match="at most 24 runs, got 25"):
        report.compare([tmp_path] * 25)
    out = tmp_path / "page.html"
    assert report.main([str(tmp_path), "--out", str(out)]) == 1
    assert "metrics.csv: No such file" in capsys.readouterr().err
    assert not out.exists()
    assert report.main([str(runs[0]), "--out", str(out)]) == 0
    assert out.read_text().startswith("<!DOCTYPE html>")
