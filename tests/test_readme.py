"""The README's Python runs, and its commands exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=["gnn", "point_clouds", "convert"])
def test_a_python_block_runs(block):
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    if "optimizer" in names:
        data = names["data"]
        predicted = names["model"].eval()(data.x, data.edge_index).argmax(1)
        assert (predicted == data.y)[data.train_mask].all()


def test_every_make_command_is_a_target():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = set(re.findall(r"(?:`|\$ )make ([a-z]+)", README))
    assert commands >= {"demo", "test"}
    assert commands <= targets


def test_every_file_that_is_named_exists():
    names = re.findall(r"(?:scripts/configs|docs)/[\w/]+\.\w+", README)
    assert names
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing
