"""The writer of pages: Markdown for people, CSV with the same rows, pictures."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import jinja2
import torch
from matplotlib import style
from matplotlib.figure import Figure

from scripts.experiments import ranges
from scripts.training.reliability.files import write_whole
from scripts.training.reports.figures import STYLE, png_of

P = ParamSpec("P")

DOCS = Path("docs/results")
FOLDERS = [Path(__file__).parent / "pages", Path(__file__).parent / "paper" / "notes"]
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDERS),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals |= {"torch": torch.__version__, "who_wins": ranges.who_wins}
TEMPLATES.filters |= {
    "spread": ranges.spread,
    "range": ranges.spread_and_range,
    "number": lambda value: f"{value:,}",
    "millions": lambda value: f"{value / 1e6:.1f} M",
    "share": lambda value: f"{value:.0%}",
    "digits": lambda value, digits: f"{value:.{digits}f}",
    "g": lambda value: f"{value:g}",
}


def fill(template: str, **values: Any) -> str:
    """Fill a template of the folder ``pages``."""
    return TEMPLATES.get_template(template).render(**values)


def write_page(
    docs: Path,
    name: str,
    text: str,
    rows: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, bytes],
) -> Path:
    """Write ``NAME.md``, ``NAME.csv`` and pictures ``NAME<suffix>.png``; return the first.

    Raises:
        OSError: The folder cannot be written.
    """
    for suffix, content in pictures.items():
        write_whole(docs / f"{name}{suffix}.png", content)
    write_whole(docs / f"{name}.csv", to_csv(rows).encode())
    write_whole(docs / f"{name}.md", (text.rstrip("\n") + "\n").encode())
    return docs / f"{name}.md"


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows with all their digits, and the columns of all rows.

    Example:
        >>> print(to_csv([{"model": "a", "mse": 0.125}]), end="")
        model,mse
        a,0.125
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table that some script wrote; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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
    columns = _columns(rows)
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    formats, rule = [], []
    for name, column in zip(columns, zip(*cells, strict=True), strict=True):
        is_text = any(isinstance(row.get(name), str) for row in rows)
        width = max(3, *map(len, column))
        formats.append(f"{'<' if is_text else '>'}{width}")
        rule.append("-" * (width - 1) + ("-" if is_text else ":"))
    lines = (map(format, line, formats) for line in (cells[0], rule, *cells[1:]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of all rows; a row may do without some."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_png(draw: Callable[P, Figure], *args: P.args, **kwargs: P.kwargs) -> bytes:
    """Draw a figure in the style of all."""
    with style.context(["default", STYLE]):
        return png_of(draw(*args, **kwargs))
