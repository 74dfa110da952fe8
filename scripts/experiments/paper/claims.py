"""What the paper claims, what was found here, and where: the page that a reader opens first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.experiments.pages import fill, read_rows, to_markdown
from scripts.experiments.paper.open_questions import WHOLE
from scripts.experiments.paper.registry import ITEMS
from scripts.experiments.paper.verdicts import (
    NOT_RUN,
    NOT_TESTABLE,
    VERDICTS,
    Judge,
    as_fast_as_ghostnet,
    coding_degrades_slowly,
    compare_accuracy,
    counts_agree,
    difference_is_better,
    function_errors,
    grows_linearly,
    larger_groups_help,
    lead_is_not_speed,
    memory_is,
)
from scripts.experiments.registry import COMPARISONS
from scripts.training.reliability.files import write_whole


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


def _counts(table: str, network: str) -> Claim:
    place = table.replace("table", "Table ")
    return Claim(f"weights of {network} are as printed", place, f"{table}.csv", counts_agree)


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(text, "Section 3.4", "section34.csv", judge)
        for text, judge in (
            ("weights and multiply-adds grow linearly with the width at fixed s_g", grows_linearly),
            (
                "in training a cycle keeps about twice what a block keeps",
                memory_is("training MB / dense", 1.5, 2.5),
            ),
            (
                "in inference a cycle needs the memory of a single block",
                memory_is("inference MB / dense", 0.0, 1.25),
            ),
        )
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
    Claim(
        "MGIC-MobileNetV3 takes about as long as GhostNet for one image",
        "Table 8",
        "table8.csv",
        as_fast_as_ghostnet,
    ),
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
    Claim(
        "larger groups give a higher accuracy at the same s_c",
        "Table 12",
        "levels_study.csv",
        larger_groups_help,
    ),
    _counts("table13", "MGIC-MobileNetV3 over s_c and s_g"),
    Claim(
        "MGIC's lead is not easier training: more epochs do not close it",
        "Figure 6",
        "figure6.csv",
        lead_is_not_speed,
    ),
    Claim(
        "P should carry up what changed on the coarse level, not its features",
        "Section 3.3",
        "open_questions.csv",
        difference_is_better(WHOLE),
    ),
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
    commands = {name: (item.headline, f"paper {name}") for name, item in ITEMS.items()}
    commands |= {name: (of.title, f"compare {name}") for name, of in COMPARISONS.items()}
    pages = []
    for name, (title, command) in commands.items():
        if (docs / f"{name}.md").exists():
            page = {"page": f"[{title}]({name}.md)", "made by": f"`python -m scripts.{command}`"}
            pages.append(page)
        elif name in ITEMS:
            pages.append({"page": title, "made by": NOT_RUN})
    means = [{"verdict": verdict, "means": meaning} for verdict, meaning in VERDICTS.items()]
    tables = [to_markdown(table) for table in (rows, means, pages)]
    write_whole(docs / "README.md", (fill("index.md", tables=tables) + "\n").encode())
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
