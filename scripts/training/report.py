"""Draw the report of a run from the files in its folder: figures, a table, one HTML page.

``python -m scripts.training.report RUN_DIR`` redraws it. The page needs no other file and no
network: the figures are embedded, and whatever comes from a file is escaped.
"""

import argparse
import base64
import csv
import io
import json
import re
import shlex
import struct
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from numpy.typing import NDArray

from scripts.training import figures
from scripts.training.errors import TrainingError
from scripts.training.files import write_whole

SUMMARY_TYPES = {
    "accuracy": (float, int),
    "class_accuracy": (float, int),
    "loss": (float, int),
    "num_samples": (int,),
    "classes": (list,),
}
KEPT_SAMPLES = {"clouds": "cloud_rows", "images": "image_rows"}  # samples, and which they are

PAGE = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
).from_string("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { --ink: #24292f; --soft: #5c6670; --line: #dde2e7; --page: #fff; --bar: #0072b2;
  --track: #edf0f3; }
body { margin: 2.5rem auto; max-width: 68rem; padding: 0 1.25rem; color: var(--ink);
  background: var(--page); font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 1rem; font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 .8rem; font-size: 1.2rem; }
p, figcaption, th { color: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-bottom: 1.2rem; }
th, td { padding: .3rem 1.4rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: break-word; }
th { font-weight: 500; }
td.n { white-space: nowrap; }
.n { text-align: right; }
.bar { display: inline-block; width: clamp(2rem, 14vw, 11rem); height: .6rem;
  border-radius: 2px; background: var(--track); }
.share { display: inline-block; min-width: 4.6em; text-align: right; }
.bar i { display: block; height: 100%; border-radius: 2px; background: var(--bar); }
figure { margin: 0 0 1.6rem; }
img { max-width: 100%; height: auto; }
pre { overflow-x: auto; padding: .7rem 1rem; border-radius: 6px; background: var(--track);
  font-size: 13px; }
details { margin: .4rem 0; }
details details { margin-left: 1.2rem; }
summary { cursor: pointer; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe4e9; --soft: #9aa5b0; --line: #2c343c; --page: #12161a; --bar: #56b4e9;
    --track: #222930; }
  /* charts keep their hues on a dark page, photographs stay as they are */
  img.chart { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
</style>
</head>
<body>
<h1>{{ title }}</h1>
<table>
{% for name, value in facts %}
<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
{% if splits %}
<table>
<thead><tr><th>split</th><th class="n">accuracy</th><th class="n">95 % interval</th>
<th class="n">mean over classes</th><th class="n">loss</th><th class="n">samples</th></tr></thead>
{% for row in splits %}
<tr><th scope="row">{{ row[0] }}</th>
{% for value in row[1:] %}<td class="n">{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
{% for note in notes %}
<p>{{ note }}</p>
{% endfor %}
{% for section, pictures in sections %}
<h2>{{ section }}</h2>
{% for picture in pictures %}
<figure><img class="{{ picture.kind }}" width="{{ picture.width }}" alt="{{ picture.caption }}"
 src="data:image/png;base64,{{ picture.data }}">
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}
{% endfor %}
{% if per_class %}
<h2>Accuracy by class</h2>
<details {% if per_class | length <= 40 %}open{% endif %}>
<summary>{{ per_class | length }} classes</summary>
<table>
<thead><tr><th>class</th>{% for name in measured %}<th>{{ name }}</th>{% endfor %}</tr></thead>
{% for name, cells in per_class %}
<tr><th scope="row">{{ name }}</th>
{% for cell in cells %}
<td>{% if cell %}<span class="bar"><i style="width: {{ cell.percent }}%"></i></span>
<span class="share">{{ cell.percent }} %</span> ({{ cell.correct }} of {{ cell.count }})
{% else %}no samples{% endif %}</td>
{% endfor %}
</tr>
{% endfor %}
</table>
</details>
{% endif %}
{% if command %}
<h2>Run it again</h2>
<pre>{{ command }}</pre>
{% endif %}
<h2>Files</h2>
{% for name, parts in sources %}
<details><summary>{{ name }}</summary>
{% for heading, text in parts %}
{% if heading %}
<details><summary>{{ heading }}</summary><pre>{{ text }}</pre></details>
{% else %}
<pre>{{ text }}</pre>
{% endif %}
{% endfor %}
</details>
{% endfor %}
</body>
</html>
""")


class ReportError(TrainingError, ValueError):
    """A file of the run that cannot be used: which one, why, and what is expected."""


@dataclass(frozen=True)
class Split:
    """One evaluated split: its ``S.json`` and, where they were saved, its predictions."""

    name: str
    summary: dict[str, Any]
    predictions: dict[str, NDArray]  # empty without a predictions file

    @property
    def suffix(self) -> str:
        """What file names of this split end in: nothing for ``test``."""
        return "" if self.name == "test" else f"-{self.name}"

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the labels."""
        return [str(name) for name in self.summary["classes"]]

    def confusion(self) -> NDArray[np.int64]:
        """Count samples by true class (row) and predicted class (column)."""
        n = len(self.classes)
        labels = self.predictions["labels"].astype(np.int64)
        pairs = labels * n + self.predictions["probabilities"].argmax(axis=1)
        return np.bincount(pairs, minlength=n * n).reshape(n, n)


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
    if not isinstance(summary, dict) or summary.get("split") != path.stem:
        return None
    for key, kind in SUMMARY_TYPES.items():
        if not isinstance(summary.get(key), kind):
            kinds = " or ".join(t.__name__ for t in kind)
            raise ReportError(f"{path} has {summary.get(key)!r} for {key}; expected {kinds}")
    split = Split(path.stem, summary, {})
    archive = path.with_name(f"predictions{split.suffix}.npz")
    return replace(split, predictions=_read_predictions(archive, summary))


def _read_predictions(path: Path, summary: dict[str, Any]) -> dict[str, NDArray]:
    samples: int = summary["num_samples"]
    num_classes = len(summary["classes"])
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        for name, shape in (("probabilities", (samples, num_classes)), ("labels", (samples,))):
            if arrays[name].shape != shape:
                raise ValueError(f"{name} have shape {arrays[name].shape}, not {shape}")
        ends = {"labels": num_classes, **dict.fromkeys(KEPT_SAMPLES.values(), samples)}
        for name, end in ends.items():
            if not np.isin(arrays.get(name, []), range(end)).all():
                raise ValueError(f"{name} must lie from 0 to {end - 1}")
        for kind, rows in KEPT_SAMPLES.items():
            if kind in arrays and len(arrays[kind]) != len(arrays[rows]):
                raise ValueError(f"{kind} and {rows} differ in length")
    except KeyError as error:
        raise ReportError(f"cannot use {path}: it has no array {error}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ReportError(
            f"cannot use {path}: {error}; expected the arrays of the run that wrote "
            f"{summary['split']}.json"
        ) from error
    return arrays


def best_epoch(metrics: dict[str, NDArray]) -> tuple[int | None, str]:
    """Find the row of the best epoch, and say what it is best in.

    As for ``best.ckpt``, that is the highest validation accuracy, among equals the lowest
    validation loss, then the first. Without validation there is none.
    """
    nothing = np.full(len(metrics["epoch"]), np.nan)
    scores = np.stack([metrics.get("val_accuracy", nothing), -metrics.get("val_loss", nothing)])
    known = np.isfinite(scores)
    if not known.any():
        return None, ""
    keys = np.where(known, scores, -np.inf).T.tolist()
    row = max(range(len(keys)), key=keys.__getitem__)
    if known[0, row]:
        return row, f"highest validation accuracy, {_percent(scores[0, row])}"
    return row, f"lowest validation loss, {-scores[1, row]:.3f}"


def class_rows(split: Split) -> list[tuple[str, int, int, float]]:
    """List class, samples, right ones and their share (nan without samples) for each class."""
    confusion = split.confusion()
    counts, correct = confusion.sum(axis=1).tolist(), confusion.diagonal().tolist()
    return [
        (name, n, right, right / n if n else np.nan)
        for name, n, right in zip(split.classes, counts, correct, strict=True)
    ]


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % score interval of a share seen in ``count`` samples."""
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = share * (1 - share) / count + z**2 / (4 * count**2)
    half = z * spread**0.5 / (1 + z**2 / count)
    return middle - half, middle + half


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _draw_split(split: Split) -> dict[str, tuple[bytes, str]]:
    """Draw the figures of one split: file name to PNG and caption."""
    arrays, classes = split.predictions, split.classes
    confusion = split.confusion()
    title = f"{split.name}: {confusion.trace():,} of {confusion.sum():,} right"
    caption = "Confusion matrix: how many samples of each true class were taken for which class."
    png = figures.draw_confusion(confusion, classes, title)
    pictures = {f"confusion{split.suffix}.png": (png, caption)}
    for kind, rows in KEPT_SAMPLES.items():
        if not len(arrays.get(kind, [])):
            continue
        probabilities, labels = (arrays[key][arrays[rows]] for key in ("probabilities", "labels"))
        predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        chosen = figures.choose_items(labels, predicted, confidence)
        captions = [(classes[labels[i]], classes[predicted[i]], confidence[i]) for i in chosen]
        right = (labels == predicted)[chosen]
        title = f"{split.name}: {len(chosen)} of {len(arrays['labels']):,} {kind}, wrong ones first"
        png = figures.draw_gallery(list(arrays[kind][chosen]), captions, right, title)
        caption = (
            "Above each: true class → predicted class (probability). Framed in green with a check "
            "mark: right, in red with a cross: wrong."
        )
        pictures[f"{kind}{split.suffix}.png"] = (png, caption)
    return pictures


def _facts(metrics: dict[str, NDArray], splits: list[Split]) -> list[tuple[str, str]]:
    """List the key numbers of the run, those it has."""
    facts = []
    for summary in (split.summary for split in splits[:1]):
        options = ", ".join(f"{k}={v}" for k, v in dict(summary.get("options") or {}).items())
        facts += [("model", f"{summary.get('model', 'unnamed')}{options and f' ({options})'}")]
        if "parameters" in summary:
            facts += [("weights", f"{summary['parameters']:,}")]
    epochs = metrics["epoch"] + 1
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


def _split_row(summary: dict[str, Any]) -> list[str]:
    accuracy, samples = summary["accuracy"], summary["num_samples"]
    low, high = wilson_interval(accuracy, samples) if samples else (0.0, 1.0)
    interval = f"{100 * low:.1f} to {100 * high:.1f}"
    values = [_percent(accuracy), interval, _percent(summary["class_accuracy"])]
    return [summary["split"], *values, f"{summary['loss']:.3f}", f"{samples:,}"]


def _class_table(splits: list[Split]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Put the classes of all splits side by side, None where a split has no such samples."""
    tables = [{row[0]: row for row in class_rows(split)} for split in splits]
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
    writer.writerow(["split", "class", "count", "correct", "accuracy"])
    for split in splits:
        for name, count, correct, share in class_rows(split):
            writer.writerow([split.name, name, count, correct, f"{share:.6f}" if count else ""])
    return text.getvalue().encode(errors="replace")


def _fold(text: str) -> list[tuple[str, str]]:
    """Cut a YAML file into its nested sections, after one nameless part with the plain lines."""
    chunks = re.split(r"(?m)^(?=[^\s#-])", text)
    plain = "".join(chunk for chunk in chunks if "\n" not in chunk.strip())
    nested = [chunk for chunk in chunks if "\n" in chunk.strip()]
    return [("", plain)] * bool(plain) + [(chunk.split(":")[0], chunk) for chunk in nested]


def _find_command(tree: Any) -> str:
    """Find the first ``command`` in a nested configuration, a text or a list of words."""
    if not isinstance(tree, dict):
        return ""
    if command := tree.get("command"):
        return shlex.join(map(str, command)) if isinstance(command, list) else str(command)
    return next(filter(None, map(_find_command, tree.values())), "")


def _embed(png: bytes, caption: str, name: str) -> dict[str, Any]:
    kind = "photograph" if name.startswith("images") else "chart"
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
    found = [read_split(path) for path in sorted(run_dir.glob("*.json"))]
    splits = sorted((s for s in found if s), key=lambda split: (split.name != "test", split.name))
    measured = [split for split in splits if split.predictions]
    best, reason = best_epoch(metrics)
    sections: dict[str, dict[str, tuple[bytes, str]]] = {}
    if len(metrics["epoch"]):
        caption = "Loss and accuracy by epoch, counted from 1; in metrics.csv from 0."
        png = figures.draw_curves(metrics | {"epoch": metrics["epoch"] + 1}, best, reason)
        sections["Learning curves"] = {"curves.png": (png, caption)}
    sections |= {f"Split {split.name}": _draw_split(split) for split in measured}
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
        command = _find_command(yaml.safe_load(text))
    except yaml.YAMLError:  # shown as it is all the same
        command = ""
    measured = [split for split in splits if split.predictions]
    notes = [f"There are no predictions for {s.name}." for s in splits if not s.predictions]
    notes += ["There are no test results yet."] * (not splits)
    notes += ["No epoch has finished yet."] * (not len(metrics["epoch"]))
    notes += [f"There is no {config.name}."] * (not text)
    sources = [(config.name, _fold(text))] * bool(text)
    sources += [(f"{s.name}.json", [("", json.dumps(s.summary, indent=2))]) for s in splits]
    return PAGE.render(
        title=run_dir.resolve().name,
        facts=_facts(metrics, splits),
        splits=[_split_row(split.summary) for split in splits],
        notes=notes,
        sections=[
            (heading, [_embed(*picture, name) for name, picture in part.items()])
            for heading, part in sections.items()
        ],
        measured=[split.name for split in measured],
        per_class=_class_table(measured),
        command=command,
        sources=sources,
    )


def main(argv: list[str] | None = None) -> None:
    """Redraw the report of the run folder named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.training.report", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    try:
        print(write_report(parser.parse_args(argv).run_dir))
    except (OSError, ReportError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
