"""Values and gradients of every operation on drawn cases: see fuzz_values.py.

The default run takes a few seeds of each; ``make fuzz`` takes as many as the time allows.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import fuzz_values
import pytest

from mgic_geo.ops.csrc import build

pytestmark = pytest.mark.skipif(build.library() is None, reason="no C compiler")

CASES = 6  # of each operation


@pytest.mark.fault(47, 49, 52)
@pytest.mark.parametrize("name", fuzz_values.OPERATIONS)
def test_kernels_are_as_near_to_double_as_plain_float32(name):
    for seed in range(CASES):
        fuzz_values.check(name, seed)


def test_neighbors_are_those_of_all_pairs():
    for seed in range(CASES):
        fuzz_values.check_neighbors(seed)


@pytest.mark.fault(48)
def test_fewer_threads_than_asked_for_give_the_same():
    script = (
        "import fuzz_values\n"
        "for name in fuzz_values.OPERATIONS:\n"
        "    for seed in range(2):\n"
        "        fuzz_values.check(name, seed)\n"
    )
    limits = {"OMP_NUM_THREADS": "4", "OMP_THREAD_LIMIT": "3"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent,
        env={**os.environ, **limits, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.slow
def test_many_seeds(pytestconfig):
    """Minutes: ``--fuzz-minutes`` of new seeds, all operations in turn."""
    end = time.monotonic() + 60 * pytestconfig.getoption("fuzz_minutes")
    seed = pytestconfig.getoption("fuzz_seed")
    while time.monotonic() < end:
        for name in fuzz_values.OPERATIONS:
            fuzz_values.check(name, seed)
        fuzz_values.check_neighbors(seed)
        seed += 1
    print(f"seeds {pytestconfig.getoption('fuzz_seed')} to {seed - 1}")
