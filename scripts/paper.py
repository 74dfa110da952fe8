"""The paper's tables and figures, each by its name: the paper's numbers beside ours.

``python -m scripts.paper list`` names them, ``python -m scripts.paper table5`` runs one and writes
``docs/results/table5.md``, its CSV file and figure. ``index`` writes the page that comes first,
from what is there, and with ``--readme README.md`` the table that README begins with.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.command import command_parser, told
from scripts.experiments.pages import DOCS, to_markdown
from scripts.experiments.paper.claims import write_index
from scripts.experiments.paper.front import write_front
from scripts.experiments.paper.item import command_of
from scripts.experiments.paper.registry import ITEMS, WITHOUT_NUMBERS


@told
def main(args: Sequence[str] | None = None) -> None:
    """Run one table, and say what it took."""
    given = sys.argv[1:] if args is None else list(args)
    arguments = make_parser().parse_args(given)
    if arguments.name == "list":
        for item in ITEMS.values():
            print(f"{item.name:<10} {item.title}; {item.cost}; offline: {item.offline}")
        for name, why in WITHOUT_NUMBERS.items():
            print(f"{name:<10} {why}")
        return
    if arguments.name != "index":
        run(arguments, given)
    elif arguments.readme:
        write_front(arguments.readme, arguments.docs)
    print(f"wrote {write_index(arguments.docs)}")


def make_parser() -> argparse.ArgumentParser:
    """One subcommand a table or figure, with its own options."""
    parser = command_parser("paper", __doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    commands.add_parser("list", help="name every table and figure")
    index = commands.add_parser("index", help="write the page that comes first")
    index.add_argument("--docs", type=Path, default=DOCS, help="folder of the results")
    index.add_argument("--readme", type=Path, help="file whose table of networks to write, too")
    for item in ITEMS.values():
        command = commands.add_parser(item.name, help=item.title, description=item.headline)
        command.add_argument("--docs", type=Path, default=DOCS, help="folder of the results")
        item.add_arguments(command)
    return parser


def run(arguments: argparse.Namespace, given: Sequence[str]) -> None:
    """Make, print and write one page."""
    item, start = ITEMS[arguments.name], time.monotonic()
    page = item.make(arguments)
    seconds, command = time.monotonic() - start, command_of(given)
    path = item.write(page, arguments.docs, command, seconds)
    print(item.headline, to_markdown(page.rows), page.notes, sep="\n\n", end="\n\n")
    print(f"took {seconds:.1f} s; seeds: {page.seeds}; command: {command}")
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
