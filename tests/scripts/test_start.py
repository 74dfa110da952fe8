"""What training scripts set before torch is loaded."""

import os
import platform
import subprocess
import sys

import pytest

PAGES = """
import os, resource
from scripts.training.start import keep_memory

def fill():
    return [b"x" * (size << 20) for size in (16, 8, 4, 2) * 4]

keep_memory(os.environ)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_taken(**choice: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PAGES],
        env={**os.environ, **choice},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries")
def test_freed_memory_is_taken_again_and_a_choice_of_the_user_stays():
    assert pages_taken() < 100 < pages_taken(MALLOC_TRIM_THRESHOLD_="100000")
