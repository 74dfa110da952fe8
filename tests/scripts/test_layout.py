"""Which part of the scripts imports which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# folder -> parts of scripts that it may import beside itself
ALLOWED = {
    "training": set(),
    "exporting": {"training"},
    "benchmarks": {"exporting", "training"},
    "experiments": {"benchmarks", "training"},
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("scripts.")}


@pytest.mark.parametrize("folder", ALLOWED)
def test_arrows_point_down(folder):
    for path in (ROOT / "scripts" / folder).rglob("*.py"):
        assert imported(path) <= {folder, *ALLOWED[folder]}, path


def test_packages_and_datasets_import_no_scripts():
    for folder in ("mgic_geo", "mgic_vision", "datasets"):
        assert not any(map(imported, (ROOT / folder).rglob("*.py")))
