"""What the paper claims, what was found here, and where: the page that a reader opens first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from scripts.experiments.pages import fill, read_rows, to_markdown
from scripts.experiments.paper import verdicts
from scripts.experiments.paper.registry import ITEMS
from scripts.experiments.paper.verdicts import NOT_RUN, NOT_TESTABLE, VERDICTS, Judge
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


def read_claims() -> tuple[tuple[Claim, ...], list[dict[str, str]]]:
    """Read the claims, and those that cannot be tested here."""
    content = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))
    claims = []
    for row in content["claims"]:
        judge = getattr(verdicts, row["judge"])
        if "arguments" in row:
            judge = judge(*row["arguments"], **row.get("where", {}))
        claims.append(Claim(row["text"], row["place"], row["evidence"], judge))
    return tuple(claims), content["untestable"]


CLAIMS, UNTESTABLE = read_claims()


def write_index(docs: Path, claims: Sequence[Claim] = CLAIMS) -> Path:
    """Write ``README.md`` of the results from the files that are there; return its path.

    Raises:
        OSError: The folder cannot be written.
    """
    rows = [judge(claim, docs) for claim in claims]
    rows += [
        {"claim": claim["text"], "in the paper": claim["place"], "verdict": NOT_TESTABLE}
        | {"why": claim["why"], "evidence": ""}
        for claim in UNTESTABLE
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
