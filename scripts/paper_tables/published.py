"""The paper's own numbers, from ``paper.json`` beside this file, as they are printed there."""

import functools
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("paper.json")


@functools.cache
def published(table: str) -> dict[str, Any]:
    """Return a table: its title, units, what its accuracies are of, and rows.

    Raises:
        KeyError: There are no numbers of such a table.

    Example:
        >>> published("table5")["rows"][0]["weights"]
        '25.6'
    """
    return json.loads(FILE.read_text(encoding="utf-8"))["tables"][table]


def number(table: str, row: dict[str, Any], key: str) -> float | None:
    """Return a printed number in full, or None where the paper has none.

    Example:
        >>> number("table5", published("table5")["rows"][0], "weights")
        25600000.0
    """
    if key not in row:
        return None
    return float(Decimal(row[key]) * Decimal(published(table)["units"].get(key, "1")))


def rounding(table: str, row: dict[str, Any], key: str) -> float:
    """Return half a unit of the last printed digit: what may be lost to rounding.

    Example:
        >>> rounding("table5", published("table5")["rows"][0], "weights")
        50000.0
    """
    exponent = Decimal(row[key]).as_tuple().exponent
    unit = Decimal(published(table)["units"].get(key, "1"))
    return float(unit * Decimal(10) ** int(exponent) / 2)
