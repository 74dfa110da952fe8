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

import torch
import yaml

from scripts.experiments.pages import DOCS
from scripts.experiments.registry import COMPARISONS
from scripts.training.reliability.errors import TrainingError


def main(args: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page; 1: an error, told in one message."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.compare", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="name", required=True)
    for name, comparison in COMPARISONS.items():
        command = commands.add_parser(name, help=comparison.title)
        command.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages")
        comparison.add_arguments(command)
    options, rest = parser.parse_known_args(args)
    comparison, threads = COMPARISONS[options.name], torch.get_num_threads()
    if rest and not hasattr(comparison, "script"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    torch.set_num_threads(1)
    try:
        print(f"wrote {comparison.run(options, read_changes(parser, rest))}")
    except (OSError, ValueError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        torch.set_num_threads(threads)
    return 0


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
