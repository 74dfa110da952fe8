"""Draw the report of a run from the files in its folder: figures, a table, one HTML page.

``python -m scripts.training.reports.report RUN_DIR`` redraws it. The page needs no other file and
no network: the figures are embedded, and whatever comes from a file is escaped.
"""

import argparse
import base64
import csv
import io
import json
import re
import struct
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from scripts.training.reliability.errors import RunFolderError
from scripts.training.reliability.files import write_whole
from scripts.training.reliability.run_folder import read_config
from scripts.training.reports import figures
from scripts.training.reports.masks import MaskSplit
from scripts.training.reports.parts import PartSplit
from scripts.training.reports.splits import ReportError, Split, percent

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("pages")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def read_metrics(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read the log of finished epochs, one array per column, nan where a field is empty.

    An epoch that was run again after a resume counts with its last row.

    Raises:
        ReportError: If the file is missing or broken, with what is wrong and what is expected.
    """
    rows: dict[float, list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file, strict=True)) or [[]]
        if missing := sorted({"epoch", "train_loss"}.difference(header)):
            raise ValueError(f"no column {' and no column '.join(missing)}")
        for number, fields in enumerate(lines, start=2):
            if len(fields) != len(header):
                raise ValueError(f"line {number} has {len(fields)} fields, not {len(header)}")
            values = [float(field) if field.strip() else np.nan for field in fields]
            epoch = values[header.index("epoch")]
            if not np.isfinite(epoch):
                raise ValueError(f"line {number} has no epoch")
            rows[epoch] = values
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ReportError(
            f"cannot read {path}: {reason}; expected a header with epoch, train_loss and possibly "
            "more, and one row of numbers per finished epoch"
        ) from error
    table = np.array([rows[epoch] for epoch in sorted(rows)]).reshape(-1, len(header))
    return dict(zip(header, table.T, strict=True))


def read_split(path: Path) -> Split | None:
    """Read ``S.json`` and the predictions beside it; None for JSON that is no such file.

    Raises:
        ReportError: If a file is broken or the two do not fit, with what is expected.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"cannot read {path}: {error}; expected JSON") from error
    if not isinstance(summary, dict) or "split" not in summary:
        return None
    if summary.get("name", summary["split"]) != path.stem:
        return None
    kind = Split
    if "miou" in summary:  # of points or of pixels
        kind = PartSplit if "num_points" in summary else MaskSplit
    return kind.read(path, summary)


def read_splits(folder: Path) -> list[Split]:
    """Read what was tested, ``test`` first."""
    found = [read_split(path) for path in sorted(folder.glob("*.json"))]
    return sorted((s for s in found if s), key=lambda split: (split.name != "test", split.name))


def best_epoch(metrics: dict[str, NDArray]) -> tuple[int | None, str]:
    """Find the row of the best epoch, and say what it is best in.

    As for ``best.ckpt``, that is the highest validation accuracy (or mIoU where there is one),
    among equals the lowest validation loss, then the first. Without validation there is none.
    """
    nothing = np.full(len(metrics["epoch"]), np.nan)
    name = "mIoU" if "val_miou" in metrics else "accuracy"
    score = metrics.get(f"val_{name.lower()}", nothing)
    scores = np.stack([score, -metrics.get("val_loss", nothing)])
    known = np.isfinite(scores)
    if not known.any():
        return None, ""
    keys = np.where(known, scores, -np.inf).T.tolist()
    row = max(range(len(keys)), key=keys.__getitem__)
    if known[0, row]:
        return row, f"highest validation {name}, {percent(scores[0, row])}"
    return row, f"lowest validation loss, {-scores[1, row]:.3f}"


def _facts(metrics: dict[str, NDArray], splits: list[Split]) -> list[tuple[str, str]]:
    """List the key numbers of the run, those it has."""
    facts = []
    for summary in (split.summary for split in splits[:1]):
        options = ", ".join(f"{k}={v}" for k, v in dict(summary.get("options") or {}).items())
        facts += [("model", f"{summary.get('model', 'unnamed')}{options and f' ({options})'}")]
        if "parameters" in summary:
            facts += [("weights", f"{summary['parameters']:,}")]
    for split in splits:
        if "changing" in split.summary:
            name = f"labels of {split.name} that change among {split.summary['draws']} draws"
            facts += [(name, percent(split.summary["changing"]))]
    epochs = metrics["epoch"]  # the first is number 1
    facts += [("epochs finished", f"{len(epochs)}")]
    best, reason = best_epoch(metrics)
    if best is not None:
        facts += [("best epoch", f"{epochs[best]:.0f}: {reason}")]
    seconds = metrics.get("seconds", np.array([]))
    if np.isfinite(seconds).any():
        minutes, rest = divmod(round(np.nansum(seconds)), 60)
        median = np.nanmedian(seconds)
        facts += [("time", f"{minutes} min {rest} s, {median:.1f} s per epoch (median)")]
    return facts


