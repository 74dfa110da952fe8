"""What rows of results say about a claim: a verdict and its reason, never written by hand.

A judge takes the rows of a file, of which there are some, and returns verdict and reason.
"""

from itertools import pairwise

from scripts.experiments.paper import open_questions, section34

HOLDS, IN_PART, NOT_HERE = "holds", "holds in part", "does not hold here"
UNDECIDED = "cannot be told"
NOT_TESTABLE, NOT_RUN = "not testable here", "not run yet"
VERDICTS = {
    HOLDS: "the figures here agree with it; of accuracies, the mean is not lower",
    IN_PART: "some of them do",
    NOT_HERE: "they do not; of accuracies, every seed is below every seed of the other",
    UNDECIDED: "the means do not agree with it, but the seeds of both lie among each other",
    NOT_TESTABLE: "data or device are missing",
    NOT_RUN: "there are no results in this folder",
}
QUARTILES = ("lower", "upper")
ON_PAR = 1.1  # how many times as long still is about as long

Row = dict[str, str]


def ranges_differ(low: Row, high: Row, key: str) -> bool:
    """Tell whether all seeds of one row are below all seeds of the other.

    Example:
        >>> ranges_differ({"test_max": "90"}, {"test_min": "91"}, "test")
        True
    """
    return float(low[f"{key}_max"]) < float(high[f"{key}_min"])


def compare_accuracy(
    rows: list[Row], one: str, other: str, key: str, **where: str
) -> tuple[str, str]:
    """Judge a claim that one network is as good as another with fewer weights.

    With a few seeds, overlapping ranges do not show that two networks are equally good: a mean that
    is lower is then no agreement, only no contradiction.
    """
    rows = [row for row in rows if all(row.get(k) == v for k, v in where.items())]
    found = {row["model"]: row for row in rows}
    if not {one, other} <= found.keys():
        condition = "".join(f", {key} {value}" for key, value in where.items())
        return NOT_RUN, f"no rows of {one} and {other}{condition}"
    a, b = found[one], found[other]
    share = float(a["weights"]) / float(b["weights"])
    means = float(a[f"{key}_mean"]), float(b[f"{key}_mean"])
    words = f"{one} with {share:.0%} of the weights of {other}: {means[0]:.1f} against "
    words += f"{means[1]:.1f} %"
    if share >= 1 or ranges_differ(a, b, key):
        return NOT_HERE, words
    if not ranges_differ(b, a, key):
        words += "; the ranges over the seeds overlap"
    return (HOLDS if means[0] >= means[1] else UNDECIDED), words


def counts_agree(rows: list[Row]) -> tuple[str, str]:
    """Judge a table of counts: which of our networks come close to the paper's weights."""
    mgic = [r for r in rows if r["difference of weights, %"] and "(ours)" not in r["model"]]
    mgic = [row for row in mgic if "MGIC" in row["model"] or row["model"].startswith("s_c")]
    off = {row["model"]: float(row["difference of weights, %"]) for row in mgic}
    rounded = {row["model"] for row in mgic if "weights: within the" in row["why they differ"]}
    close = [name for name, value in off.items() if abs(value) <= 2 or name in rounded]
    worst = max(off.values(), key=abs)
    words = f"{len(close)} of {len(off)} MGIC rows within 2 %, or the rounding, of the paper's"
    words += f", the farthest {worst:+.1f} %" if len(close) < len(off) else ""
    return (HOLDS if len(close) == len(off) else IN_PART if close else NOT_HERE), words


def coding_degrades_slowly(rows: list[Row]) -> tuple[str, str]:
    """Judge Table 1: near the bound at s_g = 32, and about twice its error at s_g = 4."""
    words, verdicts = [], []
    for source in dict.fromkeys(row["features"] for row in rows):
        own = {row["coder"]: row for row in rows if row["features"] == source}
        close = float(own["s_g = 32"]["ours, times PCA"])
        growth = float(own["s_g = 4"]["ours, times s_g = 32"])
        verdicts.append(growth <= 2.5)
        words.append(f"{source.split(', ')[0]}: {growth:.1f} times, at s_g = 32 {close:.2f} of PCA")
    verdict = HOLDS if all(verdicts) else IN_PART if any(verdicts) else NOT_HERE
    return verdict, "; ".join(words)


def function_errors(rows: list[Row]) -> tuple[str, str]:
    """Judge Figure 4: how many rivals an MGIC net beats in error with fewer weights.

    Of trainings in which no network came to half of a constant's error, nothing can be told.
    """
    rows = [row for row in rows if row["ours test MSE"]]
    moved = {
        (row["optimizer"], row["c"])
        for row in rows
        if float(row["ours test MSE"]) < float(row["variance"]) / 2
    }
    if rows and not moved:
        return UNDECIDED, "no network came to half of a constant's error"
    rows = [row for row in rows if (row["optimizer"], row["c"]) in moved]
    mgic = [row for row in rows if row["network"].startswith("MGIC")]
    rivals = [row for row in rows if row not in mgic]
    if not mgic or not rivals:
        return NOT_RUN, "no finished runs of MGIC and of a rival"
    folds = min(int(row["folds"]) for row in rows)

    def beaten_by(ours: str, theirs: str) -> int:
        return sum(
            any(
                (row["optimizer"], row["c"]) == (rival["optimizer"], rival["c"])
                and float(row["ours weights"]) < float(rival["ours weights"])
                and float(row[ours]) < float(rival[theirs])
                for row in mgic
            )
            for rival in rivals
        )

    beaten = beaten_by("highest", "lowest")
    on_average = beaten_by("ours test MSE", "ours test MSE")
    words = f"fewer weights and a lower error than {on_average} of {len(rivals)} rivals on average "
    words += f"and than {beaten} with the ranges over the folds apart,"
    verdict = HOLDS if beaten == len(rivals) else IN_PART if beaten else NOT_HERE
    ranges = " and ".join(sorted({row["c"] for row in rows}))
    return verdict, f"{words} for c from {ranges}; at least {folds} folds each"


