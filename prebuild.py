"""Build the kernels ahead of time, into wheels; ``python prebuild.py`` does so in a checkout.

``pyproject.toml`` names the two commands here. ``MGIC_KERNELS`` in the environment says what comes
of them: ``reference`` builds a wheel without kernels, ``require`` fails where one cannot be
compiled. Otherwise such a wheel has none and says so: it compiles them at first use, or runs in
plain PyTorch.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from types import ModuleType

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
GRAPHS, IMAGES = (ROOT / package / "ops" / "csrc" for package in ("mgic_geo", "mgic_vision"))


def read(name: str) -> ModuleType:
    """A module of ``mgic_geo.ops.csrc``, without the package, which needs torch."""
    spec = importlib.util.spec_from_file_location(f"prebuild_{name}", GRAPHS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks for its annotations
    spec.loader.exec_module(module)
    return module


def prebuild(folder: Path) -> list[Path]:
    """Compile both packages for every grade of processors of this kind of machine.

    Returns:
        The libraries, at their places below the folder; all of them or none.
    """
    choice = os.environ.get("MGIC_KERNELS")
    if choice == "reference":
        return []
    compiler, grades = read("compiler"), [grade.name for grade in read("processor").grades()]
    packages = (
        compiler.Kernels.of_folder("mgic_geo", GRAPHS),
        compiler.Kernels.of_folder("mgic_vision", IMAGES, GRAPHS),
    )

    def build(kernels, grade: str) -> Path:
        path = folder / kernels.prebuilt(grade).relative_to(ROOT)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            made = Path(place) / path.name
            compiler.compile_library(kernels, made, [[f"-march={grade}"]])
            path.write_bytes(made.read_bytes())
        return path

    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [pool.submit(build, *each) for each in product(packages, grades)]
            return [job.result() for job in jobs]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        if choice == "require":
            raise
        print(f"no kernels in this wheel: {error}", file=sys.stderr)
        return []


class BuildPy(build_py):
    """Copies the packages, and the kernels that were built for the wheel."""

    def initialize_options(self) -> None:
        """Without any kernels."""
        super().initialize_options()
        self.prebuilt: dict[Path, str] = {}

    def run(self) -> None:
        """Copy everything to where the wheel is made."""
        super().run()
        for source, target in self.prebuilt.items():
            self.mkpath(str((Path(self.build_lib) / target).parent))
            self.copy_file(str(source), str(Path(self.build_lib) / target))

    def get_source_files(self) -> list[str]:
        """What a source distribution has: this file, too."""
        return [*super().get_source_files(), Path(__file__).name]


class BuildWheel(bdist_wheel):
    """A wheel of one platform and any Python 3 where it has kernels, else of any platform."""

    def run(self) -> None:
        """Compile first, since all that follows depends on what came of it."""
        with tempfile.TemporaryDirectory() as folder:
            built = prebuild(Path(folder))
            self.root_is_pure = not built
            self.distribution.has_ext_modules = lambda: bool(built)
            targets = {path: str(path.relative_to(folder)) for path in built}
            packages = self.get_finalized_command("build_py")
            assert isinstance(packages, BuildPy)
            packages.prebuilt = targets
            super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """Python, its binary interface, which kernels do not use, and the platform."""
        _, _, platform = tag = super().get_tag()
        return tag if self.root_is_pure else ("py3", "none", platform)


if __name__ == "__main__":
    for package in (GRAPHS, IMAGES):  # those of other sources
        shutil.rmtree(package / "prebuilt", ignore_errors=True)
    for library in prebuild(ROOT):
        print(library)
