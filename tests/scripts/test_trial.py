"""Short trainings for what the paper leaves open, and the pages they make."""

import argparse
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from scripts import paper
from scripts.experiments import trial as trials
from scripts.experiments.pages import read_rows
from scripts.experiments.paper import counts, cycles, levels_study, open_questions, small_tasks
from scripts.experiments.paper.open_questions import QUESTIONS, TASKS, VARIANTS
from scripts.experiments.paper.registry import ITEMS
from scripts.experiments.paper.small_tasks import Data, Network, smooth_function
from scripts.experiments.runs import finish
from scripts.training.reliability.errors import NonFiniteError, RunFolderError


def noise(num_train: int) -> Data:
    """Images of two classes, light and dark."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(num_train + 20) % 2
    x = torch.rand(num_train + 20, 3, 8, 8, generator=generator) + y[:, None, None, None]
    return Data(x[:num_train], y[:num_train], x[num_train:], y[num_train:])


FUNCTION, DIGITS = (
    replace(TASKS[0], epochs=1, make_data=partial(smooth_function, 200, 50), batch_size=50),
    replace(TASKS[1], epochs=2, make_data=partial(noise, 40)),
)


@pytest.fixture
def tiny(monkeypatch):
    """Two of the questions, one of them on one task only."""
    questions = [q for q in QUESTIONS if q.tried in ("zero scale", "odd widths, any")]
    names = {name for q in questions for name in (q.tried, q.against)}
    variants = {name: variant for name, variant in VARIANTS.items() if name in names}
    monkeypatch.setattr(open_questions, "TASKS", (FUNCTION, DIGITS))
    monkeypatch.setattr(open_questions, "QUESTIONS", questions)
    monkeypatch.setattr(open_questions, "VARIANTS", variants)


def make_trial(folder, seed=0, task=DIGITS):
    return Network(task, "default").trial(seed, folder)


def run_all(pieces, minutes=10.0):
    docs = pieces[0].path.parent / "docs"
    options = argparse.Namespace(
        name="trials", docs=docs, seeds=1, minutes=minutes, page_only=False
    )
    return finish({("", number): piece for number, piece in enumerate(pieces)}, options)


def test_a_trial_gives_the_same_again_and_another_seed_something_else(tmp_path):
    pieces = [make_trial(tmp_path / place, seed) for place, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, again, other = run_all(pieces).values()
    assert first["loss"] == again["loss"] != other["loss"]


def test_a_trial_learns_what_is_easy(tmp_path):
    (found,) = run_all([make_trial(tmp_path, task=replace(DIGITS, epochs=24))]).values()
    assert found["score"] == 100


def test_variants_of_one_seed_start_with_the_same_layers():
    one = Network(DIGITS, "default").make()
    other = Network(DIGITS, "interleaved groups", cycles.interleaved).make()
    assert_close(list(one.parameters()), list(other.parameters()), rtol=0, atol=0)


def test_trials_that_are_there_are_not_run_again_and_missing_ones_are_left_out(tmp_path):
    two = [make_trial(tmp_path, seed) for seed in (0, 1)]
    (done,) = run_all(two[:1]).values()
    assert run_all(two, minutes=0.0) == {("", 0): done}
    assert list(run_all(two)) == [("", 0), ("", 1)]


def test_a_damaged_file_is_named(tmp_path):
    trial = make_trial(tmp_path)
    trial.path.write_text("{")
    with pytest.raises(RunFolderError, match=r"digits-default-0\.json.*remove it"):
        run_all([trial])


def test_a_loss_that_is_not_finite_stops_a_trial(tmp_path):
    task = replace(FUNCTION, optimizer=replace(FUNCTION.optimizer, kind="sgd", lr=1e30), epochs=3)
    with pytest.raises(NonFiniteError, match="function-default-0"):
        run_all([make_trial(tmp_path, task=task)])


def test_the_smooth_function_has_slow_waves_and_other_points_for_the_test():
    data = smooth_function(500, 100)
    assert (data.x[:, 4].min() >= 1, data.x[:, 4].max() <= 2) == (True, True)
    x, y, a, b, c = data.x.T
    assert_close(data.y[:, 0], a * torch.cos(b * x) * torch.sin(c * y))
    assert not set(map(tuple, data.x.tolist())) & set(map(tuple, data.test_x.tolist()))


def test_an_error_of_100_percent_is_that_of_a_constant():
    targets = torch.tensor([[1.0], [3.0]])
    assert small_tasks.relative_error(torch.full((2, 1), 2.0), targets) == 100
    assert trials.percent_right(torch.eye(2), torch.tensor([0, 0])) == 50


def test_every_question_is_about_variants_on_the_same_tasks():
    asked = {name for q in QUESTIONS for name in (q.tried, q.against)}
    assert asked == set(VARIANTS)
    for question in QUESTIONS:
        tasks = VARIANTS[question.tried].options.keys()
        assert tasks <= VARIANTS[question.against].options.keys()


def test_only_the_changed_thing_differs_between_narrow_and_odd_networks():
    for tried, against in (("narrow, none", "narrow, one level"), ("odd widths, any",) * 2):
        for task in VARIANTS[tried].options:
            one, other = VARIANTS[tried].options[task], VARIANTS[against].options[task]
            assert {k: v for k, v in one.items() if k != "min_levels"} == other


def ask(task, tried, against):
    """The row of a question that came out with these scores, seed by seed."""
    question = next(question for question in QUESTIONS if question.tried == "zero scale")
    found = {
        (task.name, name, seed): {"score": score, "weights": 7}
        for name, scores in (("zero scale", tried), ("default", against))
        for seed, score in enumerate(scores)
    }
    return open_questions.make_row(question, task, found)


@pytest.mark.parametrize(
    ("tried", "against", "lower", "higher"),
    [
        ((1.0, 2.0), (3.0, 4.0), "better", "worse"),
        ((1.0, 3.0), (2.0, 4.0), "no difference seen", "no difference seen"),
        ((5.0,), (3.0, 4.0), "worse", "better"),
        ((), (3.0,), "not run yet", "not run yet"),
    ],
)
def test_the_verdict_on_a_question_follows_the_ranges(tried, against, lower, higher):
    for task, verdict in ((FUNCTION, lower), (DIGITS, higher)):
        assert ask(task, tried, against)["verdict"] == verdict


def test_seeds_are_compared_one_by_one():
    row = ask(DIGITS, (81, 83, 95), (80, 84))
    assert (row["seeds"], row["seeds better"], row["verdict"]) == (2, 1, "no difference seen")
    assert (row["ours against"], row["lowest"], row["highest"]) == (82, 81, 95)


def test_open_questions_are_tabulated_as_far_as_they_are_run(tiny, tmp_path, capsys):
    command = ["open_questions", "--docs", str(tmp_path), "--runs", str(tmp_path / "runs")]
    command += ["--seeds", "1"]
    assert paper.main([*command, "--minutes", "0"]) == 0
    assert "6 trials are not run yet" in capsys.readouterr().out
    assert paper.main(command) == 0
    assert "not run yet" not in capsys.readouterr().out
    rows = read_rows(tmp_path / "open_questions.csv")
    assert [row["task"] for row in rows] == ["function", "digits", "digits"]
    assert all(row["ours"] and row["ours against"] for row in rows)
    assert (tmp_path / "open_questions.png").stat().st_size > 1000


def test_the_study_trains_a_network_once_where_two_settings_are_one(monkeypatch, tmp_path):
    small = replace(DIGITS, options={"depth": 8}, epochs=1)
    monkeypatch.setattr(levels_study, "DIGITS", small)
    command = ["levels_study", "--docs", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert paper.main([*command, "--seeds", "1"]) == 0
    rows = {(row["s_c"], row["s_g"]): row for row in read_rows(tmp_path / "levels_study.csv")}
    assert len(rows) == 6
    assert len(list((tmp_path / "runs").glob("*.json"))) == 5
    assert rows["32", "16"]["same network as"] == "s_c 64 s_g 16"
    assert rows["32", "16"]["test_mean"] == rows["64", "16"]["test_mean"]
    assert rows["16", "16"]["same network as"] == ""


def test_accuracies_of_the_study_stand_beside_the_papers_in_table_12(monkeypatch, tmp_path):
    monkeypatch.setattr(counts, "count", lambda network: counts.Counts(7, 7))
    (tmp_path / "levels_study.csv").write_text(
        "s_c,s_g,test_mean,test_std\n16,8,81.26,0.5\n16,16,82.0,1.0\n16,4,,\n"
    )
    arguments = paper.make_parser().parse_args(["table12", "--docs", str(tmp_path)])
    rows = {row["model"]: row for row in ITEMS["table12"].make(arguments).rows}
    (ours,) = (key for key in next(iter(rows.values())) if key.startswith("ours mnist5k"))
    found = {model: row[ours] for model, row in rows.items() if row[ours]}
    assert found == {
        "s_c = 16, s_g = 16 (varying s_c)": "82.0 ± 1.0",  # the paper has (16, 16) twice
        "s_c = 16, s_g = 16 (varying s_g)": "82.0 ± 1.0",
        "s_c = 16, s_g = 8 (varying s_g)": "81.3 ± 0.5",
    }
    assert rows["s_c = 16, s_g = 8 (varying s_g)"]["paper CIFAR-10 test, %"] == 94.2
