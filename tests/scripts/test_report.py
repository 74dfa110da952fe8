"""Reports drawn from made-up run folders."""

import csv
import html.parser
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from scripts.training.reliability.errors import TrainingError
from scripts.training.reports import figures, report, splits
from scripts.training.results import choose_rows

ROOT = Path(__file__).parents[2]
CLASSES = ["chair", "<script>alert(1)</script>", r"$\table$", "椅子\n2"]
LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 2, 2])
CONFIDENCE = np.array([0.9, 0.8, 0.5, 0.6, 0.7, 0.9])
METRICS = """\
epoch,step,lr,train_loss,train_accuracy,val_loss,val_accuracy,val_class_accuracy,seconds
1,10,0.1,1.5,0.4,1.6,0.35,0.3,2.0
2,20,0.1,0.9,0.6,1.0,0.75,0.7,2.5
3,30,0.05,0.5,0.8,,,,2.25
"""
CONFIG = """\
# made by hand
command: python -m scripts.train --name 'two words'
model:
  name: <b>mgic</b>
trainer:
  max_epochs: 3
"""


def make_run(folder: Path, splits: tuple[str, ...] = ("test",), **extra: np.ndarray) -> Path:
    """Writes a run of three epochs that was tested on six samples of four classes."""
    folder.mkdir(exist_ok=True)
    (folder / "metrics.csv").write_text(METRICS)
    (folder / "config.yaml").write_text(CONFIG)
    rest = (1 - CONFIDENCE) / (len(CLASSES) - 1)
    probabilities = np.repeat(rest[:, None], len(CLASSES), axis=1)
    probabilities[np.arange(6), PREDICTED] = CONFIDENCE
    clouds = np.random.default_rng(0).random((6, 64, 3), dtype=np.float32)
    for split in splits:
        summary = {"split": split, "accuracy": 4 / 6, "class_accuracy": 0.72, "loss": 0.5}
        summary |= {"num_samples": 6, "classes": CLASSES, "parameters": 1234}
        summary |= {"model": "<i>m</i>", "options": {"k": 10}}
        (folder / f"{split}.json").write_text(json.dumps(summary))
        arrays = {"probabilities": probabilities.astype(np.float32), "labels": LABELS}
        arrays |= {"names": np.arange(6).astype(str)}
        arrays |= {"clouds": clouds, "cloud_rows": np.arange(6)} | extra
        name = "predictions.npz" if split == "test" else f"predictions-{split}.npz"
        np.savez(folder / name, **arrays)
    return folder


