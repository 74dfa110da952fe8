"""When to use MGIC: what the comparisons with dense networks and with narrow ones say together."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scripts.experiments.pages import read_rows
from scripts.experiments.paper.verdicts import Row, ranges_differ

#: Pages that have MGIC networks, their dense twin and a narrow one of their weights, and what is
#: compared there.
PAGES = {
    "edge_cycles": ("test", "test-hard"),
    "edge_cad": ("test", "test-class"),
    "differential_cycles": ("test", "test-hard"),
    "differential_cad": ("test", "test-class"),
    "fashion": ("test",),
    "fashion_wide": ("test",),
    "images": ("test",),
}
NARROW = ("control: narrow", "control: dense, as many weights")
OTHERS = ("control: narrow and deep", "control: ghost modules", "ghost modules, as many weights")
FEW_WEIGHTS = 0.6
SECONDS = ("step_ms", "epoch_seconds", "seconds_per_1000")
#: Seeds of two networks, times the square of their difference in standard deviations, that a
#: two-sided test at 5 % needs to find it in 80 of 100 cases (normal distribution).
SEEDS = 2 * (1.96 + 0.84) ** 2


@dataclass(frozen=True)
class Case:
    """One MGIC network beside its dense twin and its narrow controls.

    Args:
        page: Where it is compared.
        name: Of the network, and of what it is tested on.
        share: Its weights, as a share of the dense network's.
        difference: Of its mean accuracy and the dense network's, in points.
        narrow: Of its mean accuracy and the best narrow network's, in points.
        spread: Standard deviation over the seeds of these two, in points.
        images: Training images, none where the data have one size.
        step: Time of a training step, in those of the dense network.
        narrow_step: The same, in those of the best narrow network.
        better: Whether all its seeds are above all seeds of every narrow network.
        worse: Whether all its seeds are below all seeds of a narrow network.
        equals: Other controls of its weights that do not have all seeds below its own.
        chance: How probable ``better`` is if the two networks are equally good.
    """

    page: str
    name: str
    share: float
    difference: float
    narrow: float
    spread: float
    images: int | None
    step: float
    narrow_step: float
    better: bool
    worse: bool
    equals: tuple[str, ...]
    chance: float

    @property
    def pays(self) -> bool:
        """Whether it is a reason to use MGIC: few weights, no loss, no narrow network as good."""
        return self.share <= FEW_WEIGHTS and self.difference >= 0 and self.better


def find_cases(docs: Path) -> list[Case]:
    """Read what the tables in this folder have; rows that are not complete are left out."""
    return [
        case
        for page, keys in PAGES.items()
        for key in keys
        for case in _cases_of(page, key, read_rows(docs / f"{page}.csv"))
    ]


def _cases_of(page: str, key: str, rows: Sequence[Row]) -> Iterator[Case]:
    for setting in dict.fromkeys(row.get("num_train") for row in rows):
        own = [r for r in rows if r.get("num_train") == setting and r.get(f"{key}_mean")]
        own = [row for row in own if row[f"{key}_std"] not in ("", "nan")]  # of several seeds
        dense = next((row for row in own if row["note"] == "dense"), None)
        narrow = [row for row in own if row["note"] in NARROW]
        others = [row for row in own if row["note"] in OTHERS]
        if dense is None or not narrow:
            continue
        seconds = next(name for name in SECONDS if name in dense)
        best = max(narrow, key=lambda row: float(row[f"{key}_mean"]))
        for row in (row for row in own if row["note"].startswith("MGIC")):
            yield Case(
                page,
                f"{row['model']}, {key}" + (f", {int(setting):,} images" if setting else ""),
                float(row["weights"]) / float(dense["weights"]),
                float(row[f"{key}_mean"]) - float(dense[f"{key}_mean"]),
                float(row[f"{key}_mean"]) - float(best[f"{key}_mean"]),
                math.hypot(float(row[f"{key}_std"]), float(best[f"{key}_std"])) / math.sqrt(2),
                int(setting) if setting else None,
                float(row[seconds]) / float(dense[seconds]),
                float(row[seconds]) / float(best[seconds]),
                all(ranges_differ(other, row, key) for other in narrow),
                any(ranges_differ(row, other, key) for other in narrow),
                tuple(r["model"] for r in others if not ranges_differ(r, row, key)),
                1 / math.comb(_seeds(row) + _seeds(best), _seeds(row)),
            )


def _seeds(row: Row) -> int:
    return int(row.get("runs") or 3)  # as many where a page does not say


def advise(cases: Sequence[Case], folder: str = "") -> list[str]:
    """Say when to use MGIC, what it costs and saves, and when not to, each with its figures.

    Links start at ``folder``, that of the pages.
    """
    if not cases:
        return ["Nothing can be said yet: no comparison with a narrow network has been made."]
    shares, differences, steps, narrow_steps = (
        [getattr(case, name) for case in cases]
        for name in ("share", "difference", "step", "narrow_step")
    )
    faster = dict.fromkeys(f"[{c.page}]({folder}{c.page}.md)" for c in cases if c.step < 1)
    better, worse = ([c for c in cases if getattr(c, name)] for name in ("better", "worse"))
    pays = [case for case in cases if case.pays]
    if pays:
        when = (
            f"**When to use it.** In {len(pays)} of {len(cases)} comparisons MGIC, with at most "
            f"{FEW_WEIGHTS:.0%} of the weights, was at least as accurate as the dense network and, "
            "with every seed, better than a narrow one of its weights: "
            f"{'; '.join(_describe(case, folder) for case in pays)}. If MGIC and narrow were "
            f"equally good, at most {sum(case.chance for case in cases):.1f} of {len(cases)} would "
            "come out so by chance."
        )
    else:
        when = (
            f"**When to use it.** In none of {len(cases)} comparisons was MGIC, with at most "
            f"{FEW_WEIGHTS:.0%} of the weights, at least as accurate as the dense network and, with"
            " every seed, better than a narrow one of its weights. Try the narrow one first."
        )
    lines = [
        when,
        f"**What you save.** These networks have {min(shares):.0%} to {max(shares):.0%} of the "
        "weights of their dense twins.",
        f"**What it costs.** Accuracy changes by {min(differences):+.1f} to "
        f"{max(differences):+.1f} points.",
        "**Against a narrow dense network of the same weights** MGIC is better with every seed in "
        f"{len(better)} of {len(cases)} comparisons, worse with every seed in {len(worse)}, and "
        f"not told apart in {len(cases) - len(better) - len(worse)}.",
        "**Do not use it** to save time in training: a step takes "
        f"{min(narrow_steps):.1f} to {max(narrow_steps):.1f} times as long as a narrow network's, "
        f"and {min(steps):.1f} to {max(steps):.1f} times as long as the dense twin's (less long "
        f"only in {', '.join(faster) or 'none'}).",
    ]
    return lines if pays else [*lines, look_further(cases)]


def _describe(case: Case, folder: str) -> str:
    equals = ", ".join(f"`{name}`" for name in case.equals) or "none"
    return (
        f"{case.name} ([{case.page}]({folder}{case.page}.md); {case.share:.0%} of the weights, "
        f"{case.difference:+.1f} points against dense, {case.narrow:+.1f} against narrow, "
        f"{case.step:.1f} times dense's training step; "
        f"other networks of its weights that are not told apart from it: {equals})"
    )


def look_further(cases: Sequence[Case]) -> str:
    """Say what it would take to tell MGIC and narrow networks apart, where they are not."""
    gap = median(abs(case.narrow) for case in cases)
    spread = median(case.spread for case in cases)
    seeds = f"some {math.ceil(SEEDS * (spread / gap) ** 2)}" if gap else "any number of"
    images = max((case.images for case in cases if case.images), default=None)
    data = f" Or more data: no comparison has over {images:,} training images." if images else ""
    return (
        "**To look further** takes more seeds: MGIC and narrow differ by "
        f"{gap:.1f} points (median), the seeds of a network by {spread:.1f} (standard deviation). "
        f"A test at 5 % that is to find such a difference in 80 of 100 cases needs {seeds} seeds "
        f"of both.{data}"
    )
