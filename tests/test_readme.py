"""The Python of README and tutorials runs, and their commands exist."""

import re
import warnings
from pathlib import Path

import pytest
import torch

import mgic_geo
import mgic_vision
from tests.meshes import fill

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)
BLOCKS = PYTHON.findall(README)
PAGES = {page.name: page.read_text() for page in sorted((ROOT / "docs/tutorials").glob("*.md"))}


GNN, POINTS, CONVERT, TRAINING = BLOCKS


@pytest.mark.parametrize("block", [GNN, POINTS, CONVERT], ids=["gnn", "points", "convert"])
def test_a_python_block_prints_what_stands_below_it(block, capsys):
    torch.manual_seed(0)
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    below = README.partition(block)[2].split("```text\n")[1].partition("```")[0]
    printed = capsys.readouterr().out.splitlines()
    for line in below.splitlines():
        assert line == "..." or line in printed


def test_the_training_loop_runs_on_shapes_in_the_layout_of_modelnet10(
    tmp_path, monkeypatch, capsys
):
    fill(tmp_path / "data/raw")
    monkeypatch.chdir(tmp_path)
    block = TRAINING.replace("epochs, points = 30, 1024", "epochs, points = 2, 32")
    assert block != TRAINING
    assert len(block.splitlines()) <= 30
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    assert re.fullmatch(r"[01]\.\d{3} of the test shapes are right\n", capsys.readouterr().out)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_tutorial_run_one_after_another(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = PYTHON.findall(PAGES[page])
    assert len(blocks) >= 4
    names: dict = {}
    with warnings.catch_warnings():  # timm decorates functions for TorchScript
        warnings.simplefilter("ignore", FutureWarning)
        for block in blocks:
            exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_every_script_that_is_named_exists(page):
    text = README if page == "README.md" else PAGES[page]
    commands = re.findall(r"python -m scripts\.(\w+)", text)
    missing = [name for name in commands if not (ROOT / f"scripts/{name}.py").exists()]
    assert not missing


def test_every_make_command_is_a_target():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = set(re.findall(r"(?:`|\$ )make ([a-z]+)", README))
    assert commands >= {"demo", "test"}
    assert commands <= targets


def test_every_file_that_is_named_exists():
    names = re.findall(r"(?:scripts/configs|docs)/[\w/]+\.\w+", "".join([README, *PAGES.values()]))
    assert names
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("package", [mgic_geo, mgic_vision])
def test_every_public_name_has_its_place_in_the_reference(package):
    text = "\n".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    named = set(re.findall(r"^\.\. auto\w+:: (\w+)$", text, flags=re.MULTILINE))
    functions = {name for name in package.__all__ if name != "conversion"}
    assert functions <= named
