"""Values and gradients of every operation on drawn cases: see fuzz_values.py.

The default run takes a few seeds of each; ``make fuzz`` takes as many as the time allows.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mgic_geo.ops.csrc import build
from tests import fuzz_values

pytestmark = pytest.mark.skipif(build.library() is None, reason="no C compiler")

CASES = 4  # of each operation


@pytest.mark.fault(47, 49, 52)
@pytest.mark.parametrize("name", fuzz_values.OPERATIONS)
def test_kernels_are_as_near_to_double_as_plain_float32(name):
    for seed in range(CASES):
        fuzz_values.check(name, seed)


def test_neighbors_are_those_of_all_pairs():
    for seed in range(CASES):
        fuzz_values.check_neighbors(seed)


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("MGICLinear", 12),
        ("MGICLinear", 1065),  # exactly zero
        ("MGICLinear", 1899),  # torch's norm by one thread
        ("image_norm", 173),
        ("correction", 1432),
        ("correction", 50274),
    ],
)
def test_where_all_cancels_one_lucky_case_of_plain_float32_is_no_measure(name, seed):
    fuzz_values.check(name, seed)


@pytest.mark.parametrize("seed", [1262, 1321, 1556, 1731])
def test_hard_swish_at_nan_is_held_against_its_formula(seed):
    fuzz_values.check("norm_act", seed)


@pytest.mark.parametrize("seed", [1147, 1870])
def test_the_gradient_of_a_bias_is_the_same_for_any_number_of_threads(seed):
    fuzz_values.check("grouped_linear", seed)


def test_a_wrong_result_is_wrong_beside_cases_nearly_the_same(monkeypatch):
    def drawn(draw):
        def run(inputs):
            kernels = inputs["x"].dtype == torch.float32 and build.library() is not None
            return (inputs["x"] * (1 + 1e-3 * kernels),)

        return {"x": draw.normal(20, 3)}, run

    monkeypatch.setitem(fuzz_values.OPERATIONS, "wrong", drawn)
    with pytest.raises(AssertionError, match=r"wrong: output 0 is 1\.0e-03 off, .* times plain"):
        fuzz_values.check("wrong", 0)


@pytest.mark.fault(48)
def test_fewer_threads_than_asked_for_give_the_same():
    script = (
        "from tests import fuzz_values\n"
        "for name in fuzz_values.OPERATIONS:\n"
        "    for seed in range(2):\n"
        "        fuzz_values.check(name, seed)\n"
    )
    limits = {"OMP_NUM_THREADS": "4", "OMP_THREAD_LIMIT": "3"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        env=os.environ | limits,
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
