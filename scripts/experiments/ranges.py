"""Results over several seeds: mean, deviation and range, and what the ranges say."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
NOT_RUN = "not run yet"


def summarize(runs: Collection[Mapping[str, Any]], keys: Sequence[str]) -> Row:
    """Return mean, standard deviation and range of some values over the seeds.

    Example:
        >>> summarize([{"test": 90.0}, {"test": 92.0}], ["test"])["test_max"]
        92.0
        >>> summarize([{"test": math.nan}, {"test": math.nan}], ["test"])["test_std"]
        nan
    """
    row: Row = {}
    for key in keys:
        values = [float(run[key]) for run in runs]
        row[f"{key}_mean"] = statistics.fmean(values) if values else None
        there = len(values) > 1 and not any(map(math.isnan, values))
        row[f"{key}_std"] = statistics.stdev(values) if there else math.nan
        row |= {f"{key}_min": min(values, default=None), f"{key}_max": max(values, default=None)}
    return row


def spread(row: Mapping[str, Any], key: str, digits: int = 1) -> str:
    """Write mean and standard deviation; one seed has none."""
    mean, std = row.get(f"{key}_mean"), row.get(f"{key}_std")
    if mean is None or std is None:
        return NOT_RUN
    text = f"{mean:.{digits}f}"
    return text if math.isnan(std) else f"{text} ± {std:.{digits}f}"


def spread_and_range(row: Mapping[str, Any], key: str) -> str:
    """Write mean, standard deviation and range.

    Example:
        >>> spread_and_range(summarize([{"test": 90.0}, {"test": 92.0}], ["test"]), "test")
        '91.0 ± 1.4 (90.0 to 92.0)'
        >>> spread_and_range(summarize([{"test": 90.0}], ["test"]), "test")
        '90.0 (one seed)'
        >>> spread_and_range(summarize([], ["test"]), "test")
        'not run yet'
    """
    text = spread(row, key)
    if text == NOT_RUN:
        return text
    if math.isnan(row[f"{key}_std"]):
        return f"{text} (one seed)"
    return f"{text} ({row[f'{key}_min']:.1f} to {row[f'{key}_max']:.1f})"


def judge(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> str:
    """Say whether the first is ``higher`` or ``lower`` with every seed, or else the ``same``.

    Example:
        >>> judge({"a_min": 1, "a_max": 2}, {"a_min": 2, "a_max": 3}, "a")
        'same'
    """
    low, high = f"{key}_min", f"{key}_max"
    if one[low] <= other[high] and other[low] <= one[high]:
        return "same"
    return "higher" if one[low] > other[high] else "lower"


def difference(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> tuple[str, str]:
    """Write the difference of the means of two rows, and whether their ranges overlap.

    Example:
        >>> one, other = ({"a_mean": n, "a_min": n - 1, "a_max": n + 1} for n in (9, 5))
        >>> difference(one, other, "a")
        ('+4.0', 'no')
    """
    if None in (one.get(f"{key}_mean"), other.get(f"{key}_mean")):
        return NOT_RUN, "-"
    change = f"{one[f'{key}_mean'] - other[f'{key}_mean']:+.1f}"
    if any(math.isnan(row.get(f"{key}_std", 0.0)) for row in (one, other)):
        return change, "one seed"
    return change, "yes" if judge(one, other, key) == "same" else "no"


def who_wins(
    rows: Sequence[Mapping[str, Any]],
    questions: Sequence[tuple[str, str, str]],
    keys: Mapping[str, tuple[str, str]],
    costs: Sequence[str] = (),
    settings: str = "",
) -> str:
    """Tabulate what the ranges say of pairs of networks.

    Args:
        rows: Of the table, with the name of a network in ``model``.
        questions: Two networks, and what their comparison tells.
        keys: Results to compare, each with the headings of its difference and its overlap.
        costs: Columns of which the ratio is shown.
        settings: Column of the settings that are compared one by one, if there are several.
    """
    head = ["question", *filter(None, [settings.replace("num_train", "images")])]
    head += [cost.replace("_", "-") for cost in costs]
    rule = ["---", *(["---:"] * (len(head) - 1)), *(["---:", "---"] * len(keys))]
    table = [[*head, *(heading for pair in keys.values() for heading in pair)], rule]
    for first, second, question in questions:
        for setting in dict.fromkeys(row.get(settings) for row in rows):
            own = {row["model"]: row for row in rows if row.get(settings) == setting}
            one, other = own[first], own[second]
            cells = [f"{question}: `{first}` - `{second}`", *([f"{setting:,}"] if settings else [])]
            cells += [f"{one[cost] / other[cost]:.0%}" for cost in costs]
            table.append(cells + [cell for key in keys for cell in difference(one, other, key)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)
