"""What a benchmark ran on: processor, versions, and what the processor reaches at best."""

import ctypes
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "torch-geometric", "torch-cluster", "torchvision", "timm", "onnxruntime")
GEMM_SIZE = 1536
COPY_BYTES = 1 << 28  # beyond any cache
# glibc's mallopt: from what size a block is mapped anew, and how much free memory is given back
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1


def processor() -> str:
    """Name of the processor, as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str | None]:
    """Versions of Python, the C library and the packages that matter; ``None``: not installed."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def gemm_gflops(size: int = GEMM_SIZE, repeats: int = 7) -> float:
    """Billions of float32 operations a second in a square matrix product, the median run's."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / median_time(lambda: a @ b, repeats) / 1e9


def memory_bandwidth(num_bytes: int = COPY_BYTES, repeats: int = 7) -> float:
    """Gigabytes a second, read and written, while a large tensor is copied; the median run's."""
    source = torch.ones(num_bytes // 4)
    target = torch.empty_like(source)
    return 2 * num_bytes / median_time(lambda: target.copy_(source), repeats) / 1e9


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch run what is inside on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def median_time(
    run: Callable[[], object],
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median seconds of a run by a clock, after some that do not count."""
    times = []
    for _ in range(warm_up + repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return statistics.median(times[warm_up:])


def keep_freed_memory() -> str:
    """Make the C library reuse freed memory instead of giving it back to the system.

    Without this every large temporary is mapped and zeroed page by page again, which costs whoever
    allocates most and says little about the methods. It holds for all contenders, until the process
    ends.

    Returns:
        What was done, for the record.
    """
    if platform.libc_ver()[0] != "glibc":
        return "allocator: as the system has it (no glibc)"
    mallopt = ctypes.CDLL(None).mallopt
    done = mallopt(M_MMAP_THRESHOLD, 1 << 30) and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    if not done:
        return "allocator: as the system has it (mallopt refused)"
    return "allocator: glibc keeps freed memory (mallopt), for all contenders"
