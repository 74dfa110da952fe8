"""What a user installs."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WHEEL = "MGIC_WHEEL"  # one to look at in place of one that is built here
PREBUILT = re.compile(r"mgic_(geo|vision)/ops/csrc/prebuilt/[\w-]+-[0-9a-f]{16}\.so")


def build(target: Path, kind: str, **environment: str) -> Path:
    """A distribution of this checkout, from a copy that has nothing else."""
    source = target / "source"
    ignore = shutil.ignore_patterns("__pycache__", "prebuilt")
    for name in ("pyproject.toml", "README.md", "LICENSE", "prebuild.py", "mgic.py"):
        source.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source)
    for name in ("mgic_geo", "mgic_vision", "datasets", "scripts", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    code = f"from setuptools.build_meta import build_{kind}; build_{kind}('..')"
    command, settings = [sys.executable, "-c", code], os.environ | environment
    subprocess.run(command, cwd=source, env=settings, check=True, capture_output=True)
    (made,) = (path for path in target.iterdir() if path.is_file())
    return made


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def expected() -> set[str]:
    """The module that names the two packages, and every file of them."""
    return {"mgic.py"} | {
        path.relative_to(ROOT).as_posix()
        for package in ("mgic_geo", "mgic_vision")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }


@pytest.fixture(scope="module")
def pure(tmp_path_factory):
    """A wheel as it is made where there is no compiler."""
    return build(tmp_path_factory.mktemp("pure"), "wheel", CC="/no/such/compiler", MGIC_KERNELS="")


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """A wheel with kernels, of a compiler that makes empty ones in no time."""
    folder = tmp_path_factory.mktemp("platform")
    compiler = folder.with_name("cc")
    making = 'for last; do [ "$before" = -o ] && : > $last; before=$last; done'
    compiler.write_text(f"#!/bin/sh\n{making}\n")
    compiler.chmod(0o755)
    return build(folder, "wheel", CC=str(compiler), MGIC_KERNELS="require")


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(pure):
    assert {name for name in names(pure) if ".dist-info" not in name} == expected()


def test_wheel_without_kernels_is_for_every_platform(pure):
    assert pure.name.endswith("-py3-none-any.whl")


def test_wheel_with_kernels_is_for_one_platform_and_every_python(platform):
    machine = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert platform.name.endswith(f"-py3-none-{machine}.whl")
    with zipfile.ZipFile(platform) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/WHEEL"))
        assert b"Root-Is-Purelib: false" in archive.read(name)


def test_wheel_with_kernels_holds_these_and_their_sources(platform):
    found = {name for name in names(platform) if ".dist-info" not in name}
    kernels = {name for name in found if PREBUILT.fullmatch(name)}
    assert found - kernels == expected()
    grades = {"x86_64": ("x86-64-v4", "x86-64-v3", "x86-64"), "aarch64": ("armv8-a",)}
    wanted = [(p, g) for p in ("geo", "vision") for g in grades[os.uname().machine]]
    for package, grade in wanted:
        assert re.search(rf"mgic_{package}/ops/csrc/prebuilt/{grade}-\w{{16}}\.so", str(found))
    assert len(kernels) == len(wanted)


def test_wheel_can_be_built_from_the_source_distribution(tmp_path):
    with tarfile.open(build(tmp_path, "sdist")) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert found >= expected() | {"prebuild.py", "pyproject.toml", "README.md", "LICENSE"}


@pytest.mark.slow
def test_installed_wheel_runs_its_kernels_where_no_compiler_is(tmp_path):
    """The wheel that ``MGIC_WHEEL`` names: ``make wheel`` does so."""
    wheel = os.environ.get(WHEEL) or build(tmp_path / "built", "wheel", MGIC_KERNELS="require")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--no-index", "--no-deps", wheel], check=True)
    script = """
    import torch, mgic, mgic_geo, mgic_vision
    from mgic_geo.ops.csrc import build
    from mgic_vision.ops.kernel import IMAGES
    assert "/venv/" in mgic_geo.__file__, mgic_geo.__file__
    model = mgic_geo.create_model("mgic_diffgcn").eval()
    pos, batch = torch.rand(256, 3), torch.arange(2).repeat_interleave(128)
    with torch.no_grad():
        assert model(pos, batch).isfinite().all()
        network = mgic_vision.create_model("mobilenet_v3_small").eval()
        assert network(torch.rand(1, 3, 64, 64)).isfinite().all()
    for kernels in (build.GRAPHS, IMAGES):
        assert build.library(kernels) is not None
    print([line.split()[-1] for line in open("/proc/self/maps") if "omp" in line or "mgic" in line])
    """
    environment = {
        "PATH": "/nonexistent",
        "PYTHONPATH": sysconfig.get_path("purelib"),  # torch
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    readme = (ROOT / "README.md").read_text()
    first, second, *_ = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    without = "import sys; sys.modules.update(timm=None, torchvision=None, lightning=None)\n"
    printed = ""
    codes = {"require": textwrap.dedent(script), "auto": without + first + second}
    for kernels, code in codes.items():
        done = subprocess.run(
            [python, "-W", "ignore", "-c", code],
            env=environment | {"MGIC_KERNELS": kernels},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        printed += done.stdout
    assert "members right" in printed
    assert not (tmp_path / "cache").exists()
    assert len({line for line in printed.split("'") if "omp" in line}) == 1  # torch's
