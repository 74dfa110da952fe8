"""A table or figure of the paper: a name to run it by, and the page that a run leaves."""

import argparse
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch

from scripts.benchmarks import machine
from scripts.experiments.pages import to_markdown, write_page

PAPER = Path(__file__).with_name("paper.json")  # the paper's numbers, as they are printed there


@dataclass(frozen=True)
class Page:
    """What a run found out.

    Args:
        rows: The table, one mapping a row. Keys are column headings; those that start with
            ``paper`` hold what the paper says, those that start with ``ours`` what was found here.
        notes: What a reader has to know to read the numbers, in Markdown.
        pictures: PNG files by what follows the table's name, ``""`` for the picture of that name.
        seeds: What the randomness follows from, in words.
    """

    rows: Sequence[Mapping[str, Any]]
    notes: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    seeds: str = "none, nothing is random"


@dataclass(frozen=True)
class Item:
    """A table or figure of the paper.

    Args:
        name: What it is called on the command line.
        title: What it is about.
        cost: Time that it takes.
        offline: What of it runs without a network.
        make: From the arguments to the page; ``arguments.docs`` is where other results are.
        add_arguments: Adds the item's own options.
    """

    name: str
    title: str
    cost: str
    offline: str
    make: Callable[[argparse.Namespace], Page]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None

    @property
    def headline(self) -> str:
        """Name and title, as ``Table 5: ...``.

        Example:
            >>> Item("table5", "ResNet-50", "seconds", "all", Page).headline
            'Table 5: ResNet-50'
            >>> Item("open_questions", "what is open", "minutes", "all", Page).headline
            'Open questions: what is open'
        """
        name = self.name
        if "_" in name:
            return f"{name.replace('_', ' ').capitalize()}: {self.title}"
        for kind in ("table", "figure", "section"):
            name = name.replace(kind, f"{kind.capitalize()} ")
        return f"{name.replace('34', '3.4')}: {self.title}"

    def write(self, page: Page, docs: Path, command: str, seconds: float) -> Path:
        """Write page, table and pictures into ``docs``; return the path of the page.

        Raises:
            OSError: The folder cannot be written.
        """
        made_by = (
            f"Made by `{command}` in {seconds / 60:.1f} minutes on {torch.get_num_threads()} of "
            f"{machine.num_cores()} cores ({machine.processor()}), torch {torch.__version__}. "
            f"Seeds: {page.seeds}."
        )
        shown = [f"![{self.name}{s}]({self.name}{s}.png)" for s in page.pictures]
        parts = [f"# {self.headline}", made_by, to_markdown(page.rows), page.notes, *shown]
        text = "\n\n".join(filter(None, parts))
        return write_page(docs, self.name, text, page.rows, page.pictures)


def command_of(given: Sequence[str]) -> str:
    """The command that makes a page again; the folder it is written to does not matter."""
    kept = list(given)
    if "--docs" in kept:
        place = kept.index("--docs")
        del kept[place : place + 2]
    threads = os.environ.get("OMP_NUM_THREADS")
    prefix = f"OMP_NUM_THREADS={threads} " if threads else ""
    return f"{prefix}python -m scripts.paper {' '.join(kept)}"


@functools.cache
def published(table: str) -> dict[str, Any]:
    """Return a table: its title, units, what its accuracies are of, and rows.

    Raises:
        KeyError: There are no numbers of such a table.

    Example:
        >>> published("table5")["rows"][0]["weights"]
        '25.6'
    """
    return json.loads(PAPER.read_text(encoding="utf-8"))["tables"][table]


def number(table: str, row: Mapping[str, Any], key: str) -> float | None:
    """Return a printed number in full, or None where the paper has none.

    Example:
        >>> number("table5", published("table5")["rows"][0], "weights")
        25600000.0
    """
    if key not in row:
        return None
    return float(Decimal(row[key]) * Decimal(published(table)["units"].get(key, "1")))


def rounding(table: str, row: Mapping[str, Any], key: str) -> float:
    """Return half a unit of the last printed digit: what may be lost to rounding.

    Example:
        >>> rounding("table5", published("table5")["rows"][0], "weights")
        50000.0
    """
    exponent = Decimal(row[key]).as_tuple().exponent
    unit = Decimal(published(table)["units"].get(key, "1"))
    return float(unit * Decimal(10) ** int(exponent) / 2)
