"""Runs the real training program in fresh processes, and injects faults into them.

The processes are forked from a server that has imported everything once, or each would spend
most of its time on imports.
"""

import csv
import ctypes
import gc
import importlib
import multiprocessing
import os
import random
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from torch.testing import assert_close

from tests.no_network import refuse_network

Fault = Callable[[], None]
ROOT = Path(__file__).parents[1]
RUN_CHECKPOINT = "scripts.training.reliability.run_checkpoint.RunCheckpoint"
KILLED = -signal.SIGKILL
NO_TEST = ("--test_after_fit", "false", "--report", "false")
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
_context = multiprocessing.get_context("forkserver")
_parts = ("cli", "points", "images", "scenes", "segmenter", "parts")
_late = "torch.utils.tensorboard"  # what a run imports when it writes
_context.set_forkserver_preload([*(f"scripts.training.{name}" for name in _parts), _late])


def start(
    log: Path,
    *args: object,
    fault: Fault | None = None,
    env: Mapping[str, str] = {},
    script: str = "scripts.train_modelnet10",
):
    """Start the program; its output goes to a file."""
    call = (script, log, list(map(str, args)), fault, dict(env))
    process = _context.Process(target=_child, args=call)
    process.start()
    return process


def run(
    log: Path,
    *args: object,
    fault: Fault | None = None,
    code: int | Sequence[int] = 0,
    script: str = "scripts.train_modelnet10",
) -> str:
    """Run the program to its end, and return what it printed.

    It has to end with the exit code, or one of them, that is given (negative for a signal), and
    errors of its own without a traceback.
    """
    process = start(log, *args, fault=fault, script=script)
    output = _finish(process, log)
    assert process.exitcode in ([code] if isinstance(code, int) else code), output
    assert process.exitcode not in (1, 2) or "Traceback" not in output, output
    return output


def _finish(process, log: Path, timeout: float = 600) -> str:
    """Wait for the program, and return what it printed."""
    process.join(timeout)
    if process.is_alive():
        process.kill()
        raise TimeoutError(log.read_text())
    return log.read_text()


def run_on_disk(
    place: Path | str, size: int, *args: object, then: str = "", script: str
) -> subprocess.CompletedProcess:
    """Run the program with a small file system at ``place``, where nobody else sees it.

    Args:
        place: Where it is mounted.
        size: Its bytes.
        args: Arguments of the program.
        then: Shell command that is run before the file system is gone.
        script: The program.

    Skips the test where nobody may mount anything.
    """
    if not _can_mount():
        pytest.skip("no file system of one's own can be mounted here")
    program = shlex.join([sys.executable, "-m", script, *map(str, args)])
    commands = f"""
        mount -t tmpfs -o size={size} none {shlex.quote(str(place))} || exit 99
        {program}
        code=$?; {then or ":"}; exit $code
    """
    return subprocess.run(
        [*UNSHARE, commands], cwd=ROOT, capture_output=True, text=True, timeout=600
    )


