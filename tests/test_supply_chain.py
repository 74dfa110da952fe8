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
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mgic_geo.ops.csrc import build
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
    assert "PINS := constraints.txt" in makefile
    assert "--constraint $(PINS)" in makefile
    assert len(re.findall(r"pip install", makefile)) == 1  # all others go through it


def test_no_dependency_comes_from_an_address():
    assert all(not r.url for found in requirements().values() for r in found)


def watched(script: str, warnings: str = "ignore") -> subprocess.CompletedProcess:
    """Run a script in a fresh process that may not connect to anything."""
    start = "import sys; from tests import no_network as n; n.refuse_network()\n"
    command = [sys.executable, "-W", warnings, "-c", start + textwrap.dedent(script)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def imports() -> SimpleNamespace:
    """What a process says and has that imports the packages, and then everything else."""
    result = watched(
        """
        import ctypes, importlib, json, pkgutil, warnings
        from pathlib import Path
        finders = list(sys.meta_path)
        import mgic, mgic_geo, mgic_vision, torch
        found = {"finders": sys.meta_path == finders, "packages": sorted(sys.modules)}
        from mgic_geo.ops.csrc import build
        build.library()
        maps = Path("/proc/self/maps").read_text().splitlines()
        files = {line.split()[-1] for line in maps if ".so" in line}
        omp = [file for file in files if "omp" in Path(file).name]
        found["threads"] = {file: ctypes.CDLL(file).omp_get_max_threads() for file in omp}
        found["torch_threads"] = torch.get_num_threads()
        print("END", flush=True)
        print("END", file=sys.stderr)
        warnings.simplefilter("ignore")
        for top in ("mgic_geo", "mgic_vision", "datasets", "scripts"):
            package = importlib.import_module(top)
            for module in pkgutil.walk_packages(package.__path__, f"{top}."):
                importlib.import_module(module.name)
        mgic_geo.create_model("mgic_diffgcn")
        mgic_vision.create_model("mobilenet_v3_small")
        mgic_vision.create_model("ghostnet_050")
        print(json.dumps(found | {"everything": sorted(sys.modules)}))
        """,
        warnings="error::FutureWarning",
    )
    assert result.returncode == 0, result.stderr
    (said, _, found), (complained, *_) = (
        text.partition("END\n") for text in (result.stdout, result.stderr)
    )
    return SimpleNamespace(said=said + complained, **json.loads(found))


def test_imports_are_silent(imports):
    assert imports.said == ""


def test_kernels_and_torch_share_their_threads(imports):
    """One library of OpenMP in a process: two would each have threads for all cores."""
    if build.library() is None:
        pytest.skip("no kernels")
    assert list(imports.threads.values()) == [imports.torch_threads]


def test_importing_everything_and_building_networks_opens_no_connection(imports):
    own = [path.relative_to(ROOT) for top in OWN for path in (ROOT / top).rglob("[!_]*.py")]
    names = {".".join(path.with_suffix("").parts) for path in own}
    assert names <= set(imports.everything)  # in a process that would have ended at a connection


def test_importing_the_packages_runs_no_other_library_and_changes_no_import(imports):
    assert "torch" in imports.packages
    strangers = {"datasets", "scripts", "lightning", "timm", "torchvision"}
    assert not [name for name in imports.packages if name.split(".")[0] in strangers]
    assert imports.finders


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
