"""Run the tests of every fault that a run or an input may meet, and tabulate what was seen.

``python -m scripts.faults`` runs all of them; ``--part quick`` leaves out what kills processes or
fills disks by the minute, ``--part slow`` runs only that. A test belongs to a fault by its mark,
``@pytest.mark.fault(12)``, and its name is what was seen. ``--page docs/reliability.md`` writes the
table with date and versions. A fault without a test does not pass.
"""

import datetime
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import yaml

from scripts.command import command_parser
from scripts.training.reliability.files import write_whole

ROOT = Path(__file__).parents[1]
PARTS = {"all": "fault", "quick": "fault and not slow", "slow": "fault and slow"}
PACKAGES = ("torch", "torch-geometric", "lightning", "safetensors", "numpy", "pytest", "hypothesis")

# number -> what happens, what is to come of it
FAULTS: dict[int, tuple[str, str]] = yaml.safe_load(
    Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
)


@dataclass
class Seen:
    """What the tests of one fault gave, and how often each ran, as a sentence."""

    outcomes: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)

    @property
    def verdict(self) -> str:
        """``pass`` only where a test ran and none failed or was skipped."""
        if self.outcomes["failed"]:
            return "FAIL"
        if self.outcomes["skipped"]:
            return "incomplete"
        return "pass" if self.outcomes["passed"] else "no test"


def main(args: Sequence[str] | None = None) -> int:
    """Run the tests and print the table; 0: every fault of the part was survived."""
    parser = command_parser("faults", __doc__)
    parser.add_argument("--part", choices=PARTS, default="all")
    parser.add_argument("--page", type=Path, help="write the table here, as Markdown")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time")
    parser.add_argument(
        "--results",
        nargs="+",
        type=Path,
        help="run nothing, read what pytest wrote with --junitxml; of a test that is in several "
        "files the last counts",
    )
    options = parser.parse_args(args)
    begin, code = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        files = options.results or [Path(folder, "results.xml")]
        if not options.results:
            code = run_tests(options.part, options.jobs, files[0])
        try:
            seen = read_results(*files)
        except (OSError, ElementTree.ParseError) as error:
            print(f"error: cannot read the results of pytest: {error}", file=sys.stderr)
            return 1
    rows = list(make_rows(seen, whole=options.part == "all"))
    print(as_text(rows), summary(seen), sep="\n")
    if options.page:
        minutes = f"in {(time.monotonic() - begin) / 60:.1f} minutes"
        how = "from the results of pytest" if options.results else minutes
        write_whole(options.page, as_page(rows, summary(seen), how, options.part).encode())
    return int(code != 0 or any(row[-1] != "pass" for row in rows))


def run_tests(part: str, jobs: int, results: Path) -> int:
    """Run the marked tests on so many processes; what they gave goes to ``results``."""
    command = [sys.executable, "-m", "pytest", "tests", "-m", f"({PARTS[part]}) and not network"]
    command += ["-q", "--durations=10", f"--numprocesses={jobs}", "--dist=load"]
    command += [f"--junitxml={results}", "-o", "junit_family=xunit1"]
    env = {"OMP_NUM_THREADS": "1"} | os.environ
    return subprocess.run(command, cwd=ROOT, env=env).returncode


def read_results(*paths: Path) -> dict[int, Seen]:
    """Read pytest's own results by the numbers that the tests are marked with."""
    seen: dict[int, Seen] = defaultdict(Seen)
    cases = {
        (case.attrib["classname"], case.attrib["name"]): case
        for path in paths
        for case in ElementTree.parse(path).iter("testcase")
    }
    for case in cases.values():
        numbers = {
            int(entry.attrib["value"])
            for entry in case.iter("property")
            if entry.attrib["name"] == "fault"
        }
        outcome = "passed"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        elif case.find("skipped") is not None:
            outcome = "skipped"
        for number in numbers:
            seen[number].outcomes[outcome] += 1
            seen[number].names[as_sentence(case.attrib["name"])] += 1
    return seen


def as_sentence(test: str) -> str:
    """Turn the name of a test into what it claims.

    Example:
        >>> as_sentence("test_a_cut_archive_is_refused[end-2]")
        'a cut archive is refused'
    """
    return re.sub(r"\[.*", "", test, flags=re.DOTALL).removeprefix("test_").replace("_", " ")


def make_rows(seen: Mapping[int, Seen], *, whole: bool) -> Iterable[tuple[str, ...]]:
    """Yield number, fault, expected, seen and verdict; a part leaves out what it has not run."""
    for number, (fault, expected) in FAULTS.items():
        found = seen.get(number, Seen())
        if not whole and not found.outcomes:
            continue
        names = [f"{name} ({n})" if n > 1 else name for name, n in found.names.most_common()]
        yield f"{number:02}", fault, expected, "; ".join(names), found.verdict


def summary(seen: Mapping[int, Seen]) -> str:
    """Say how many faults were survived, by how many tests."""
    passed = sum(found.verdict == "pass" for found in seen.values())
    outcomes = sum((found.outcomes for found in seen.values()), Counter())
    counts = ", ".join(f"{outcomes[key]} {key}" for key in ("passed", "failed", "skipped"))
    return f"{passed} of {len(FAULTS)} faults pass (tests, by fault: {counts})"


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Lay the rows out for a terminal."""
    widths = [2, 50, 60, 70]
    lines = []
    for row in [("", "fault", "expected", "seen", "verdict"), *rows]:
        cells = [f"{cell[:width]:<{width}}" for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]))
    return "\n".join(lines)


def as_page(rows: Sequence[Sequence[str]], result: str, how: str, part: str) -> str:
    """Return the page; ``how`` says how the rows came to be."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    part_of = "" if part == "all" else f" --part {part}"
    lines = [
        "# Faults and what comes of them",
        "",
        "Power cuts, full disks, damaged files, broken meshes, two runs in one folder, graphs that "
        "name nodes which do not exist: tests make them happen for real. Each has to end as the "
        "table says, with nothing lost and nothing computed wrongly without a word. "
        f"{result}; `make faults` runs them again.",
        "",
        f"<details><summary>All {len(rows)} faults, and what their tests claim</summary>",
        "",
        "| | fault | expected | seen | verdict |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "</details>",
        "",
        "How often a test ran with other inputs stands behind what it claims. "
        f"Made by `python -m scripts.faults{part_of}` on {datetime.date.today()} {how}: "
        f"Python {platform.python_version()}, {versions}, {platform.system()}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
