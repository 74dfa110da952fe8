"""What the paper claims, what was found here, and where: the page that a reader opens first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.paper_tables import section34
from scripts.paper_tables.pages import headline, read_rows, to_markdown
from scripts.paper_tables.registry import ITEMS
from scripts.training.files import write_whole

HOLDS, IN_PART, NOT_HERE = "holds", "holds in part", "does not hold here"
NOT_TESTABLE, NOT_RUN = "not testable here", "not run yet"

Row = dict[str, str]
# from the rows of a file to verdict and reason; only asked where there are rows
Judge = Callable[[list[Row]], tuple[str, str]]


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and the results that bear on it.

    Args:
        text: What the paper says.
        place: Where.
        evidence: CSV file in the folder of the results.
        judge: Says what its rows mean.
    """

    text: str
    place: str
    evidence: str
    judge: Judge


def ranges_differ(low: Row, high: Row, key: str) -> bool:
    """Tell whether all seeds of one row are below all seeds of the other.

    Example:
        >>> ranges_differ({"test_max": "90"}, {"test_min": "91"}, "test")
        True
    """
    return float(low[f"{key}_max"]) < float(high[f"{key}_min"])


def compare_accuracy(one: str, other: str, key: str, **where: str) -> Judge:
    """Judge a claim that one network is as good as another with fewer weights."""

    def judge(rows: list[Row]) -> tuple[str, str]:
        rows = [row for row in rows if all(row.get(k) == v for k, v in where.items())]
        found = {row["model"]: row for row in rows}
        if not {one, other} <= found.keys():
            return NOT_RUN, f"no rows of {one} and {other}"
        a, b = found[one], found[other]
        share = float(a["weights"]) / float(b["weights"])
        means = f"{float(a[f'{key}_mean']):.1f} against {float(b[f'{key}_mean']):.1f} %"
        words = f"{one} with {share:.0%} of the weights of {other}: {means}"
        if share >= 1 or ranges_differ(a, b, key):
            return NOT_HERE, words
        if ranges_differ(b, a, key):
            return HOLDS, words
        return HOLDS, f"{words}; the ranges over the seeds overlap"

    return judge


def counts_agree(rows: list[Row]) -> tuple[str, str]:
    """Judge a table of counts: which of our networks come close to the paper's weights."""
    mgic = [r for r in rows if r["difference of weights, %"] and "(ours)" not in r["model"]]
    mgic = [row for row in mgic if _is_ours(row["model"])]
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
    rows = [row for row in rows if (row["optimizer"], row["c"]) in moved]
    mgic = [row for row in rows if row["network"].startswith("MGIC")]
    rivals = [row for row in rows if row not in mgic]
    folds = min((int(row["folds"]) for row in rows), default=0)
    if not mgic or not rivals:
        return NOT_RUN, "no finished runs that learned"
    beaten = sum(
        any(
            (row["optimizer"], row["c"]) == (rival["optimizer"], rival["c"])
            and float(row["ours weights"]) < float(rival["ours weights"])
            and float(row["ours test MSE"]) < float(rival["ours test MSE"])
            for row in mgic
        )
        for rival in rivals
    )
    words = f"an MGIC net has fewer weights and a lower error than {beaten} of {len(rivals)} rivals"
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


def memory_is(key: str, low: float, high: float) -> Judge:
    """Judge a ratio of memory to the dense block's, in any network of the section."""

    def judge(rows: list[Row]) -> tuple[str, str]:
        ratios = [float(row[key]) for row in rows if row["block"] != "dense"]
        inside = [low <= ratio <= high for ratio in ratios]
        verdict = HOLDS if all(inside) else IN_PART if any(inside) else NOT_HERE
        return verdict, f"{min(ratios):.1f} to {max(ratios):.1f} times, tensors only"

    return judge


def _is_ours(name: str) -> bool:
    return "MGIC" in name or name.startswith("s_c")


