"""What is installed, and what it may do."""

import json
import re
import socket
import subprocess
import sys
import textwrap
import tomllib
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import no_network

ROOT = Path(__file__).parents[1]
OWN = ("mgic_geo", "mgic_vision", "datasets", "scripts")
# malicious uploads, and releases that run code from a file that they say they only load
KNOWN_BAD = {
    "lightning": ("2.6.2", "2.6.3", "2.6.5"),
    "torch": ("2.5.1", "2.9.1"),
}


def requirements() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, list[Requirement]] = {}
    for text in chain(project["dependencies"], *project["optional-dependencies"].values()):
        requirement = Requirement(text)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): number for name, number in pinned}


@pytest.mark.parametrize(("name", "bad"), [(n, v) for n in KNOWN_BAD for v in KNOWN_BAD[n]])
def test_versions_known_to_be_bad_are_outside_every_range(name, bad):
    assert requirements()[name]
    for requirement in requirements()[name]:
        assert bad not in requirement.specifier
    assert version(name) != bad
    assert pins()[name] != bad


def test_every_dependency_has_a_lowest_version_and_a_pin_in_its_range():
    for name, found in requirements().items():
        for requirement in found:
            assert any(part.operator in (">=", "==") for part in requirement.specifier), name
            assert pins()[name] in requirement.specifier, name


def test_demo_and_tests_are_installed_with_the_pins():
    makefile = (ROOT / "Makefile").read_text()
    assert "--constraint constraints.txt" in makefile
    assert len(re.findall(r"pip install", makefile)) == 1  # all others go through it


def test_no_dependency_comes_from_an_address():
    assert all(not r.url for found in requirements().values() for r in found)


def watched(script: str) -> subprocess.CompletedProcess:
    """Run a script in a fresh process that may not connect to anything."""
    start = "import sys; from tests import no_network as n; n.refuse_network()\n"
    command = [sys.executable, "-W", "ignore", "-c", start + textwrap.dedent(script)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def imports() -> tuple[list[str], list[str]]:
    """Modules there are once the packages are imported, and once everything else is."""
    result = watched(
        """
        import importlib, json, pkgutil
        import mgic_geo, mgic_vision
        packages = sorted(sys.modules)
        for top in ("mgic_geo", "mgic_vision", "datasets", "scripts"):
            package = importlib.import_module(top)
            for module in pkgutil.walk_packages(package.__path__, f"{top}."):
                importlib.import_module(module.name)
        mgic_geo.create_model("mgic_diffgcn")
        mgic_vision.create_model("mobilenet_v3_small")
        mgic_vision.create_model("ghostnet_050")
        print(json.dumps([packages, sorted(sys.modules)]))
        """
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_importing_everything_and_building_networks_opens_no_connection(imports):
    _, everything = imports  # in a process that would have ended at a connection
    own = [path.relative_to(ROOT) for top in OWN for path in (ROOT / top).rglob("[!_]*.py")]
    assert {".".join(path.with_suffix("").parts) for path in own} <= set(everything)


def test_importing_the_packages_runs_neither_datasets_nor_scripts(imports):
    packages, _ = imports
    assert "torch" in packages
    strangers = {"datasets", "scripts", "lightning"}
    assert not [name for name in packages if name.split(".")[0] in strangers]


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80))",
        "import socket; socket.create_connection(('example.org', 80))",
        "import urllib.request; urllib.request.urlopen('http://example.org/')",
    ],
)
def test_connection_would_be_noticed(attempt):
    result = watched(attempt)
    assert "NetworkError" in result.stderr
    assert "no connection" in result.stderr


def test_this_very_process_is_watched():
    with pytest.raises(no_network.NetworkError, match=r"socket.getaddrinfo to 'example\.org'"):
        socket.getaddrinfo("example.org", 80)
