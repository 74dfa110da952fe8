"""Values and gradients of every operation on drawn cases: see fuzz_values.py.

The default run takes a few seeds of each; ``make fuzz`` takes as many as the time allows.
"""

import time

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
    ("name", "seeds"),
    [
        # where all cancels, one lucky case of plain float32 is no measure
        ("MGICLinear", (12, 1065, 1899)),  # 1065: exactly zero; 1899: torch's norm
        ("image_norm", (173,)),
        ("correction", (1432, 50274, 7189)),  # 7189: where gcc fuses one of two loops (sanitizers)
        ("norm_act", (1262, 1321, 1556, 1731)),  # hard swish at NaN, held against its formula
        ("grouped_linear", (1147, 1870)),  # the gradient of a bias on several threads
    ],
)
def test_cases_that_once_went_wrong_are_right(name, seeds):
    for seed in seeds:
        fuzz_values.check(name, seed)


def test_a_wrong_result_is_wrong_beside_cases_nearly_the_same(monkeypatch):
    def drawn(draw):
        def run(inputs):
            kernels = inputs["x"].dtype == torch.float32 and build.library() is not None
            return (inputs["x"] * (1 + 1e-3 * kernels),)

        return {"x": draw.normal(20, 3)}, run

    monkeypatch.setitem(fuzz_values.OPERATIONS, "wrong", drawn)
    with pytest.raises(AssertionError, match=r"wrong: output 0 is 1\.0e-03 off, .* times plain"):
        fuzz_values.check("wrong", 0)


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