def grows_linearly(rows: list[Row]) -> tuple[str, str]:
    """Judge section 3.4's weights and multiply-adds."""
    found = {key: section34.exponents(rows, key) for key in ("weights", "multiply-adds")}
    mgic = [v for fits in found.values() for kind, v in fits.items() if kind != "dense"]
    if not mgic:
        return NOT_RUN, "fewer than two widths"
    low, high = min(mgic), max(mgic)
    words = f"exponents {low:.2f} to {high:.2f}, dense {found['weights']['dense']:.2f}"
    return (HOLDS if high < 1.15 else IN_PART), words


def memory_is(rows: list[Row], key: str, low: float, high: float) -> tuple[str, str]:
    """Judge a ratio of memory to the dense block's: over all blocks, or over half of them."""
    ratios = [float(row[key]) for row in rows if row["block"] != "dense"]
    inside = [low <= ratio <= high for ratio in ratios]
    verdict = HOLDS if all(inside) else IN_PART if 2 * sum(inside) >= len(inside) else NOT_HERE
    return verdict, f"{min(ratios):.1f} to {max(ratios):.1f} times, tensors only"


def as_fast_as_ghostnet(rows: list[Row]) -> tuple[str, str]:
    """Judge Table 8: the time of MGIC for one image beside GhostNet's; the paper has 172 / 170."""
    mgic = next(row for row in rows if row["model"].startswith("MGIC"))
    ratio, low, high = (
        float(mgic[key])
        for key in ("ours CPU / GhostNet 1.0x", *(f"ours ratio, {q} quartile" for q in QUARTILES))
    )
    words = f"{ratio:.2f} times GhostNet's time for one image (quartiles {low:.2f} to {high:.2f})"
    return (HOLDS if ratio <= ON_PAR else NOT_HERE), words


def larger_groups_help(rows: list[Row]) -> tuple[str, str]:
    """Judge the right half of Table 12: accuracy from every s_g to the next larger one."""
    own = sorted((row for row in rows if row["s_c"] == "16"), key=lambda row: int(row["s_g"]))
    if not own or not all(row["test_mean"] for row in own):
        return NOT_RUN, "not all settings are trained"
    steps = list(pairwise(own))
    rises = [f"from {a['s_g']} to {b['s_g']}" for a, b in steps if ranges_differ(a, b, "test")]
    falls = [a for a, b in steps if ranges_differ(b, a, "test")]
    words = ", ".join(f"s_g = {row['s_g']}: {float(row['test_mean']):.1f}" for row in own)
    words += f" % on mnist5k; beyond the range of the seeds {' and '.join(rises) or 'nowhere'}"
    if len(rises) == len(steps):
        return HOLDS, words
    return (IN_PART if rises else NOT_HERE if falls else UNDECIDED), words


def lead_is_not_speed(rows: list[Row]) -> tuple[str, str]:
    """Judge Figure 6 on the runs here: does a lead that MGIC has early last to the end?"""
    pair = []
    for model in ("mgic_diffgcn", "diffgcn"):
        own = [row for row in rows if row["run"] == f"ours: {model}"]
        pair.append(sorted(own, key=lambda row: int(row["epochs"])))
    if not all(pair):
        return NOT_RUN, "no curves of mgic_diffgcn and diffgcn"
    words, ahead = [], []
    for mgic, dense in zip(*pair, strict=True):
        gap = float(mgic["ours best accuracy"]) - float(dense["ours best accuracy"])
        words.append(f"{gap:+.1f} after {mgic['epochs']} epochs")
        ahead.append(float(mgic["lowest"]) > float(dense["highest"]))
    text = f"mgic_diffgcn against diffgcn on the points held out: {', '.join(words)}"
    if not ahead[0]:
        return UNDECIDED, f"{text}; the ranges overlap, so that there is no lead to explain"
    return (HOLDS if ahead[-1] else NOT_HERE), text


def difference_is_better(rows: list[Row], question: str) -> tuple[str, str]:
    """Judge an advice of the paper by its opposite, which the open questions try."""
    own = [row for row in rows if row["question"] == question and row["seeds"] not in ("", "0")]
    if not own:
        return NOT_RUN, f"nothing on: {question}"
    found = [
        f"{row['verdict']} on {row['task']}, ahead with {row['seeds better']} of "
        f"{row['seeds']} seeds"
        for row in own
    ]
    words = f"the other way: {'; '.join(found)}"
    verdicts = {row["verdict"] for row in own}
    if open_questions.BETTER in verdicts:
        return NOT_HERE, words
    if verdicts == {open_questions.WORSE}:
        return HOLDS, words
    return (IN_PART if open_questions.WORSE in verdicts else UNDECIDED), words
