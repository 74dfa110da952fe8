"""What a run does about numbers that are not finite and about too little memory."""

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from training_runs import (
    NO_TEST,
    SignalAt,
    assert_kills_change_nothing,
    assert_same_run,
    metrics,
    newest,
    run,
    run_ranks,
)

from scripts.training.loader import ShuffledBatches
from scripts.training.reliability.checkpoint import read_checkpoint
from scripts.training.reliability.errors import NonFiniteError, RunFolderError, TrainingError
from scripts.training.reliability.recovery import MOST_ROLLBACKS, Recovery

CLASSIFIER = "scripts.training.points.PointClassifier"
ROLLBACK = ["--on-nonfinite", "rollback"]
TWO_EPOCHS = ["--trainer.max_epochs", "2"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> list[str]:
    """Arguments of a small run: 24 clouds, 3 batches of 8 an epoch, without dropout."""
    root = tmp_path_factory.mktemp("data")
    return [
        *("--data.root", str(root), "--data.shapes_per_class", "[3, 1, 1]"),
        *("--data.num_points", "16", "--data.batch_size", "8", "--data.val_fraction", "0.2"),
        *("--model.name", "pointnet", "--model.options", '{"width": 8}'),
        *("--trainer.max_epochs", "3", "--trainer.accelerator", "cpu"),
        *("--checkpoint_every", "1", "--threads", "1"),
        *NO_TEST,
    ]


@dataclass(frozen=True)
class Poison:
    """Makes the loss of a sample not finite, or all weights after so many steps."""

    sample: int = -1
    steps: int = 0

    def __call__(self) -> None:
        from scripts.training.points import PointClassifier

        forward, optimize, steps = PointClassifier.forward, PointClassifier.optimizer_step, 0

        def bad_forward(model, batch):
            bad = model.training and self.sample in batch.index
            return forward(model, batch) * (float("nan") if bad else 1)

        def bad_step(model, *args, **kwargs):
            nonlocal steps
            steps += 1
            optimize(model, *args, **kwargs)
            if steps == self.steps:
                next(model.network.parameters()).data.fill_(float("inf"))

        PointClassifier.forward, PointClassifier.optimizer_step = bad_forward, bad_step


@dataclass(frozen=True)
class OutOfMemoryAbove:
    """Lets no training batch have more clouds than that, once so many were trained on."""

    clouds: int
    after: int = 0

    def __call__(self) -> None:
        from scripts.training.points import PointClassifier

        forward, calls = PointClassifier.forward, 0

        def greedy(model, batch):
            nonlocal calls
            if model.training:
                calls += 1
                if calls > self.after and len(batch.name) > self.clouds:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return forward(model, batch)

        PointClassifier.forward = greedy


@pytest.fixture
def fit(tiny, tmp_path):
    """Trains in ``tmp_path``; the rest is as of ``run``."""
    return partial(run, tmp_path / "log", "fit", *tiny, "--run_dir", tmp_path)


def recovery_of(folder: Path) -> dict:
    return json.loads((folder / "recovery.json").read_text())


def weights_of(folder: Path) -> dict:
    return read_checkpoint(folder / "checkpoints" / newest(folder))["state_dict"]


# numbers


@pytest.mark.fault(12)
def test_rollback_leaves_out_the_batch_and_counts_it(fit, tmp_path):
    output = fit(*ROLLBACK, *TWO_EPOCHS, fault=Poison(7))
    recovery = recovery_of(tmp_path)
    assert [epoch for epoch, _ in recovery["replaced"]] == [0, 1]
    assert [event["kind"] for event in recovery["events"]] == ["rollback"] * 2
    for event, (epoch, batch) in zip(recovery["events"], recovery["replaced"], strict=True):
        assert f"the loss is nan at step {3 * epoch + batch + 1} (epoch" in event["why"]
        assert "learning rate" in event["why"]
        assert event["why"].count("/train/") == (4 if batch == 2 else 8)
    assert output.count("warning: the loss is nan") == 2
    assert "(rollback 2 of at most 10)" in output
    assert [row[:2] for row in metrics(tmp_path)[1:]] == [["1", "3"], ["2", "6"]]
    assert all(w.isfinite().all() for w in weights_of(tmp_path).values() if w.is_floating_point())


@pytest.mark.fault(12)
def test_weights_that_are_not_finite_are_never_saved_and_rolled_back(fit, tmp_path):
    stopped = fit(*TWO_EPOCHS, fault=Poison(steps=5), code=1)
    assert "weights are not finite after step 5, learning rate" in stopped
    assert newest(tmp_path) == "step-000000004.ckpt"
    fit(*ROLLBACK, *TWO_EPOCHS, "--overwrite", fault=Poison(steps=5))
    assert recovery_of(tmp_path)["replaced"] == [[1, 1]]
    assert all(w.isfinite().all() for w in weights_of(tmp_path).values() if w.is_floating_point())


@pytest.mark.fault(7, 12)
@pytest.mark.slow
def test_run_that_was_rolled_back_and_killed_resumes_bit_for_bit(fit, tmp_path):
    kills = [PoisonedKill(5), PoisonedKill(4)]
    fit = partial(fit, *ROLLBACK, "--run_dir")
    assert_kills_change_nothing(fit, tmp_path, *kills, fault=Poison(7))
    one, other = (recovery_of(tmp_path / name)["replaced"] for name in ("one", "other"))
    assert one == other


@dataclass(frozen=True)
class PoisonedKill:
    """Sample 7 is poison, and the process is killed at a step."""

    count: int

    def __call__(self) -> None:
        Poison(7)()
        SignalAt(CLASSIFIER, "training_step", self.count)()


@pytest.mark.fault(12, 40)
@pytest.mark.slow
def test_processes_roll_back_together(tiny, tmp_path):
    command = ["fit", *tiny, *ROLLBACK, "--data.batch_size", "4", "--run_dir", tmp_path]
    run_ranks(tmp_path, *command, faults=[Poison(7)] * 2)  # one of them gets it
    recovery = recovery_of(tmp_path)
    assert [epoch for epoch, _ in recovery["replaced"]] == [0, 1, 2]
    assert all("the loss is nan" in event["why"] for event in recovery["events"])


@pytest.mark.fault(12)
@pytest.mark.slow
def test_steps_that_half_precision_skips_are_no_fault_and_resume_bit_for_bit(fit, tmp_path):
    """Losses are scaled so much that gradients overflow, until the scaler has learned better."""
    scaler = {"class_path": "torch.amp.GradScaler", "init_args": {"device": "cpu"}}
    scaler["init_args"]["init_scale"] = 1e9
    precision = {"precision": "16-mixed", "device": "cpu", "scaler": scaler}
    plugin = {"class_path": "lightning.pytorch.plugins.MixedPrecision", "init_args": precision}
    fit = partial(fit, "--trainer.plugins", json.dumps(plugin), "--run_dir")
    assert_kills_change_nothing(fit, tmp_path, SignalAt(CLASSIFIER, "training_step", 3))
    last = read_checkpoint(tmp_path / "one/checkpoints/step-000000009.ckpt")
    assert 1 < last["MixedPrecision"]["scale"] < 1e9


def test_the_next_batch_stands_in_for_one_that_is_left_out():
    whole = list(ShuffledBatches(range(24), 8, seed=0))
    left = list(ShuffledBatches(range(24), 8, seed=0, replaced=[(0, 1), (0, 2), (5, 0)]))
    assert left == [whole[0], whole[0], whole[0]]
    every = ShuffledBatches(range(24), 8, seed=0, replaced=[(0, 0), (0, 1), (0, 2)])
    with pytest.raises(TrainingError, match="every batch of epoch 1 has been left out"):
        list(every)


@pytest.mark.fault(12)
def test_rollbacks_end_and_blame_the_batch_before_one_that_is_left_out():
    recovery = Recovery()
    for _ in range(2):
        recovery.roll_back(NonFiniteError("bad", (0, 5)))
    assert recovery.replaced == [(0, 5), (0, 4)]
    for batch in range(MOST_ROLLBACKS - 2):
        recovery.roll_back(NonFiniteError("bad", (1, batch)))
    with pytest.raises(NonFiniteError, match="bad; gave up after 10 rollbacks"):
        recovery.roll_back(NonFiniteError("bad", (2, 0)))
    with pytest.raises(NonFiniteError, match="sample"):  # that is bad in every epoch
        Recovery().roll_back(NonFiniteError("sample"))


@pytest.mark.parametrize("content", ["", "{}", '{"pieces": 1, "replaced": [3], "events": []}'])
def test_damaged_recovery_is_an_error(content, tmp_path):
    (tmp_path / "recovery.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"cannot use .*recovery\.json"):
        Recovery.read(tmp_path)


# memory


@pytest.mark.fault(14)
def test_too_little_memory_is_told_with_advice(fit):
    told = "error: out of memory with batches of 8: try a smaller --data.batch_size"
    assert told in fit(fault=OutOfMemoryAbove(4), code=1)


@pytest.mark.fault(14)
def test_auto_batch_does_what_smaller_batches_that_accumulate_do(fit, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    smaller = ["--data.batch_size", "4", "--trainer.accumulate_grad_batches", "2"]
    fit(*smaller, *TWO_EPOCHS, "--run_dir", one)
    options = ["--auto-batch", "true", *TWO_EPOCHS, "--run_dir", other]
    found = fit(*options, fault=OutOfMemoryAbove(5))
    told = "warning: out of memory with batches of 8: continuing with 2 times as many of 4"
    assert told in found
    assert_close(weights_of(one), weights_of(other), rtol=0, atol=0)
    assert metrics(one) == metrics(other)


@pytest.mark.fault(14)
@pytest.mark.slow
def test_memory_that_runs_short_within_an_epoch_loses_no_sample(fit, tmp_path):
    """Six steps are those of whole batches; from the seventh on, of pieces."""
    folder = tmp_path / "run"
    fit = partial(fit, "--auto-batch", "true", "--run_dir", folder)
    fit(fault=OutOfMemoryAbove(4, after=7))
    assert recovery_of(folder)["pieces"] == 2
    assert [row[:2] for row in metrics(folder)[1:]] == [["1", "3"], ["2", "6"], ["3", "9"]]
    last = folder / "checkpoints" / "step-000000009.ckpt"
    loops = read_checkpoint(last)["loops"]["fit_loop"]
    assert loops["state_dict"]["combined_loader"] == [{"delivered": 5}]  # 20 clouds in fours
    shutil.copytree(folder, tmp_path / "copy")
    # from the middle of the epoch again: the configuration is still the one asked for
    last.unlink()
    fit("--resume", fault=OutOfMemoryAbove(4))
    assert_same_run(folder, tmp_path / "copy")


@pytest.mark.fault(14, 40)
@pytest.mark.slow
def test_processes_agree_on_smaller_batches(tiny, tmp_path):
    command = ["fit", *tiny, "--auto-batch", "true", "--data.batch_size", "4"]
    command += ["--run_dir", tmp_path]
    faults = [None, OutOfMemoryAbove(2)]
    _, short = run_ranks(tmp_path, *command, faults=faults, codes=[1, 75])
    assert "Start all processes again with --resume" in short
    run_ranks(tmp_path, *command, "--resume", faults=faults)
    assert recovery_of(tmp_path)["pieces"] == 2


@pytest.mark.fault(14)
def test_batches_are_cut_into_equal_pieces_of_two_at_least():
    recovery, sizes = Recovery(replaced=[(0, 3)]), []
    size = 36
    for factor in (2, 2, 3):
        recovery.cut_batches(size, TrainingError("full"))
        size //= factor
        sizes.append(recovery.pieces)
    assert sizes == [2, 4, 12]
    assert recovery.replaced == [(0, 36 + part) for part in range(12)]
    with pytest.raises(TrainingError, match="full; pieces of 3 cannot be cut"):
        recovery.cut_batches(3, TrainingError("full"))
