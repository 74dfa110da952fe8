"""What a table or figure is made of: a name to run it by, and the page that a run leaves."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the table has no options of its own."""


@dataclass(frozen=True)
class Page:
    """What a run found out.

    Args:
        rows: The table, one mapping a row. Keys are column headings; those that start with
            ``paper`` hold what the paper says, those that start with ``ours`` what was found here.
        notes: What a reader has to know to read the numbers, one paragraph each.
        pictures: PNG files by what follows the table's name, ``""`` for the picture of that name.
        seeds: What the randomness follows from, in words.
    """

    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    seeds: str = "none, nothing is random"


@dataclass(frozen=True)
class Item:
    """A table or figure of the paper.

    Args:
        name: What it is called on the command line.
        title: What it is about.
        needs: Data that it needs.
        cost: Time that it takes.
        offline: What of it runs without a network.
        make: From the arguments to the page; ``arguments.docs`` is where other results are.
        add_arguments: Adds the item's own options.
    """

    name: str
    title: str
    needs: str
    cost: str
    offline: str
    make: Callable[[argparse.Namespace], Page]
    add_arguments: Callable[[argparse.ArgumentParser], None] = no_arguments
