from types import SimpleNamespace

import pytest
from lightning.pytorch.trainer.states import RunningStage

from datasets import progress
from scripts.training.reports import progress_log
from scripts.training.reports.progress_log import ProgressLog


def show(monkeypatch, capsys, *, first, resumed=False, **settings) -> str:
    """Train two batches with a validation of one between them, as the callback is told."""
    monkeypatch.setattr(progress_log, "LOGGED", first)
    monkeypatch.setattr(progress, "LOGGED", 0.0)
    stage = SimpleNamespace(stage=RunningStage.TRAINING)
    counts = {"num_training_batches": 2, "num_val_batches": [1], "sanity_checking": False}
    rank = {"is_global_zero": True, "progress_bar_callback": None} | settings
    trainer = SimpleNamespace(state=stage, current_epoch=4, **counts, **rank)
    log = ProgressLog()
    log.on_train_start(trainer, None)
    if not resumed:
        log.on_train_epoch_start(trainer, None)
        log.on_train_batch_start(trainer, None, None, 0)
    stage.stage = RunningStage.VALIDATING
    log.on_validation_start(trainer, None)
    log.on_validation_batch_start(trainer, None, None, 0, 0)
    stage.stage = RunningStage.TRAINING
    log.on_train_batch_start(trainer, None, None, 1)
    return capsys.readouterr().err


def test_a_long_epoch_is_counted(monkeypatch, capsys):
    assert show(monkeypatch, capsys, first=-1.0).splitlines() == [
        "epoch 5: batches trained: 0 of 2",
        "batches validated: 0 of 1",
        "epoch 5: batches trained: 1 of 2",
    ]


def test_an_epoch_that_is_continued_in_its_middle_is_counted(monkeypatch, capsys):
    lines = show(monkeypatch, capsys, first=-1.0, resumed=True).splitlines()
    assert lines == ["batches validated: 0 of 1", "epoch 5: batches trained: 1 of 2"]


def test_a_quick_epoch_is_not(monkeypatch, capsys):
    assert show(monkeypatch, capsys, first=60.0) == ""


@pytest.mark.parametrize("settings", [{"is_global_zero": False}, {"progress_bar_callback": "bar"}])
def test_other_ranks_and_progress_bars_need_no_count(monkeypatch, capsys, settings):
    assert show(monkeypatch, capsys, first=-1.0, **settings) == ""
