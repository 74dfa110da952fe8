"""What a user installs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("mgic_geo", "mgic_vision", "datasets", "scripts", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_holds_the_two_packages_and_nothing_else(contents):
    tops = {name.split(os.sep)[0] for name in contents}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mgic_geo", "mgic_vision"}


def test_wheel_holds_every_file_of_the_packages(contents):
    expected = {
        str(path.relative_to(ROOT))
        for package in ("mgic_geo", "mgic_vision")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in contents if ".dist-info" not in name} == expected
