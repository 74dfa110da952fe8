"""How training scripts start: what can be refused is refused before torch is imported."""

import importlib
import os
import pkgutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.training.reliability.claim import claim, launch_rank, refuse_run, release, restarted
from scripts.training.reliability.errors import TrainingError

EVERY = 5.0  # seconds between lines
PATHS = ("run_dir", "checkpoint", "labels", "data.root", "data.zip")  # which may look like anything


def spin_briefly(environment: MutableMapping[str, str]) -> None:
    """Let threads of OpenMP that wait for each other soon give up the processor.

    By default they turn in circles for milliseconds, which alone saves a little and beside another
    process takes the cores from those that have work: a training step of 16 clouds of 256 points on
    two cores takes 67 to 83 ms with either setting where nothing else runs, and beside another such
    training 2.3 to 3.0 s by default and 0.22 s with this. It counts only before torch is loaded,
    and a choice of the user's stays.

    Example:
        >>> environment = {"OMP_NUM_THREADS": "2"}
        >>> spin_briefly(environment)
        >>> environment
        {'OMP_NUM_THREADS': '2', 'GOMP_SPINCOUNT': '5000'}
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & environment.keys():
        environment["GOMP_SPINCOUNT"] = "5000"


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Say on standard error every few seconds that something is being done.

    Example:
        >>> with telling("starting"):
        ...     pass
    """
    start, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(EVERY):
            print(f"{what}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@dataclass(frozen=True)
class Script:
    """A training script, which imports its classes when it is called and may run.

    Args:
        name: Its module.
        model: Its classifier, as ``module:name``.
        data: Its data.
        names: Of the data set and of the network that are taken by default.
    """

    name: str
    model: str
    data: str
    names: tuple[str, str]

    def __call__(self, args: Sequence[str] | None = None) -> int:
        """Run a stage and return its exit code.

        0: done. 1: an error, told in one message. 2: bad arguments. 3: done, but the disk refused
        some files. 75: to be continued, as after SIGTERM. 130: stopped by Ctrl-C.
        """
        args = sys.argv[1:] if args is None else args
        try:
            if not {"-h", "--help"} & set(args):
                self._claim(args[:1], read_settings(args[1:]))
            spin_briefly(os.environ)
            told = args[:1] == ["fit"] or sys.stderr.isatty()  # a log of predictions has only them
            if told:
                print("starting", file=sys.stderr, flush=True)
            with telling("starting") if told else nullcontext():
                cli = importlib.import_module("scripts.training.cli")
                classes = self.load()
            return cli.main(*classes, f"python -m {self.name}", args)
        except TrainingError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        finally:
            release()

    def load(self) -> tuple[type, type]:
        """Import the classifier and the data."""
        return pkgutil.resolve_name(self.model), pkgutil.resolve_name(self.data)

    def _claim(self, stage: Sequence[str], given: Mapping[str, Any]) -> None:
        """Claim the run folder if it can be told already; if not, that is done later."""
        folder = given.get("run_dir")
        if folder is None and stage == ["fit"]:
            keys = ("data.name", "model.name")
            names = (given.get(key, name) for key, name in zip(keys, self.names, strict=True))
            folder = "runs/" + "-".join(map(str, names))
        tries = given.get("trainer.fast_dev_run") not in (None, False, 0)
        if folder is None or tries or launch_rank() != 0 or stage not in (["fit"], ["test"]):
            return
        with suppress(OSError):  # told by who writes there
            claim(Path(str(folder)))
        if stage == ["fit"] and not (restarted() or given.get("resume") or given.get("overwrite")):
            refuse_run(Path(str(folder)))


def read_settings(args: Sequence[str]) -> dict[str, Any]:
    """Return by dotted name what arguments, and configuration files among them, set.

    The last one counts, as for the parser. What is not understood is left to it.

    Example:
        >>> read_settings(["--run_dir", "runs/a", "--data.root=b", "--resume", "--seed", "3"])
        {'run_dir': 'runs/a', 'data.root': 'b', 'resume': True, 'seed': 3}
    """
    found: dict[str, Any] = {}
    for place, word in enumerate(args):
        if not word.startswith("--"):
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            following = args[place + 1 : place + 2]
            value = following[0] if following and not following[0].startswith("--") else "true"
        if name == "config":
            with suppress(OSError, ValueError, yaml.YAMLError):
                found |= dict(_flatten(yaml.safe_load(Path(value).read_text(encoding="utf-8"))))
            continue
        found[name.replace("-", "_")] = value if name in PATHS else _value_of(value)
    return found


def _value_of(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _flatten(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """List the settings of a nested configuration by their dotted names."""
    if not isinstance(tree, Mapping):
        return [(prefix.removesuffix("."), tree)]
    return [pair for key, value in tree.items() for pair in _flatten(value, f"{prefix}{key}.")]