class Page(html.parser.HTMLParser):
    """Collects the tags of a page with their attributes, and its text."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "<u>run", ("test", "hard"))
    assert report.write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def quick_figures(monkeypatch) -> None:
    """Figures that cost nothing, for tests of what is around them."""
    blank = io.BytesIO()
    Image.new("RGB", (8, 8)).save(blank, format="png")
    for name in ("draw_curves", "draw_confusion", "draw_gallery"):
        monkeypatch.setattr(figures, name, lambda *_: blank.getvalue())


@pytest.mark.parametrize("name", ["curves", "confusion", "confusion-hard", "clouds", "clouds-hard"])
def test_every_figure_is_a_png_of_sensible_size(run, name):
    with Image.open(run / f"{name}.png") as image:
        image.load()
        assert image.format == "PNG"
        assert 450 <= image.width <= 2000
        assert 350 <= image.height <= 2000
        assert len(image.convert("RGB").getcolors(2**24) or []) > 10


def test_the_page_loads_nothing(page):
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    assert len(sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not any("href" in attributes for _, attributes in page.tags)
    policies = [a["content"] for _, a in page.tags if "http-equiv" in a]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_the_page_shows_names_from_files_as_text(page):
    assert not {"u", "b"} & {tag for tag, _ in page.tags}
    for name in (*CLASSES, "<u>run", "<b>mgic</b>", "<i>m</i> (k=10)"):
        assert name in page.text


def test_every_figure_has_a_text_for_those_who_cannot_see_it(page):
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")


def test_the_page_has_the_key_numbers(page):
    text = re.sub(r"\s+", " ", page.text)
    for words in ("1,234", "66.7 %", "72.0 %", "0.500", "0 min 7 s"):
        assert words in text
    assert "best epoch2: highest validation accuracy, 75.0 %" in text
    assert "python -m scripts.train --name 'two words'" in text


def test_the_configuration_is_folded_section_by_section(page):
    assert report._fold(CONFIG) == [
        ("", "# made by hand\ncommand: python -m scripts.train --name 'two words'\n"),
        ("model", "model:\n  name: <b>mgic</b>\n"),
        ("trainer", CONFIG[CONFIG.index("trainer:") :]),
    ]
    opened = [attributes for tag, attributes in page.tags if tag == "details"]
    assert sum("open" in attributes for attributes in opened) == 1  # the classes


def test_per_class_numbers_equal_those_worked_out_by_hand(run):
    with (run / "per_class.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["split", "class", "count", "correct", "accuracy"]
    assert rows[:4] == [
        ["test", CLASSES[0], "3", "2", "0.666667"],
        ["test", CLASSES[1], "2", "1", "0.500000"],
        ["test", CLASSES[2], "1", "1", "1.000000"],
        ["test", CLASSES[3], "0", "0", ""],
    ]
    assert [["test", *row[1:]] for row in rows[4:]] == rows[:4]
    assert {row[0] for row in rows[4:]} == {"hard"}


def test_the_page_has_a_bar_for_every_class_that_was_tested(page):
    bars = [a["style"] for tag, a in page.tags if tag == "i" and "style" in a]
    assert bars == [f"width: {w}%" for w in ("66.7", "66.7", "50.0", "50.0", "100.0", "100.0")]
    assert page.text.count("no samples") == 2


def test_rows_of_the_confusion_matrix_are_true_classes(tmp_path):
    split = report.read_split(make_run(tmp_path) / "test.json")
    expected = [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert split.confusion().tolist() == expected


def test_labels_of_one_byte_do_not_wrap_around(tmp_path):
    labels = np.array([19, 19], dtype=np.uint8)
    arrays = {"labels": labels, "probabilities": np.eye(20, dtype=np.float32)[[19, 0]]}
    split = report.Split("test", {"classes": list(range(20))}, arrays)
    assert np.argwhere(split.confusion()).tolist() == [[19, 0], [19, 19]]
    assert split.classes[19] == "19"


def test_the_gallery_starts_with_the_wrong_ones(tmp_path, monkeypatch, quick_figures):
    seen = []
    blank = figures.draw_curves()
    monkeypatch.setattr(figures, "draw_gallery", lambda *args: seen.append(args) or blank)
    with np.load(make_run(tmp_path) / "predictions.npz") as arrays:
        rows = choose_rows(arrays["probabilities"], LABELS)
        kept = arrays["clouds"][rows]
    report.write_report(make_run(tmp_path, clouds=kept, cloud_rows=rows))
    ((clouds, captions, right, _),) = seen
    assert list(right) == [False, False, True, True, True, True]
    assert [caption[:2] for caption in captions[:2]] == [
        (CLASSES[1], CLASSES[2]),
        (CLASSES[0], CLASSES[1]),
    ]
    assert [caption[2] for caption in captions[:2]] == [np.float32(0.7), np.float32(0.5)]
    assert clouds.tolist() == kept.tolist()


def test_a_gallery_of_many_mistakes_still_shows_right_ones():
    labels = np.arange(100) % 4
    predicted = np.where(np.arange(100) < 80, labels + 1, labels)
    chosen = choose_rows(np.eye(5)[predicted] * np.linspace(0.3, 0.9, 100)[:, None], labels)
    wrong = (labels != predicted)[chosen]
    assert wrong.tolist() == [True] * 18 + [False] * 6
    assert set(labels[chosen[:4]].tolist()) == {0, 1, 2, 3}  # every class has its turn
    assert chosen[0] == 79  # the most confident mistake


def test_a_gallery_without_mistakes_is_full():
    assert len(set(choose_rows(np.ones((50, 2)), np.zeros(50, dtype=int)).tolist())) == 24


def test_without_a_test_the_page_says_so(tmp_path, quick_figures):
    report.write_report(make_run(tmp_path, splits=()))
    assert "There are no test results yet." in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "per_class.csv").exists()


def test_missing_inputs_are_named(tmp_path, quick_figures):
    make_run(tmp_path, splits=("test", "hard"))
    (tmp_path / "predictions-hard.npz").unlink()
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "metrics.csv").write_text(METRICS.splitlines(keepends=True)[0])
    report.write_report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    for note in ("no predictions for hard", "No epoch has finished yet", "no config.yaml"):
        assert note in text
    assert not (tmp_path / "curves.png").exists()
    assert not (tmp_path / "confusion-hard.png").exists()


def test_other_json_files_are_left_alone(tmp_path, quick_figures):
    make_run(tmp_path)
    (tmp_path / "notes.json").write_text('["anything"]')
    (tmp_path / "copy.json").write_text((tmp_path / "test.json").read_text())
    report.write_report(tmp_path)
    assert not (tmp_path / "confusion-copy.png").exists()


@pytest.mark.parametrize("figure", ["draw_curves", "draw_confusion", "draw_gallery"])
def test_a_figure_that_fails_leaves_the_old_report(tmp_path, monkeypatch, quick_figures, figure):
    report.write_report(make_run(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "metrics.csv").write_text(METRICS + "3,40,0.05,0.4,0.9,0.8,0.8,0.8,2.0\n")
    before["metrics.csv"] = (tmp_path / "metrics.csv").read_bytes()

    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(figures, figure, fail)
    with pytest.raises(RuntimeError, match="no ink"):
        report.write_report(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("metrics.csv", None, "No such file"),
        ("metrics.csv", b"", "no column epoch and no column train_loss"),
        ("metrics.csv", b"epoch,loss\n0,1\n", "no column train_loss"),
        ("metrics.csv", b"epoch,train_loss\n0,1\n1\n", "line 3 has 1 fields, not 2"),
        ("metrics.csv", b"epoch,train_loss\n0,high\n", "'high'"),
        ("metrics.csv", b"epoch,train_loss\n,1\n", "line 2 has no epoch"),
        ("metrics.csv", b"epoch,train_loss\n0,\x00\n", "metrics.csv"),
        ("metrics.csv", b"epoch,train_loss\n\xff\xfe", "decode"),
        ("test.json", b"{", "expected JSON"),
        ("test.json", b'{"split": "test", "accuracy": null}', "None for accuracy; expected float"),
        ("predictions.npz", b"PK", "predictions.npz"),
    ],
)
def test_broken_files_are_refused_by_name(tmp_path, name, content, reason):
    path = make_run(tmp_path) / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(report.ReportError, match=reason) as error:
        report.write_report(tmp_path)
    assert str(path) in str(error.value)
    if name == "metrics.csv":
        assert "expected a header with epoch, train_loss" in str(error.value)


def test_callers_can_catch_a_report_error_as_either():
    assert issubclass(report.ReportError, ValueError)
    assert issubclass(report.ReportError, TrainingError)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"labels": np.zeros(5, dtype=int)}, "labels have shape"),
        ({"labels": np.full(6, 4)}, "labels must lie from 0 to 3"),
        ({"probabilities": np.ones((6, 3))}, "probabilities have shape"),
        ({"cloud_rows": np.full(6, 6)}, "cloud_rows must lie from 0 to 5"),
        ({"cloud_rows": np.zeros(2, dtype=int)}, "clouds and cloud_rows differ"),
        ({"images": np.zeros((1, 2, 2, 3))}, "no array 'image_rows'"),
        ({"names": np.array([{}], dtype=object)}, "allow_pickle"),
    ],
)
def test_predictions_that_do_not_fit_are_refused_by_name(tmp_path, arrays, reason):
    make_run(tmp_path, **arrays)
    with pytest.raises(report.ReportError, match=reason) as error:
        report.write_report(tmp_path)
    assert "predictions.npz" in str(error.value)


def test_an_epoch_that_ran_twice_counts_once(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,train_loss\n0,3\n1,2\n2,9\n1,1\n")
    metrics = report.read_metrics(tmp_path / "metrics.csv")
    assert metrics["epoch"].tolist() == [0, 1, 2]
    assert metrics["train_loss"].tolist() == [3, 1, 9]


@pytest.mark.parametrize(
    ("columns", "row", "reason"),
    [
        ({"val_accuracy": [0.2, 0.5, 0.5, 0.1], "val_loss": [4, 3, 3, 1]}, 1, "accuracy, 50.0 %"),
        ({"val_accuracy": [0.2, 0.5, 0.5, 0.1], "val_loss": [4, 3, 2, 1]}, 2, "accuracy, 50.0 %"),
        ({"val_accuracy": [0.2, np.nan, np.inf, 0.1]}, 0, "accuracy, 20.0 %"),
        ({"val_accuracy": [np.nan] * 4, "val_loss": [3, 1, np.nan, 1]}, 1, "loss, 1.000"),
        ({}, None, ""),
    ],
)
def test_the_best_epoch_is_the_one_whose_checkpoint_is_kept(columns, row, reason):
    metrics = {name: np.array(values) for name, values in columns.items()}
    best, text = report.best_epoch({"epoch": np.arange(4.0)} | metrics)
    assert best == row
    assert text.endswith(reason)


def test_the_interval_equals_wilsons():
    assert [round(end, 4) for end in splits.wilson_interval(0.8, 10)] == [0.4902, 0.9433]
    assert [round(end, 4) for end in splits.wilson_interval(1.0, 100)] == [0.963, 1.0]


def test_columns_like_accuracy_are_drawn_and_no_others():
    metrics = {"epoch": np.arange(3.0), "train_loss": np.arange(3.0)}
    values = np.array([0.1, 0.2, 0.3])
    for name, is_drawn in (("val_top5", True), ("val_mean_iou", True), ("val_error", False)):
        figure = figures.draw_curves.__wrapped__(metrics | {name: values}, None)
        loss, accuracy = ([line.get_ydata().tolist() for line in a.lines] for a in figure.axes)
        assert loss == [[0, 1, 2]]
        assert accuracy == [values.tolist()] * is_drawn


def test_a_run_that_diverged_is_drawn():
    values = np.array([1.0, np.inf, np.nan])
    metrics = {"epoch": np.arange(3.0), "train_loss": values, "val_loss": values * np.nan}
    assert figures.draw_curves(metrics, 0, "lowest") != figures.draw_curves(metrics, None)


@pytest.mark.parametrize("num_classes", [1, 20, 200])
def test_confusion_matrices_of_any_size_stay_within_a_screen(num_classes):
    counts = np.eye(num_classes, dtype=int) * 12345
    names = [f"class number {i} of many, {'long' * 9}" for i in range(num_classes)]
    with Image.open(io.BytesIO(figures.draw_confusion(counts, names, "test"))) as image:
        assert max(image.size) < 2000


def test_pictures_have_a_gallery_too(tmp_path, quick_figures):
    rows, no_clouds = np.array([0, 2]), np.zeros((0, 4, 3), dtype=np.float32)
    make_run(
        tmp_path,
        images=np.zeros((2, 8, 8, 3), dtype=np.uint8),
        image_rows=rows,
        clouds=no_clouds,
        cloud_rows=rows[:0],
    )
    report.write_report(tmp_path)
    assert (tmp_path / "images.png").exists()
    assert not (tmp_path / "clouds.png").exists()
    assert 'class="photograph"' in (tmp_path / "report.html").read_text()


def test_pictures_are_drawn_in_gray_and_in_color():
    gray = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8, 1)
    captions = [("a", "a", 0.5)]
    png = figures.draw_gallery([gray], captions, [True], "test")
    assert png == figures.draw_gallery([gray.repeat(3, axis=2)], captions, [True], "test")
    assert png != figures.draw_gallery([gray * [1, 0, 0]], captions, [True], "test")


@pytest.mark.parametrize(
    "cloud",
    [np.zeros((0, 3)), np.zeros((5, 3)), np.full((5, 3), np.nan), np.eye(3) * 1e25],
    ids=["empty", "one place", "nan", "huge"],
)
def test_odd_clouds_are_drawn(cloud):
    png = figures.draw_gallery([cloud.astype(np.float32)], [("a", "b", np.nan)], [False], "test")
    assert png.startswith(b"\x89PNG")


def test_clouds_stand_upright_and_are_seen_from_above():
    points = np.array([[0, 0, 1], [0, 0, 0], [0, 0, -1.0]])
    picture, nearness = figures._project(points)
    assert np.abs(picture[:, 0]).max() < 1e-12
    assert (np.diff(picture[:, 1]) < 0).all()
    assert (np.diff(nearness) < 0).all()


def test_lengths_along_both_axes_look_alike():
    axes = figures.Figure().add_subplot()
    figures.draw_cloud(axes, np.random.default_rng(0).random((50, 3)))
    assert axes.get_aspect() == 1
    assert round(np.ptp(axes.get_xlim()), 12) == round(np.ptp(axes.get_ylim()), 12)


def test_class_names_fit_on_one_line_of_what_the_font_has():
    assert figures.label("椅子\n a") == "\ufffd\ufffd a"
    assert figures.label("x" * 30) == "x" * 23 + "…"


def test_figures_leave_the_callers_style_alone(monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "xtick.major.size", 31.0)
    before = dict(mpl.rcParams)
    metrics = {"epoch": np.arange(2.0), "train_loss": np.arange(2.0)}
    styled = figures.draw_curves(metrics, None)
    assert dict(mpl.rcParams) == before
    monkeypatch.setitem(mpl.rcParams, "xtick.major.size", 2.0)
    assert figures.draw_curves(metrics, None) == styled


def test_the_command_redraws_a_run_without_torch_and_pyplot(tmp_path):
    make_run(tmp_path, splits=())
    code = (
        "import sys; from scripts.training.reports.report import main; main(sys.argv[1:]); "
        "assert not {'torch', 'matplotlib.pyplot'} & sys.modules.keys()"
    )
    command = [sys.executable, "-W", "error", "-c", code, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == f"{tmp_path / 'report.html'}\n", done.stderr


def test_the_command_says_what_is_wrong_without_a_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        report.main([str(tmp_path)])
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(f"cannot read {tmp_path / 'metrics.csv'}")
