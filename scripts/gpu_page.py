"""Write docs/performance-gpu.md: ``python -m scripts.gpu_page [REPORT.json ...]``.

The reports are those of ``python -m scripts.bench points|images --device cuda --json FILE``;
without any, the page says that nothing was measured. ``make gpu`` does both.
"""

import json
import sys
from pathlib import Path
from typing import Any

from scripts.benchmarks.timing import spread

PAGE = Path("docs/performance-gpu.md")
HEAD = """# Performance on a GPU

"""
NOTHING = """Nothing was measured on a GPU: nobody who wrote this had one at hand. What is known of
a step there is how many operations it launches, and that it reads no value, which is counted on a
processor (see [performance](performance.md)). The kernels in Triton (searches, maxima and sums
over neighbors, grouped maps, prolongations with norm and sum, levels of image networks) were run by
its interpreter and compiled, and nothing chooses them; which groups
`mgic_vision.fuse(model, sample=x)` merges on a GPU is not known. On a machine with a GPU

    make gpu

runs the tests that need one, and puts the times and the card's name here.
"""


def main(*reports: str) -> None:
    """Write the page."""
    found = [json.loads(Path(report).read_text(encoding="utf-8")) for report in reports]
    body = "\n".join(describe(report) for report in found) if found else NOTHING
    PAGE.write_text(HEAD + body, encoding="utf-8")


def describe(report: dict[str, Any]) -> str:
    """One section a report.

    Example:
        >>> run = {"title": "step", "seconds": {"a": [0.002], "b": [0.001]}}
        >>> run |= {"peak_bytes": {"a": 4e6, "b": 1e6}, "ratios": {"a / b": [2.0]}, "exponents": {}}
        >>> facts = {"card": "H1", "cuda": "13.0", "versions": {"torch": "2.14"}}
        >>> print(describe({"benchmark": "points", "machine": facts, "results": [run]}))
        ## points
        <BLANKLINE>
        Card: H1, CUDA 13.0, torch 2.14.
        <BLANKLINE>
        ### step
        <BLANKLINE>
        | contender | ms | IQR | MB at most |
        | --- | --- | --- | --- |
        | a | 2.00 | 2.00 to 2.00 | 4 |
        | b | 1.00 | 1.00 to 1.00 | 1 |
        <BLANKLINE>
        - a / b: 2.00 times as long (2.00 to 2.00)
        <BLANKLINE>
    """
    facts = report["machine"]
    lines = [f"## {report['benchmark']}", ""]
    lines += [
        f"Card: {facts['card']}, CUDA {facts['cuda']}, torch {facts['versions']['torch']}.",
        "",
    ]
    for result in report["results"]:
        lines += [f"### {result['title']}", "", "| contender | ms | IQR | MB at most |"]
        lines.append("| --- | --- | --- | --- |")
        for name, seconds in result["seconds"].items():
            of = spread([1e3 * second for second in seconds])
            peak = result["peak_bytes"][name] / 1e6
            times = f"{of.median:.2f} | {of.low:.2f} to {of.high:.2f}"
            lines.append(f"| {name} | {times} | {peak:.0f} |")
        lines.append("")
        for heading, unit in (("ratios", "times as long"), ("exponents", "is the exponent")):
            for name, values in result[heading].items():
                of = spread(values)
                lines.append(f"- {name}: {of.median:.2f} {unit} ({of.low:.2f} to {of.high:.2f})")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
