import csv
import json

import pytest

from scripts import images_results
from scripts.images_results import CONTENDERS, QUESTIONS


@pytest.fixture
def runs(tmp_path):
    """Two finished runs of every network on 1,000 images, two points apart."""
    accuracy = {"mgic_resnet56": 0.90, "resnet56": 0.89, "resnet-narrow": 0.80}
    for contender in CONTENDERS:
        for seed in range(2):
            folder = tmp_path / f"{contender.name}-1000-{seed}"
            folder.mkdir()
            value = accuracy.get(contender.name, 0.6) + 0.02 * seed
            result = {"accuracy": value, "class_accuracy": value}
            (folder / "test.json").write_text(json.dumps(result))
            (folder / "metrics.csv").write_text("epoch,seconds\n1,9\n2,9\n")
    return tmp_path


@pytest.fixture
def page_only(runs):
    arguments = ["--page-only", "--seeds", "2", "--sizes", "1000", "--depth", "8"]
    return [*arguments, "--runs", str(runs), "--docs", str(runs)]


def test_page_tells_differences_overlap_and_times_of_the_steps(runs, page_only, monkeypatch):
    times = {contender.name: 0.9 for contender in CONTENDERS}
    monkeypatch.setattr(images_results, "image_seconds", lambda depth: times)
    assert images_results.main(page_only) == 0
    page = (runs / "images.md").read_text()
    assert "the dense network: `mgic_resnet56` - `resnet56` | 1,000 |" in page
    # 4 networks, 2 seeds, 2 epochs of 1,000 images
    assert "come to 4.0 hours of one core" in page
    assert page.count("| +1.0 | yes |") == 1
    assert page.count("| +10.0 | no |") == 1
    assert page.count("| no |") == len(QUESTIONS) - 1
    assert "| 91.0 ± 1.4 (90.0 to 92.0) | 900.0 |" in page
    alike = "MGIC against the dense network: not told apart with 1,000 images; "
    assert f"- {alike}" in page
    better = "MGIC against dense with as many weights: better with 1,000 images; "
    assert f"- {better}" in page
    assert page.count(" of the weights, 1.0 times the time.") == len(QUESTIONS)
    assert (runs / "images.png").read_bytes().startswith(b"\x89PNG")
    with (runs / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == [contender.name for contender in CONTENDERS]
    assert {row["seconds_per_1000"] for row in rows} == {"900.0000"}


def test_page_names_the_runs_that_are_missing(runs, page_only, capsys):
    (runs / "resnet56-1000-1" / "test.json").unlink()
    assert images_results.main(page_only) == 1
    assert "error: runs are missing: resnet56-1000-1\n" in capsys.readouterr().err


def test_every_network_is_timed():
    seconds = images_results.image_seconds(8)
    assert seconds.keys() == {contender.name for contender in CONTENDERS}
    assert min(seconds.values()) > 0
