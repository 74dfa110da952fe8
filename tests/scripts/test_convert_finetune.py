import json

import pytest

from mgic_geo import num_weights
from scripts import convert_finetune as script
from scripts.convert_finetune import ARMS, Course, converted, resnet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of one seed, as short as it can be."""
    folder = tmp_path_factory.mktemp("convert")
    assert script.main(options(folder, 1)) == 0
    return folder


def options(folder, seeds):
    sizes = ["--num-train", "32", "--first", "1", "--more", "1"]
    return ["--seeds", str(seeds), *sizes, "--runs", str(folder), "--docs", str(folder)]


def test_dense_control_has_the_weights_of_the_converted_network():
    narrow, new = num_weights(resnet(script.NARROW)), num_weights(converted(resnet()))
    assert abs(narrow / new - 1) < 0.01


def test_every_arm_is_trained_once_and_the_page_has_it(folder):
    results = {path.name for path in folder.glob("*.json")}
    assert results == {f"{arm.name}-0.json" for arm in ARMS}
    text = (folder / "convert-finetune.md").read_text()
    assert all(f"| `{arm.name}` |" in text for arm in ARMS)
    assert "does projection help? `projected` - `anew`" in text
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert script.main(options(folder, 1)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}


def test_results_of_another_course_are_not_taken(folder, capsys):
    with pytest.raises(SystemExit):
        script.main([*options(folder, 1), "--more", "2"])
    assert "is of another course" in capsys.readouterr().err


def test_page_says_what_is_missing(folder):
    assert script.main([*options(folder, 3), "--page-only"]) == 0
    assert "**10 runs are not done yet**" in (folder / "convert-finetune.md").read_text()


def test_original_is_trained_once_for_all_that_follow_it(folder):
    course = Course(1, 1, 32)
    first, again = (script.original(course, 0, folder) for _ in range(2))
    assert all((first[name] == again[name]).all() for name in first)
    assert json.loads((folder / "original-0.json").read_text())["epochs"] == 1
