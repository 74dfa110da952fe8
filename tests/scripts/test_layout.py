"""Which part of the scripts imports which."""

import pytest
from test_arrows import files, imports

# folder -> parts of scripts that it may import beside itself
ALLOWED = {
    "training": set(),
    "exporting": {"training"},
    "benchmarks": {"exporting", "training"},
    "experiments": {"benchmarks", "training"},
}


@pytest.mark.parametrize("folder", ALLOWED)
def test_arrows_point_down(folder):
    for path in files(f"scripts/{folder}"):
        parts = {name.split(".")[1] for name in imports(path) if name.startswith("scripts.")}
        assert parts <= {folder, *ALLOWED[folder]}, path