def _counts(table: str, network: str) -> Claim:
    place = table.replace("table", "Table ")
    return Claim(f"weights of {network} are as printed", place, f"{table}.csv", counts_agree)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "weights and multiply-adds grow linearly with the width at fixed s_g",
        "Section 3.4",
        "section34.csv",
        grows_linearly,
    ),
    Claim(
        "in training a cycle keeps about twice what a block keeps",
        "Section 3.4",
        "section34.csv",
        memory_is("training MB / dense", 1.5, 2.5),
    ),
    Claim(
        "in inference a cycle needs the memory of a single block",
        "Section 3.4",
        "section34.csv",
        memory_is("inference MB / dense", 0.0, 1.25),
    ),
    Claim(
        "R and P alone code 64 channels in 8; from s_g = 32 to 4 the error only doubles",
        "Table 1",
        "table1.csv",
        coding_degrades_slowly,
    ),
    Claim(
        "MGIC approximates functions with a lower error and fewer weights than its rivals",
        "Figure 4",
        "figure4.csv",
        function_errors,
    ),
    _counts("table3", "MGIC-ResNet-56"),
    Claim(
        "MGIC-ResNet-56 is at least as accurate as ResNet-56 with fewer weights",
        "Table 3",
        "images.csv",
        compare_accuracy("mgic_resnet56", "resnet56", "test", num_train="4000"),
    ),
    _counts("table5", "MGIC-ResNet-50"),
    _counts("table7", "MGIC-MobileNetV3"),
    _counts("table9", "LR-ASPP on MGIC"),
    Claim(
        "MGIC-Large segments as well as MobileNetV3-Large",
        "Table 9",
        "segmentation.csv",
        compare_accuracy("lraspp_mgic_large", "lraspp_mobilenet_v3_large", "miou"),
    ),
    _counts("table11", "MGIC-diffGCN"),
    Claim(
        "MGIC-diffGCN is at least as accurate as diffGCN with fewer weights",
        "Table 11",
        "points.csv",
        compare_accuracy("mgic_diffgcn", "diffgcn", "test-hard"),
    ),
    _counts("table12", "MGIC-ResNet-56 over s_c and s_g"),
    _counts("table13", "MGIC-MobileNetV3 over s_c and s_g"),
)
UNTESTABLE = (
    ("accuracies on CIFAR-10", "Tables 3, 12", "CIFAR-10 is not on this machine"),
    ("accuracies on ImageNet", "Tables 5, 7, 13", "ImageNet is not on this machine"),
    ("accuracies on Cityscapes", "Table 9", "Cityscapes needs a registration"),
    ("accuracies on ModelNet10", "Table 11", "ModelNet10 is not on this machine"),
    ("runtimes on a phone and a GPU", "Table 8", "neither is on this machine"),
)


def write_index(docs: Path, claims: Sequence[Claim] = CLAIMS) -> Path:
    """Write ``README.md`` of the results from the files that are there; return its path.

    Raises:
        OSError: The folder cannot be written.
    """
    rows = [judge(claim, docs) for claim in claims]
    rows += [
        {"claim": claim, "in the paper": place, "verdict": NOT_TESTABLE, "why": why, "evidence": ""}
        for claim, place, why in UNTESTABLE
    ]
    pages = [
        {
            "page": f"[{headline(item)}]({name}.md)" if _made(docs, name) else headline(item),
            "made by": f"`python -m scripts.paper {name}`" if _made(docs, name) else NOT_RUN,
        }
        for name, item in ITEMS.items()
    ]
    text = f"""# Does the paper hold?

Written by `python -m scripts.paper index` from the results in this folder; a claim has a verdict
only where there is evidence, and none is written by hand. What the paper measured on data that is
not here can at best be tested on other data: that is said, and the two are never put into one
column. Every page says by which command, with which seeds, cores and minutes it was made.

{to_markdown(rows)}

Verdicts are `{HOLDS}`, `{IN_PART}`, `{NOT_HERE}`, `{NOT_TESTABLE}` and `{NOT_RUN}`.

## Pages

{to_markdown(pages)}
"""
    write_whole(docs / "README.md", text.encode())
    return docs / "README.md"


def judge(claim: Claim, docs: Path) -> dict[str, str]:
    """Return the row of a claim."""
    rows = read_rows(docs / claim.evidence)
    verdict, why = claim.judge(rows) if rows else (NOT_RUN, "")
    page = claim.evidence.replace(".csv", ".md")
    link = f"[{page}]({page}), [{claim.evidence}]({claim.evidence})" if rows else ""
    return {
        "claim": claim.text,
        "in the paper": claim.place,
        "verdict": verdict,
        "why": why,
        "evidence": link,
    }


def _made(docs: Path, name: str) -> bool:
    return (docs / f"{name}.md").exists()
