"""Pages written and read: Markdown for people, CSV with the same rows, pictures."""

import argparse
import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import style
from matplotlib.figure import Figure

from scripts.benchmarks import machine
from scripts.paper_tables.item import Item, Page
from scripts.training.reliability.files import write_whole

DASH = "-"


def write_page(item: Item, page: Page, docs: Path, command: str, seconds: float) -> Path:
    """Write ``<name>.md``, ``<name>.csv`` and the pictures into ``docs``; return the first.

    Raises:
        OSError: The folder cannot be written.
    """
    for suffix, content in page.pictures.items():
        write_whole(docs / f"{item.name}{suffix}.png", content)
    write_whole(docs / f"{item.name}.csv", to_csv(page.rows).encode())
    parts = [f"# {headline(item)}", made_by(command, page.seeds, seconds), to_markdown(page.rows)]
    parts += page.notes
    parts += [f"![{item.name}{suffix}]({item.name}{suffix}.png)" for suffix in page.pictures]
    write_whole(docs / f"{item.name}.md", ("\n\n".join(parts) + "\n").encode())
    return docs / f"{item.name}.md"


def headline(item: Item) -> str:
    """Name and title of an item, as ``Table 5: ...``.

    Example:
        >>> headline(Item("table5", "ResNet-50", "nothing", "seconds", "all", Page))
        'Table 5: ResNet-50'
        >>> headline(Item("open_questions", "what is open", "nothing", "minutes", "all", Page))
        'Open questions: what is open'
    """
    name = item.name
    if "_" in name:
        return f"{name.replace('_', ' ').capitalize()}: {item.title}"
    for kind in ("table", "figure", "section"):
        name = name.replace(kind, f"{kind.capitalize()} ")
    return f"{name.replace('34', '3.4')}: {item.title}"


def made_by(command: str, seeds: str, seconds: float) -> str:
    """How a page was made: command, seed, cores, minutes."""
    return (
        f"Made by `{command}` in {seconds / 60:.1f} minutes on {torch.get_num_threads()} of "
        f"{machine.num_cores()} cores ({machine.processor()}), torch {torch.__version__}. "
        f"Seeds: {seeds}."
    )


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a table that reads well as text, too; ``None`` is a dash, text is set to the left.

    Example:
        >>> print(to_markdown([{"model": "a", "weights": 12000}, {"model": "b", "weights": None}]))
        | model | weights |
        | ----- | ------: |
        | a     |  12,000 |
        | b     |       - |
    """
    if not rows:
        return "(no rows)"
    columns = list(rows[0])
    numeric = {c for c in columns if all(not isinstance(row[c], str) for row in rows)}
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(columns))]
    rule = [
        "-" * (width - 1) + ":" if column in numeric else "-" * width
        for column, width in zip(columns, widths, strict=True)
    ]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for cell, column, width in zip(line, columns, widths, strict=True)
        )
        + " |"
        for line in (cells[0], rule, *cells[1:])
    )


def _cell(value: Any) -> str:
    if value is None or value == "":
        return DASH
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows with all their digits.

    Example:
        >>> print(to_csv([{"model": "a", "mse": 0.125}]), end="")
        model,mse
        a,0.125
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table that some script wrote; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def as_png(figure: Figure) -> bytes:
    """Draw a figure."""
    content = io.BytesIO()
    with style.context("default"):
        figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    return content.getvalue()


def command_of(name: str, arguments: argparse.Namespace, given: Sequence[str]) -> str:
    """The command that makes a page again; the folder it is written to does not matter."""
    kept, skip = [], False
    for word in given:
        if skip or word == "--docs":
            skip = not skip
            continue
        kept.append(word)
    threads = os.environ.get("OMP_NUM_THREADS")
    prefix = f"OMP_NUM_THREADS={threads} " if threads else ""
    return f"{prefix}python -m scripts.paper {' '.join(kept) or name}"