@cache
def _can_mount() -> bool:
    """Whether the system lets anybody mount what only they see."""
    try:
        tried = [*UNSHARE, "mount -t tmpfs -o size=65536 none /tmp"]
        return subprocess.run(tried, capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False


def run_ranks(
    folder: Path,
    *args: object,
    faults: Sequence[Fault | None] = (None, None),
    codes: Sequence[int] = (0, 0),
    extra: Sequence[Sequence[str]] = ((), ()),
    script: str = "scripts.train_modelnet10",
) -> list[str]:
    """Run one process for each fault, with the environment that torchrun would give it.

    Returns:
        What each of them printed; they have to end with the exit codes that are given.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes, logs = [], [folder / f"log-{rank}" for rank in range(len(faults))]
    for rank, fault in enumerate(faults):
        env = {
            "TORCHELASTIC_RUN_ID": "test",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(len(faults)),
            "LOCAL_WORLD_SIZE": str(len(faults)),
            "GROUP_WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        call = (logs[rank], *args, *extra[rank])
        processes.append(start(*call, fault=fault, env=env, script=script))
    outputs = [_finish(process, log) for process, log in zip(processes, logs, strict=True)]
    assert [process.exitcode for process in processes] == list(codes), outputs
    return outputs


def survive_kills(
    folder: Path, whole: Path, *command: object, script: str, kills: int = 10
) -> None:
    """Kill a run at random moments and resume it with other workers, until it has ended.

    A run is killed up to three times before it may end, in the bits of the run ``whole``; another
    one is then started in its place. Moments are drawn within the time of the quickest start that
    ended by itself, so that a machine that gets faster meanwhile lets no run escape for good.
    """
    log, moments, count, left = folder / "log", random.Random(0), 0, 0
    begin = time.monotonic()
    run(log, *command, "--overwrite", script=script)
    seconds = time.monotonic() - begin
    for _ in range(4 * kills):
        mode, left = ("--resume", left - 1) if left else ("--overwrite", 2)
        workers = ("--data.num_workers", moments.choice("012"))
        begin = time.monotonic()
        process = start(log, *command, mode, *workers, script=script)
        process.join(moments.uniform(0.2, 1.0) * seconds)
        if process.is_alive():
            process.kill()
            count += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
        if process.exitcode == 0:
            seconds, left = min(seconds, time.monotonic() - begin), 0
        if left == 0 or count >= kills:
            run(log, *command, "--resume", script=script)
            assert_same_run(whole, folder)
        if count >= kills:
            return
    raise AssertionError(f"only {count} of {4 * kills} starts lived long enough to be killed")


def metrics(folder: Path) -> list[list[str]]:
    """The rows of ``metrics.csv`` without the seconds, header first."""
    with (folder / "metrics.csv").open() as file:
        return [row[:-1] for row in csv.reader(file)]


def newest(folder: Path) -> str:
    """The name of the last checkpoint of a run."""
    return max(path.name for path in (folder / "checkpoints").glob("step-*"))


def assert_kills_change_nothing(fit: Callable, place: Path, *kills: Fault, fault=None) -> None:
    """Check that a run that every kill ends and that is resumed ends in the bits of another one.

    Args:
        fit: Trains in the folder that it is given, as :func:`run` does.
        place: Folder for both.
        kills: What ends the first starts.
        fault: What the other starts and the other run have to live with.
    """
    one, other = place / "one", place / "other"
    fit(one, fault=fault)
    for kill in kills:
        fit(other, "--resume", fault=kill, code=KILLED)
    fit(other, "--resume", fault=fault)
    assert_same_run(one, other)


def assert_same_run(one: Path, other: Path) -> None:
    """Check that two runs ended in the same bits."""
    from scripts.training.reliability.checkpoint import read_checkpoint

    assert metrics(one) == metrics(other)
    for name in ("best.ckpt", newest(one)):
        first, second = (read_checkpoint(folder / "checkpoints" / name) for folder in (one, other))
        average = {"current_model_state", "averaging_state"} & first.keys()
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", *average):
            assert_close(first[key], second[key], rtol=0, atol=0)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def _child(
    script: str, log: Path, args: list[str], fault: Fault | None, env: dict[str, str]
) -> None:
    gc.freeze()  # garbage is not looked for in what the server has imported
    os.environ.update(env)
    refuse_network()
    main = importlib.import_module(script).main

    multiprocessing.set_start_method("fork", force=True)  # for processes that load data
    os.setpgrp()  # a signal to it reaches nobody else
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os.chdir(ROOT)
    if fault:
        fault()
    sys.exit(main(args))


def _before(owner, method: str, count: int, act: Callable[[], None]) -> None:
    """Let something happen when a method is called for the ``count``-th time."""
    if isinstance(owner, str):
        module, name = owner.rsplit(".", 1)
        owner = getattr(sys.modules[module], name)
    original, calls = getattr(owner, method), 0

    def wrapper(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count:
            act()
        return original(*args, **kwargs)

    setattr(owner, method, wrapper)


@dataclass(frozen=True)
class SignalAt:
    """Sends a signal to the process itself when it enters a method for the ``count``-th time."""

    owner: str
    method: str
    count: int = 1
    number: int = signal.SIGKILL
    times: int = 1

    def __call__(self) -> None:
        def send():
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)

        _before(self.owner, self.method, self.count, send)


@dataclass(frozen=True)
class Hang:
    """Lets a process do nothing for so long when it trains on a batch for the ``count``-th time."""

    owner: str
    count: int
    seconds: float

    def __call__(self) -> None:
        def hang():
            time.sleep(self.seconds)
            os._exit(9)

        _before(self.owner, "training_step", self.count, hang)


@dataclass(frozen=True)
class WorkerKilled:
    """Kills the process that loads the ``count``-th sample, if it is not the main one."""

    count: int

    def __call__(self) -> None:
        from torch.utils.data import get_worker_info

        from datasets.mesh_dataset import MeshDataset

        def die():
            if get_worker_info() is not None:
                os.kill(os.getpid(), signal.SIGKILL)

        _before(MeshDataset, "__getitem__", self.count, die)


@dataclass(frozen=True)
class CountBuilds:
    """Notes in a file every cache that is built."""

    path: Path

    def __call__(self) -> None:
        from datasets import mesh_cache

        write = mesh_cache._write

        def noted(folder, *args):
            with self.path.open("a") as file:
                file.write(f"{folder.name}\n")
            time.sleep(0.5)  # so that the others have to wait
            write(folder, *args)

        mesh_cache._write = noted


@dataclass(frozen=True)
class ReadOnlyAfter:
    """Takes the right to write to its checkpoints from the process once ``count`` are written."""

    folder: Path
    count: int

    def __call__(self) -> None:
        def lock():
            _give_up_privileges()
            self.folder.chmod(0o555)

        _before(RUN_CHECKPOINT, "_save_step", self.count + 1, lock)


def _give_up_privileges() -> None:
    """Let file modes count also for root, by dropping all of its capabilities."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


@dataclass(frozen=True)
class Unreadable:
    """Takes the right to read a file from the process."""

    path: Path

    def __call__(self) -> None:
        self.path.chmod(0)
        _give_up_privileges()


@dataclass(frozen=True)
class CodeFrom:
    """Lets the process take the code of another checkout for its own."""

    root: Path

    def __call__(self) -> None:
        from scripts.training.reliability import distributed

        distributed.__file__ = str(self.root / "scripts/training/reliability/distributed.py")


@dataclass(frozen=True)
class DiskFullAfter:
    """Lets no file grow beyond a few kilobytes once ``count`` checkpoints are written.

    A ``deadly`` limit makes the kernel end the process in the middle of the write.
    """

    count: int
    deadly: bool = False

    def __call__(self) -> None:
        def fill():
            if self.deadly:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

        _before(RUN_CHECKPOINT, "_save_step", self.count + 1, fill)


@dataclass(frozen=True)
class NotFinite:
    """Makes one thing not finite: the ``loss`` of a batch or the ``input`` of a sample."""

    where: str
    count: int

    def __call__(self) -> None:
        from datasets.mesh_dataset import MeshDataset
        from scripts.training.points import PointClassifier

        forward, item, calls = PointClassifier.forward, MeshDataset.__getitem__, 0

        def bad_forward(model, batch):
            nonlocal calls
            calls += 1
            return forward(model, batch) * (float("nan") if calls == self.count else 1)

        def bad_item(dataset, key):
            sample = item(dataset, key)
            if sample.index == self.count:
                sample.pos[3, 1] = float("inf")
            return sample

        if self.where == "loss":
            PointClassifier.forward = bad_forward
        else:
            MeshDataset.__getitem__ = bad_item
