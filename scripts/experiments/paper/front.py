"""What README begins with: networks beside their controls, and when to use MGIC."""

from collections.abc import Iterator
from pathlib import Path

from scripts.experiments.pages import read_rows, to_markdown
from scripts.experiments.paper.advice import NARROW, advise, find_cases
from scripts.experiments.paper.verdicts import Row
from scripts.experiments.ranges import spread_and_range
from scripts.training.reliability.files import write_whole

BEGIN = "<!-- written by `python -m scripts.paper index --readme README.md` -->\n"
END = "<!-- end of what is written -->\n"
PAGES = {
    "differential_cad": "CAD models, 10 classes",
    "fashion": "Fashion-MNIST",
    "fashion_wide": "Fashion-MNIST, wide networks",
}
SHOWN = ("dense", *NARROW, "MGIC, the paper's cycle", "MGIC, additive")


def write_front(readme: Path, docs: Path) -> None:
    """Replace what stands between the two marks of a file.

    Raises:
        ValueError: The marks are not there.
        OSError: The file cannot be read or written.
    """
    head, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise ValueError(f"{readme} has no place for the table: put in {BEGIN.strip()} and {END}")
    lines = [f"- {line}" for line in advise(find_cases(docs), f"{docs.as_posix()}/")]
    text = "\n".join([to_markdown(list(_rows(docs))), "", *lines, ""])
    write_whole(readme, (head + begin + text + end + tail).encode())


def _rows(docs: Path) -> Iterator[dict[str, str | int]]:
    for page, data in PAGES.items():
        rows = [row for row in read_rows(docs / f"{page}.csv") if row["test_mean"]]
        most = rows[-1].get("num_train") if rows else None
        name = f"{data}, {int(most):,} images" if most else data
        for row in (row for row in rows if row.get("num_train") == most):
            if row["note"] in SHOWN:
                yield _row(name, f"{docs.as_posix()}/{page}.md", row)


def _row(data: str, page: str, row: Row) -> dict[str, str | int]:
    result = {key: float(value) for key, value in row.items() if key.startswith("test_")}
    return {
        "data": f"[{data}]({page})",
        "network": f"`{row['model']}`",
        "weights": int(row["weights"]),
        "multiply-adds": f"{int(row['multiply_adds']) / 1e6:.1f} M",
        "accuracy, %": spread_and_range(result, "test"),
        "training step, ms": f"{float(row['step_ms']):.0f}",
        "inference, ms": f"{float(row['inference_ms']):.0f}",
    }
