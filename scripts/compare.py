"""Compare networks with several seeds, and write a page of ``docs/results``.

``python -m scripts.compare points`` trains what is missing in ``runs/points``, continues what was
interrupted, and writes ``docs/results/points.md``. ``--minutes 30`` stops after half an hour; the
same command goes on. ``--page-only`` trains nothing.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scripts.benchmarks.machine import threads
from scripts.command import command_parser, told
from scripts.experiments.pages import DOCS
from scripts.experiments.registry import COMPARISONS


@told
def main(args: Sequence[str] | None = None) -> None:
    """Run what is missing and write the page."""
    parser = command_parser("compare", __doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    for name, comparison in COMPARISONS.items():
        command = commands.add_parser(name, help=comparison.title)
        command.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages")
        comparison.add_arguments(command)
    options, rest = parser.parse_known_args(args)
    comparison = COMPARISONS[options.name]
    if rest and not hasattr(comparison, "script"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    with threads(1):
        print(f"wrote {comparison.run(options, read_changes(parser, rest))}")


def read_changes(parser: argparse.ArgumentParser, words: Sequence[str]) -> Mapping[str, Any]:
    """Read settings of training scripts, ``--trainer.max_epochs 1`` and so on."""
    names, values = words[::2], words[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        parser.error(f"expected pairs such as --trainer.max_epochs 1, got {' '.join(words)}")
    return {
        name.removeprefix("--"): yaml.safe_load(value)
        for name, value in zip(names, values, strict=True)
    }


if __name__ == "__main__":
    sys.exit(main())
