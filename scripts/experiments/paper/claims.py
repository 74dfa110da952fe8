"""What the paper claims, what was found here, and where: the page that a reader opens first."""

from pathlib import Path
from typing import Any

import yaml

from scripts.experiments.pages import fill, read_rows, to_markdown
from scripts.experiments.paper import verdicts
from scripts.experiments.paper.advice import advise, find_cases
from scripts.experiments.paper.registry import ITEMS
from scripts.experiments.paper.verdicts import NOT_RUN, NOT_TESTABLE, VERDICTS
from scripts.experiments.registry import COMPARISONS
from scripts.training.reliability.files import write_whole

CLAIMS = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))


def write_index(docs: Path) -> Path:
    """Write ``README.md`` of the results from the files that are there; return its path.

    Raises:
        OSError: The folder cannot be written.
    """
    rows = [judge(claim, docs) for claim in CLAIMS["claims"]]
    rows += [
        {"claim": claim["text"], "in the paper": claim["place"], "verdict": NOT_TESTABLE}
        | {"why": claim["why"], "evidence": ""}
        for claim in CLAIMS["untestable"]
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
    text = fill("index.md", tables=tables, advice=advise(find_cases(docs)))
    write_whole(docs / "README.md", (text + "\n").encode())
    return docs / "README.md"


def judge(claim: dict[str, Any], docs: Path) -> dict[str, str]:
    """Return the row of a claim, whose judge is a function of :mod:`.verdicts`."""
    decide, evidence = getattr(verdicts, claim["judge"]), claim["evidence"]
    verdict, why = NOT_RUN, ""
    if rows := read_rows(docs / evidence):
        verdict, why = decide(rows, *claim.get("arguments", ()), **claim.get("where", {}))
    page = evidence.replace(".csv", ".md")
    link = f"[{page}]({page}), [{evidence}]({evidence})" if rows else ""
    return {
        "claim": claim["text"],
        "in the paper": claim["place"],
        "verdict": verdict,
        "why": why,
        "evidence": link,
    }
