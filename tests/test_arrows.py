"""Who may import whom: scripts -> mgic_vision -> mgic_geo, and inside a package downwards only."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mgic_geo

ROOT = Path(__file__).parents[1]
# inside a package, the lowest first; what is in none of these folders stands above them all
LAYERS = ("levels", "ops", "graphs", "nn", "models")
# of mgic_geo, for mgic_vision: conversion is public, the hub needs what is optional
OPEN = {"levels", "ops", "conversion", "models.hub"}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, and every name that it takes of one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("mgic_geo", ("mgic", "mgic_vision", "datasets", "scripts", "tests")),
        ("mgic_vision", ("mgic", "datasets", "scripts", "tests")),
        ("datasets", ("mgic", "scripts", "tests")),
        ("scripts", ("mgic", "tests")),
    ],
)
def test_packages_import_downwards(package, others):
    wrong = [
        (str(path.relative_to(ROOT)), name)
        for path in files(package)
        for name in imports(path)
        if name.partition(".")[0] in others
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["mgic_geo", "mgic_vision"])
def test_folders_of_a_package_import_downwards(package):
    wrong = []
    for path in files(package):
        place = path.relative_to(ROOT / package).with_suffix("").parts[0]
        if place not in LAYERS:
            continue
        for name in imports(path):
            inside = name.split(".")[1:] if name.startswith(f"{package}.") else []
            if inside and inside[0] in LAYERS and LAYERS.index(inside[0]) > LAYERS.index(place):
                wrong.append((str(path.relative_to(ROOT)), name))
    assert not wrong


def test_the_image_package_takes_what_is_public_of_the_graph_package():
    wrong = []
    for path in files("mgic_vision"):
        for name in imports(path):
            package, _, inside = name.partition(".")
            if package != "mgic_geo" or inside in (*mgic_geo.__all__, "__version__"):
                continue
            if not any(inside == place or inside.startswith(f"{place}.") for place in OPEN):
                wrong.append((str(path.relative_to(ROOT)), name))
    assert not wrong


def test_the_mathematics_imports_torch_only():
    found = {name.partition(".")[0] for name in imports(ROOT / "mgic_geo" / "levels.py")}
    assert found - sys.stdlib_module_names == {"torch"}
