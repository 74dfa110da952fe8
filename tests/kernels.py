"""Kernels on and off, and on any number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from mgic_geo.ops.csrc import build
from scripts.benchmarks.machine import threads as on_threads

needs_compiler = pytest.mark.skipif(build.library() is None, reason="no C compiler")
#: What makes a process run kernels in Triton on a processor, see tests/geo/ops/test_triton.py.
INTERPRETER = {"TRITON_INTERPRET": "1", "MGIC_KERNELS": "triton"}
INTERPRETS = all(os.environ.get(name) == value for name, value in INTERPRETER.items())
interpreted = pytest.mark.skipif(not INTERPRETS, reason="runs in a process of its own")
TRITON_TYPES = [torch.float32, torch.bfloat16, torch.float16]


@contextmanager
def kernels_off() -> Iterator[None]:
    """Everything in plain PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "library", lambda *_: None)
        yield


def assert_same_on_any_threads(compute: Callable[[], Any]) -> None:
    """Bit for bit."""
    results = []
    for count in (1, 2, 3, 5, 7):
        with on_threads(count):
            results.append(compute())
    for other in results[1:]:
        assert_close(other, results[0], rtol=0, atol=0, equal_nan=True)
