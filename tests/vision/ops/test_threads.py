"""Results on images do not depend on threads: how many are asked for, granted, and come and go."""

import os
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from threading import Thread

import pytest
import torch
from image_kernels import (
    HALF,
    LAYERS,
    gradients,
    images,
    make_change,
    make_cycle,
    make_native,
    needs_compiler,
)
from image_networks import assert_equal
from torch.testing import assert_close

from mgic_vision import create_model, fuse
from mgic_vision.layers import DepthwiseConv2d
from tests import fuzz_values
from tests.kernels import on_threads
from tests.slow import some

pytestmark = needs_compiler
EXACT = {"rtol": 0, "atol": 0}
COUNTS = (1, 2, 3, 4, 7)


@pytest.mark.parametrize("kind", [*LAYERS, "change-1", "change-2"])
def test_images_are_the_same_on_any_number_of_threads_and_anywhere_in_a_batch(kind):
    if kind in LAYERS:
        channels, native = LAYERS[kind][0], make_native(kind)
    else:  # of width, with this stride
        channels, (_, native) = 20, make_change(20, 20 * HALF, stride=int(kind[-1]))
    # fewer images than threads and more, strips that threads share, more threads than rows
    for shape in [(5, 9, 9), (3, 56, 40), (9, 2, 3)]:
        x = torch.randn(shape[0], channels, *shape[1:])
        alone = torch.cat([native(image[None]) for image in x])
        for count in COUNTS:
            with on_threads(count):
                assert_close(native(x), alone, **EXACT)
                assert_close(native(x[-1:]), alone[-1:], **EXACT)


@pytest.mark.parametrize("shape", [(5, 40, 30, 30), (3, 8, 120, 90), (2, 200, 7, 7)])
def test_depthwise_convolutions_and_gradients_are_the_same_on_any_number_of_threads(shape):
    conv = DepthwiseConv2d(shape[1], shape[1], kernel_size=5)
    x, grad = images(*shape).requires_grad_(), images(*shape, seed=1)
    first = gradients(conv, x, grad)
    for count in COUNTS:
        with on_threads(count):
            assert_close(gradients(conv, x, grad), first, **EXACT)
            one = x[-1:].detach().requires_grad_()
            for found, expected in zip(gradients(conv, one, grad[-1:])[:2], first, strict=False):
                assert_close(found, expected[-1:], **EXACT)


# what a process of its own gets: fewer threads than it asks for
GRANTS = "OMP_THREAD_LIMIT=3", "OMP_DYNAMIC=true", "OMP_MAX_ACTIVE_LEVELS=0"


@cache
def run_alone(*calls: str, grant: str = "OMP_NUM_THREADS=1") -> list[str]:
    """The lines that calls of functions of this file print in a process of its own."""
    here, _, tests, root = Path(__file__).parents[:4]
    variable, _, value = grant.partition("=")
    environment = {"PYTHONPATH": f"{here}:{tests}", "OMP_NUM_THREADS": "1", variable: value}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"from test_threads import *; {'; '.join(calls)}"],
        env=os.environ | environment,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


LIMITED = "run_short_threads(200)", "check_grants()"  # memory first, while there is little


@pytest.mark.fault(48)
@pytest.mark.parametrize("grant", some(GRANTS, GRANTS[0]))
def test_fewer_threads_than_asked_for_give_the_same(grant):
    assert run_alone(*LIMITED, grant=grant)[1] == "same"


def check_grants() -> None:
    """In a process that gets fewer threads than it asks for, where torch may be wrong itself."""
    for name in fuzz_values.OPERATIONS:
        fuzz_values.check(name, 0)
    change, native_change = make_change(20, 20 * HALF)
    conv, grad = DepthwiseConv2d(40, 40), images(3, 40, 30, 30, seed=1)
    cases = [(native_change, change, torch.randn(2, 20, 30, 30))]
    for kind in LAYERS:
        native, plain = make_native(kind), make_cycle(*LAYERS[kind])
        for shape in [(1, 56, 40), (5, 9, 9)]:
            cases.append((native, plain, torch.randn(shape[0], LAYERS[kind][0], *shape[1:])))
    for native, plain, x in cases:
        assert_same_on_one_thread(native, x, plain(x))
    x = images(3, 40, 30, 30).requires_grad_()
    assert_same_on_one_thread(lambda x: gradients(conv, x, grad), x)
    check_network()
    print("same")


def check_network() -> None:
    """With squeeze-excite and with layers of torch's, which may round otherwise."""
    model = create_model("mgic_mobilenetv3_small").eval()
    x = torch.rand(1, 3, 96, 96).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = model(x)
        with on_threads(4):
            assert_equal(fuse(model)(x), expected)


def assert_same_on_one_thread(compute, x, expected=None) -> None:
    one = compute(x)
    if expected is not None:
        assert_equal(one, expected)
    for count in (4, 7):
        with on_threads(count):
            y = compute(x)
        assert_close(y, one, **EXACT)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_threads_that_are_gone_leave_no_memory_behind():
    assert int(run_alone(*LIMITED, grant=GRANTS[0])[0]) < 20 << 20


def run_short_threads(count: int) -> None:
    """Print by how many bytes threads that run a cycle each make a process grow."""
    torch.set_num_threads(1)
    native, x = make_native("squeeze-every"), torch.randn(1, 24, 56, 56)

    def run_for_size(threads: int) -> int:
        for _ in range(threads):
            thread = Thread(target=native, args=(x,))
            thread.start()
            thread.join()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    print(-run_for_size(10) + run_for_size(count))


@pytest.mark.slow
def test_a_kernel_without_memory_says_so():
    assert run_alone("run_without_memory()") == ["no memory"]


def run_without_memory() -> None:
    """Print what a cycle says that is left less memory than it works with."""
    native, x = make_native("squeeze-every"), torch.randn(1, 24, 512, 512)
    native(x[..., :8, :8])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (80 << 20), resource.RLIM_INFINITY))
    with pytest.raises(MemoryError) as raised:
        native(x)
    print(raised.value)
