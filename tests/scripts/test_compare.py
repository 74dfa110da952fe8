"""The runner of comparisons, on results that are made up and on trainings that are tiny."""

import argparse
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from timm.models.resnet import BasicBlock
from torch import nn

from mgic_geo import num_weights
from scripts import compare
from scripts.experiments import comparison, conversion, networks
from scripts.experiments.comparison import REPEATS, read_config, step_seconds
from scripts.experiments.conversion import (
    SMALL_SIZES,
    Budget,
    FineTuned,
    converted,
    original,
    resnet,
)
from scripts.experiments.pages import read_rows
from scripts.experiments.registry import COMPARISONS
from scripts.experiments.runs import TrainingRun, finish
from scripts.training.reliability.errors import TrainingError

TRAINED = {name: c for name, c in COMPARISONS.items() if isinstance(c, comparison.Comparison)}
SMALL = {
    "points": {"data.batch_size": 2, "data.num_points": 12},
    "images": {"data.batch_size": 2, "data.size": 16, "model.options": {"depth": 8}},
    "segmentation": {"data.batch_size": 2, "data.crop": [32, 32]},
}


def fake(name: str, folder: Path, value=lambda contender, seed: 0.5, **arrays) -> None:
    """Make two finished runs of every contender, with accuracies and IoUs as ``value`` says.

    The middle one of several learning rates is the best on what is held out.
    """
    compared = COMPARISONS[name]
    rates = compared.rates or (None,)
    for contender in compared.contenders:
        for setting, rate in itertools.product(compared.settings or [None], rates):
            for seed in range(2):
                run = compared.make_run(contender, setting, seed, folder, {}, rate)
                run.path.mkdir()
                config = read_config(run.config, {**run.settings, "seed": seed})
                (run.path / "config.yaml").write_text(yaml.safe_dump(config))
                share = value(contender.name, seed)
                result = {"accuracy": share, "class_accuracy": share, "miou": share}
                for split in run.splits:
                    text = json.dumps(result | {"iou": [share, None, share]})
                    (run.path / f"{split}.json").write_text(text)
                held_out = 0.5 + 0.1 * (rate == rates[len(rates) // 2])
                text = f"epoch,train_loss,val_accuracy\n1,9,0.4\n2,9,{held_out}\n"
                (run.path / "metrics.csv").write_text(text)
                np.savez(run.path / "predictions.npz", **arrays)


def make_options(docs: Path, **changes) -> argparse.Namespace:
    options = {"name": "made_up", "docs": docs, "seeds": 1, "minutes": 1.0, "jobs": 1}
    return argparse.Namespace(**options | {"page_only": False} | changes)


def write_page(name: str, folder: Path, *more: str) -> str:
    where = ["--runs", str(folder), "--docs", str(folder), "--page-only", "--seeds", "2"]
    assert compare.main([name, *where, *more]) == 0
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return (folder / f"{name}.md").read_text()


@pytest.fixture
def untimed(monkeypatch):
    """Every training step takes two seconds."""
    monkeypatch.setattr(
        comparison, "step_seconds", lambda of, _: {c.name: 2.0 for c in of.contenders}
    )
    monkeypatch.setattr(
        comparison, "inference_seconds", lambda of, _: {c.name: 0.5 for c in of.contenders}
    )


@pytest.mark.usefixtures("untimed")
def test_page_of_points_tells_differences_and_whether_ranges_overlap(tmp_path):
    better = {"mgic_diffgcn": 0.70, "diffgcn": 0.68}
    fake("points", tmp_path, lambda name, seed: better.get(name, 0.60) + 0.03 * seed)
    page = write_page("points", tmp_path)
    assert "| neighborhoods: `mgic_diffgcn` - `pointnet` | +10.0 | no |" in page
    assert "| MGIC against its dense twin: `mgic_diffgcn` - `diffgcn` | +2.0 | yes |" in page
    assert "| `mgic_diffgcn` | MGIC, static graph | 72,826 | 26.4 M | 25 |" in page
    assert "71.5 ± 2.1 (70.0 to 73.0)" in page
    assert "600 training shapes\n(90 held out" in page
    assert "| 62.0 |\n" in page  # 31 batches of 2 seconds
    assert len(read_rows(tmp_path / "points.csv")) == len(networks.POINTS.contenders)


@pytest.mark.usefixtures("untimed")
def test_page_of_images_tells_for_how_many_images_who_is_better(tmp_path):
    accuracy = {"mgic_resnet56": 0.90, "resnet56": 0.89, "resnet-narrow": 0.80}
    fake("images", tmp_path, lambda name, seed: accuracy.get(name, 0.6) + 0.02 * seed)
    page = write_page("images", tmp_path, "--images", "1000")
    questions = networks.IMAGES.questions
    assert "the dense network: `mgic_resnet56` - `resnet56` | 1,000 |" in page
    # 4 networks, 2 seeds, 16 epochs of 50 batches of 2 seconds
    assert "come to 3.6 hours\nof one core" in page
    assert page.count("| +1.0 | yes |") == page.count("| +10.0 | no |") == 1
    assert page.count("| no |") == len(questions) - 1
    assert "| 91.0 ± 1.4 (90.0 to 92.0) | 100.0 |" in page
    assert page.count("% | 100% | ") == len(questions)  # as much time
    rows = read_rows(tmp_path / "images.csv")
    assert [row["model"] for row in rows] == [c.name for c in networks.IMAGES.contenders]
    assert {row["seconds_per_1000"] for row in rows} == {"100.0"}


@pytest.mark.usefixtures("untimed")
def test_every_network_gets_the_rate_that_is_best_on_what_is_held_out(tmp_path):
    fake("edge_cycles", tmp_path, lambda name, seed: 0.9)
    page = write_page("edge_cycles", tmp_path)
    assert "| `dgcnn` | dense | 0.005 | 64,586 |" in page
    assert "| 90.0 ± 0.0 (90.0 to 90.0) | 2000 | 500 |" in page
    shutil.rmtree(tmp_path / "dgcnn-0.01-0")
    (tmp_path / "edge_cycles-runs.json").unlink()
    page = write_page("edge_cycles", tmp_path)
    assert "| `dgcnn` | dense | - | 64,586 |" in page  # not all rates have been tried
    assert "**2 runs are not done yet**" in page


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(
    ("name", "arrays", "key"),
    [
        (
            "parts",
            {"clouds": np.eye(9)[None, :, :3].repeat(5, 0), "truths": np.zeros((5, 9), np.uint8)}
            | {"parts": np.ones((5, 9), np.uint8)},
            "test-hard-miou",
        ),
        (
            "segmentation",
            {"scenes": np.zeros((5, 8, 8, 3), np.uint8), "truths": np.zeros((5, 8, 8), np.uint8)}
            | {"masks": np.ones((5, 8, 8), np.uint8), "colors": np.zeros((11, 3), np.uint8)},
            "miou",
        ),
    ],
)
def test_page_of_masks_is_written_from_the_runs_that_are_there(name, arrays, key, tmp_path):
    fake(name, tmp_path, **arrays)
    page = write_page(name, tmp_path)
    compared = COMPARISONS[name]
    results = len([key for key in compared.keys if key.endswith("miou")])
    assert page.count("| 50.0 ± 0.0 (50.0 to 50.0) |") == results * len(compared.contenders)
    assert page.count("| yes |") >= len(compared.questions)
    rows = read_rows(tmp_path / f"{name}.csv")
    assert [row["model"] for row in rows] == [c.name for c in compared.contenders]
    assert {float(row[f"{key}_mean"]) for row in rows} == {50.0}


@pytest.mark.usefixtures("untimed")
def test_page_says_which_runs_are_missing(tmp_path):
    fake("points", tmp_path)
    for seed in range(2):
        (tmp_path / f"pointnet-{seed}" / "test-hard.json").unlink()
    page = write_page("points", tmp_path)
    assert "**2 runs are not done yet**" in page
    assert "not run yet | not run yet | not run yet | not run yet |" in page
    assert "| neighborhoods: `mgic_diffgcn` - `pointnet` | not run yet | - |" in page


@pytest.mark.usefixtures("untimed")
def test_runs_of_other_settings_are_refused(tmp_path, capsys):
    fake("points", tmp_path)
    where = ["points", "--runs", str(tmp_path), "--docs", str(tmp_path), "--seeds", "2"]
    assert compare.main([*where, "--page-only", "--trainer.max_epochs", "3"]) == 1
    assert "trainer.max_epochs: 30 -> 3" in capsys.readouterr().err
    assert compare.main([*where[:-1], "0"]) == 1
    assert "seeds must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", SMALL)
def test_every_contender_is_timed(name, monkeypatch):
    monkeypatch.setattr(comparison, "REPEATS", 1)
    seconds = step_seconds(TRAINED[name], SMALL[name])
    assert seconds.keys() == {contender.name for contender in TRAINED[name].contenders}
    assert min(seconds.values()) > 0


def test_steps_are_timed_on_one_thread_and_the_threads_given_back():
    class Recorder(torch.nn.Linear):
        def forward(self, x):
            threads.append(torch.get_num_threads())
            return super().forward(x)

    threads: list[int] = []
    timed = replace(
        networks.IMAGES,
        create=lambda name, classes, **options: Recorder(2, 2),
        make_batch=lambda config: ((torch.rand(3, 2),), torch.tensor([0, 1, 0])),
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        step_seconds(timed, {})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}
    assert len(threads) >= len(timed.contenders) * REPEATS


@pytest.mark.slow
@pytest.mark.fault(8)
def test_a_run_is_stopped_at_the_deadline_continued_and_not_done_again(tmp_path, capsys):
    config = Path("scripts/configs/points.yaml")
    settings = {"model.name": "pointnet", "model.options.width": 8, "trainer.max_epochs": 1}
    settings |= {
        "data.num_points": 8,
        "data.shapes_per_class": [2, 1, 1],
        "data.root": str(tmp_path),
    }
    piece = TrainingRun(tmp_path / "run-0", "train_modelnet10", config, settings, 0)
    options = make_options(tmp_path, minutes=0.0)
    assert finish({("run", 0): piece}, options) == {}
    assert not piece.path.exists()
    piece.run(0.0)
    assert "run-0: exit code " in capsys.readouterr().out
    options.minutes = 10
    (found,) = finish({("run", 0): piece}, options).values()
    assert found["epochs"] == 1
    assert found["curve"] == [pytest.approx(found["val"], abs=1e-3)]
    capsys.readouterr()
    assert finish({("run", 0): piece}, options) == {("run", 0): found}
    shutil.rmtree(piece.path)
    assert finish({("run", 0): piece}, options) == {("run", 0): found}  # as kept beside the page
    assert not capsys.readouterr().out


def test_a_run_that_holds_nothing_out_has_no_accuracy_there(tmp_path):
    fake("points", tmp_path)
    run = COMPARISONS["points"].make_run(networks.POINTS.contenders[0], None, 0, tmp_path, {})
    (run.path / "metrics.csv").write_text("epoch,train_loss,val_accuracy\n1,9,\n2,9,\n")
    assert run.read()["epochs"] == 2
    assert "val" not in run.read()


class Instant(TrainingRun):
    def read(self):
        return {"test": 1.0} if self.path.exists() else None

    def run(self, deadline):
        self.path.mkdir()


def test_a_command_that_ends_early_has_kept_what_was_finished(tmp_path):
    class Interrupted(Instant):
        def run(self, deadline):
            raise KeyboardInterrupt

    config = Path("scripts/configs/points.yaml")
    first, second = (
        kind(tmp_path / kind.__name__, "none", config, {}, 0) for kind in (Instant, Interrupted)
    )
    options = make_options(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        finish({("a", 0): first, ("b", 0): second}, options)
    first.path.rmdir()
    options.page_only = True
    assert finish({("a", 0): first, ("b", 0): second}, options) == {("a", 0): {"test": 1.0}}


def test_kept_results_of_other_settings_are_not_taken(tmp_path):
    def piece(place, rate):
        settings = {"model.optimizer.lr": rate}
        return {
            ("a", 0): Instant(
                tmp_path / place, "none", Path("scripts/configs/points.yaml"), settings, 0
            )
        }

    options = make_options(tmp_path)
    assert finish(piece("first", 0.1), options) == {("a", 0): {"test": 1.0}}
    finish(piece("same", 0.1), options)
    assert not (tmp_path / "same").exists()
    finish(piece("other", 0.2), options)
    assert (tmp_path / "other").exists()


def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    class Noted(TrainingRun):
        def run(self, deadline):
            raise TrainingError(self.path.name)

    config = Path("scripts/configs/points.yaml")
    pieces = {(name, 0): Noted(tmp_path / name, "none", config, {}, 0) for name in "ab"}
    options = make_options(tmp_path, jobs=2)
    with pytest.raises(TrainingError, match=r"a\nb|b\na"):
        finish(pieces, options)


def test_words_that_are_no_settings_are_refused(capsys):
    for words in (["convert", "--trainer.max_epochs", "1"], ["points", "--trainer.max_epochs"]):
        with pytest.raises(SystemExit):
            compare.main(words)
    assert "expected pairs such as" in capsys.readouterr().err


# conversion


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A fine-tuning of one seed, as short as it can be, of small networks."""
    folder = tmp_path_factory.mktemp("convert")
    images, classes = torch.rand(32, *conversion.IMAGE), torch.arange(32) % 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "digits", lambda split: (images, classes))
        patch.setattr(conversion, "digit_batches", lambda: [(images[:20], classes[:20])])
        patch.setattr(conversion, "resnet", one_block)
        patch.setattr(conversion, "SMALL_SIZES", {k: v // 4 for k, v in SMALL_SIZES.items()})
        assert compare.main(fine_tuning(folder, 1)) == 0
        yield folder


def one_block(widths=conversion.WIDTHS):
    """The last block of the network, a quarter as wide."""
    width = widths[-1] // 4
    stem, pool = nn.Conv2d(3, width, 8, stride=8), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(stem, BasicBlock(width, width), pool, nn.Flatten(), nn.Linear(width, 10))


def fine_tuning(folder, seeds):
    sizes = ["--num-train", "32", "--first", "1", "--more", "1"]
    where = ["--runs", str(folder), "--docs", str(folder)]
    return ["convert-finetune", "--seeds", str(seeds), *sizes, *where]


def test_dense_control_has_the_weights_of_the_converted_network():
    narrow, new = num_weights(resnet(conversion.NARROW)), num_weights(converted(resnet()))
    assert abs(narrow / new - 1) < 0.01


def test_every_arm_is_trained_once_and_the_page_has_it(folder):
    arms, paths = FineTuned.arms, sorted(folder.glob("*-0.json"))
    assert [path.name for path in paths] == sorted(f"{arm.name}-0.json" for arm in arms)
    text = (folder / "convert-finetune.md").read_text()
    assert all(f"| `{arm.name}` |" in text for arm in arms)
    assert "does projection help?: `projected` - `anew`" in text
    before = [path.stat().st_mtime_ns for path in paths]
    assert compare.main(fine_tuning(folder, 1)) == 0
    assert before == [path.stat().st_mtime_ns for path in paths]


def test_results_of_another_budget_are_not_taken(folder, capsys):
    assert compare.main([*fine_tuning(folder, 1), "--more", "2"]) == 1
    assert "more: 1 -> 2" in capsys.readouterr().err


def test_the_page_counts_the_trials_that_are_missing(folder):
    assert compare.main([*fine_tuning(folder, 3), "--page-only"]) == 0
    missing = 2 * len(FineTuned.arms)
    assert f"**{missing} runs are not done yet**" in (folder / "convert-finetune.md").read_text()


def test_original_is_trained_once_for_all_that_follow_it(folder):
    trial = original(Budget(1, 1, 32), 0, folder)
    before = trial.path.stat().st_mtime_ns
    first, again = trial.weights(), trial.weights()
    assert all((first[name] == again[name]).all() for name in first)
    assert trial.path.stat().st_mtime_ns == before
    result = json.loads((folder / "original-0.json").read_text())["result"]
    assert result["epochs"] == 1
    assert result["start"] >= 0