def _class_table(splits: list[Split]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Put the classes of all splits side by side, None where a split has no such samples."""
    tables = [{row[0]: row for row in split.class_rows()} for split in splits]
    table = []
    for name in dict.fromkeys(name for rows in tables for name in rows):
        cells: list[dict[str, Any] | None] = []
        for _, count, correct, share in (rows.get(name, (name, 0, 0, 0.0)) for rows in tables):
            cell = {"percent": f"{100 * share:.1f}", "correct": correct, "count": count}
            cells.append(cell if count else None)
        table.append((name, cells))
    return table


def _class_csv(splits: list[Split]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "class", *splits[0].by_class[1:]])
    for split in splits:
        for name, count, correct, share in split.class_rows():
            writer.writerow([split.name, name, count, correct, f"{share:.6f}" if count else ""])
    return text.getvalue().encode(errors="replace")


def _fold(text: str) -> list[tuple[str, str]]:
    """Cut a YAML file into its nested sections, after one nameless part with the plain lines."""
    chunks = re.split(r"(?m)^(?=[^\s#-])", text)
    plain = "".join(chunk for chunk in chunks if "\n" not in chunk.strip())
    nested = [chunk for chunk in chunks if "\n" in chunk.strip()]
    return [("", plain)] * bool(plain) + [(chunk.split(":")[0], chunk) for chunk in nested]


def _embed(png: bytes, caption: str, name: str) -> dict[str, Any]:
    kind = "photograph" if name.startswith(("images", "scenes")) else "chart"
    (width,) = struct.unpack(">I", png[16:20])
    data = base64.b64encode(png).decode()
    return {"data": data, "caption": caption, "kind": kind, "width": round(width / 1.4)}


def write_report(run_dir: Path) -> Path:
    """Draw all figures of a run, and the page that shows them, into its folder.

    All is drawn before anything is written: if a figure fails, the old report stays as it was.

    Args:
        run_dir: Folder with ``metrics.csv``, and as far as the run has come, ``config.yaml``,
            ``S.json`` and predictions for each evaluated split ``S``.

    Returns:
        Where the page is, ``report.html`` in that folder.

    Raises:
        ReportError: If a file is broken, or ``metrics.csv`` missing.
    """
    metrics = read_metrics(run_dir / "metrics.csv")
    splits = read_splits(run_dir)
    measured = [split for split in splits if split.predictions]
    best, reason = best_epoch(metrics)
    sections: dict[str, dict[str, tuple[bytes, str]]] = {}
    if len(metrics["epoch"]):
        caption = "Loss and accuracy by epoch, counted from 1."
        png = figures.draw_curves(metrics, best, reason)
        sections["Learning curves"] = {"curves.png": (png, caption)}
    sections |= {f"Split {split.name}": split.draw() for split in measured}
    outputs = {name: png for part in sections.values() for name, (png, _) in part.items()}
    if measured:
        outputs["per_class.csv"] = _class_csv(measured)
    page = _page(run_dir, metrics, splits, sections)
    outputs["report.html"] = page.encode("utf-8", errors="replace")  # last, as it shows the others
    for name, content in outputs.items():
        write_whole(run_dir / name, content)
    return run_dir / "report.html"


def _page(
    run_dir: Path,
    metrics: dict[str, NDArray],
    splits: list[Split],
    sections: dict[str, dict[str, tuple[bytes, str]]],
) -> str:
    """Fill the page; what the run has not come to yet is named in a note."""
    config = run_dir / "config.yaml"
    text = config.read_text(encoding="utf-8", errors="replace") if config.exists() else ""
    try:
        command = read_config(config).get("command", "")
    except RunFolderError:  # shown as it is all the same
        command = ""
    measured = [split for split in splits if split.predictions]
    notes = [f"There are no predictions for {s.name}." for s in splits if not s.predictions]
    notes += ["There are no test results yet."] * (not splits)
    notes += ["No epoch has finished yet."] * (not len(metrics["epoch"]))
    notes += [f"There is no {config.name}."] * (not text)
    sources = [(config.name, _fold(text))] * bool(text)
    sources += [(f"{s.name}.json", [("", json.dumps(s.summary, indent=2))]) for s in splits]
    return TEMPLATES.get_template("run.html").render(
        title=run_dir.resolve().name,
        facts=_facts(metrics, splits),
        splits=splits,
        notes=notes,
        sections=[
            (heading, [_embed(*picture, name) for name, picture in part.items()])
            for heading, part in sections.items()
        ],
        measured=[split.name for split in measured],
        by_class=measured[0].by_class[0] if measured else "",
        per_class=_class_table(measured),
        command=command,
        sources=sources,
    )


def main(argv: list[str] | None = None) -> None:
    """Redraw the report of the run folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    try:
        print(write_report(parser.parse_args(argv).run_dir))
    except (OSError, ReportError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
