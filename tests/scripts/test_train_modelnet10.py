import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import trimesh
import yaml
from torch.testing import assert_close
from training_runs import (
    ROOT,
    CodeFrom,
    CountBuilds,
    DiskFullAfter,
    Hang,
    NotFinite,
    ReadOnlyAfter,
    SignalAt,
    Unreadable,
    WorkerKilled,
    assert_same_run,
    metrics,
    run,
    run_on_disk,
    run_ranks,
    survive_kills,
)

from mgic_geo import create_model
from scripts.training.reliability.checkpoint import SealedCheckpointIO, read_checkpoint, seal

SCRIPT = "scripts.train_modelnet10"
RUN_CHECKPOINT = "scripts.training.reliability.run_checkpoint.RunCheckpoint"
CLASSIFIER = "scripts.training.points.PointClassifier"
FILES = "scripts.training.reliability.files.os"
NO_TEST = ["--test_after_fit", "false", "--report", "false"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> list[str]:
    """Arguments of a small run: 40 clouds, 5 batches an epoch, dropout and augmentation."""
    root = tmp_path_factory.mktemp("data")
    return [
        *("--data.root", str(root), "--data.shapes_per_class", "[6, 2, 2]"),
        *("--data.num_points", "32", "--data.batch_size", "8", "--data.val_fraction", "0.34"),
        *("--data.augment.rotate_z", "180", "--data.augment.jitter", "0.01"),
        *("--data.test_splits", "[test, test-hard]"),
        *("--model.name", "mgic_diffgcn"),
        *("--model.options", '{"k": 4, "width": 16, "dropout": 0.5}'),
        *("--trainer.max_epochs", "3", "--trainer.accelerator", "cpu"),
        *("--checkpoint_every", "2", "--threads", "1"),
    ]


@pytest.fixture(scope="session")
def whole(tiny, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run; its output is in ``log``."""
    folder = tmp_path_factory.mktemp("whole") / "a run, kept in Zürich"
    folder.mkdir()
    result = run(folder / "log", "fit", *tiny, "--run_dir", folder)
    assert result.code == 0, result.output
    return folder


def assert_resumes_exactly(command, folder, whole, *options) -> str:
    resumed = run(folder / "log", *command, "--resume", *options)
    assert resumed.code == 0, resumed.output
    assert_same_run(whole, folder)
    assert not list(folder.rglob("*.part"))
    return resumed.output


@pytest.mark.fault(7, 10)
@pytest.mark.parametrize(
    ("fault", "options"),
    [
        pytest.param(
            *(SignalAt(CLASSIFIER, "training_step", 9), ["--data.num_workers", "2"]),
            id="within-epoch",
        ),
        pytest.param(
            *(SignalAt(CLASSIFIER, "validation_step", 4), []),
            id="in-validation",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_killed_and_resumed_run_is_bit_identical(fault, options, tiny, whole, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    killed = run(tmp_path / "log", *command, fault=fault)
    assert killed.code == -signal.SIGKILL, killed.output
    assert_resumes_exactly(command, tmp_path, whole, *options)


@pytest.mark.fault(44)
@pytest.mark.slow
def test_run_in_a_folder_whose_name_is_no_text_resumes_and_predicts(tiny, whole, tmp_path):
    odd = tmp_path / "caf\udce9, a long one".ljust(200, "x")  # how Python spells the byte E9
    shutil.copytree(tiny[1], odd / "data")
    command = ["fit", *tiny, *NO_TEST, "--data.root", odd / "data", "--run_dir", odd / "run"]
    killed = run(tmp_path / "log", *command, fault=SignalAt(CLASSIFIER, "training_step", 9))
    assert killed.code == -signal.SIGKILL, killed.output
    assert "warning: a path is not in UTF-8" in killed.output
    resumed = run(tmp_path / "log", *command, "--resume")
    assert resumed.code == 0, resumed.output
    assert_same_run(whole, odd / "run")
    mesh = next((odd / "data").rglob("*.off"))
    predicted = run(tmp_path / "log", "predict", "--run_dir", odd / "run", mesh)
    assert predicted.code == 0, predicted.output
    assert predicted.output.count("%") == 3


@pytest.mark.fault(5, 7)
@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        SignalAt(CLASSIFIER, "training_step", 1),
        SignalAt(CLASSIFIER, "training_step", 5),
        SignalAt(CLASSIFIER, "training_step", 6),
        SignalAt(CLASSIFIER, "on_validation_epoch_start", 1),
        SignalAt(CLASSIFIER, "validation_step", 6),
        SignalAt(CLASSIFIER, "on_validation_epoch_end", 2),
        SignalAt("scripts.training.reports.metrics_log.MetricsLog", "on_train_epoch_end", 2),
        SignalAt(RUN_CHECKPOINT, "on_train_epoch_end", 2),
        SignalAt(RUN_CHECKPOINT, "_save_step", 6),
        SignalAt("scripts.training.stages.Stages", "_training_line", 1),
        *(SignalAt(FILES, "replace", count) for count in (5, 7, 10)),
        *(SignalAt(FILES, "fsync", count) for count in (8, 12, 17)),
    ],
    ids=lambda fault: f"{fault.method}-{fault.count}",
)
def test_resumes_exactly_from_a_kill_anywhere(fault, tiny, whole, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    killed = run(tmp_path / "log", *command, fault=fault)
    assert killed.code == -signal.SIGKILL, killed.output
    assert_resumes_exactly(command, tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.accumulate_grad_batches", "2", "--checkpoint_every", "1"],
        ["--trainer.limit_train_batches", "4"],
        ["--trainer.check_val_every_n_epoch", "2"],
        ["--trainer.precision", "bf16-mixed"],
        ["--data.val_fraction", "0"],
        ["--model.optimizer.kind", "sgd", "--model.optimizer.schedule", "step"],
        ["--model.name", "random_graph", "--model.options", '{"k": 4, "width": 16}'],
    ],
    ids=lambda options: "-".join(options[:2]),
)
def test_resumes_exactly_with_other_options(options, tiny, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    command = ["fit", *tiny, *NO_TEST, *options, "--run_dir"]
    assert run(tmp_path / "log", *command, one).code == 0
    for count in (3, 8):
        killed = run(
            tmp_path / "log",
            *(*command, other, "--resume"),
            fault=SignalAt(CLASSIFIER, "training_step", count),
        )
        assert killed.code == -signal.SIGKILL, killed.output
    resumed = run(tmp_path / "log", *command, other, "--resume")
    assert resumed.code == 0, resumed.output
    newest = max(path.name for path in (one / "checkpoints").glob("step-*"))
    assert_same_run(one, other, newest)


@pytest.mark.fault(7, 10)
@pytest.mark.slow
def test_resumes_exactly_from_ten_kills_at_random_moments(tiny, whole, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    check = partial(assert_resumes_exactly, command, tmp_path, whole)
    survive_kills(tmp_path, *command, check=check, script=SCRIPT)


@pytest.mark.fault(5)
@pytest.mark.slow
def test_process_that_dies_in_the_middle_of_a_write_leaves_the_old_file_whole(
    tiny, whole, tmp_path
):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    killed = run(tmp_path / "log", *command, fault=DiskFullAfter(4, deadly=True))
    assert killed.code == -signal.SIGXFSZ, killed.output
    (part,) = tmp_path.rglob("*.part")
    assert part.stat().st_size == 4096
    assert part.parent == tmp_path / "checkpoints"
    assert not part.with_name(part.name[1:].removesuffix(".part")).exists()
    assert_resumes_exactly(command, tmp_path, whole)


@pytest.mark.fault(25, 27)
@pytest.mark.slow
def test_run_killed_while_its_data_are_prepared_starts_again(tiny, whole, tmp_path):
    data = ["--data.root", tmp_path / "data"]
    command = ["fit", *tiny, *data, *NO_TEST, "--run_dir", tmp_path / "run"]
    for fault in (
        SignalAt("datasets.shapes10.Path", "write_bytes", 7),
        SignalAt("datasets.mesh_cache.json", "dumps", 2),
    ):
        killed = run(tmp_path / "log", *command, fault=fault)
        assert killed.code == -signal.SIGKILL, killed.output
    done = run(tmp_path / "log", *command)
    assert done.code == 0, done.output
    assert_same_run(whole, tmp_path / "run")
    assert not list((tmp_path / "data").rglob("*writing*"))


# signals, numbers, disk


@pytest.mark.fault(8)
def test_sigterm_saves_at_the_end_of_the_batch_and_the_run_continues(tiny, whole, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    stopped = run(
        tmp_path / "log", *command, fault=SignalAt(CLASSIFIER, "training_step", 8, signal.SIGTERM)
    )
    assert stopped.code == 75, stopped.output
    assert "SIGTERM after step 8, continue with --resume" in stopped.output
    assert (tmp_path / "checkpoints" / "step-000000008.ckpt").exists()
    assert_resumes_exactly(command, tmp_path, whole)


@pytest.mark.fault(8)
@pytest.mark.parametrize(("signals", "step"), [(1, 10), (2, 5)])
def test_one_ctrl_c_finishes_the_epoch_after_its_last_batch_and_two_do_not(
    signals, step, tiny, tmp_path
):
    fault = SignalAt(CLASSIFIER, "validation_step", 6, signal.SIGINT, signals)
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path, "--checkpoint_every", "0"]
    stopped = run(tmp_path / "log", *command, fault=fault)
    assert stopped.code == 130, stopped.output
    newest = max(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert newest == f"step-{step:09d}.ckpt"


@pytest.mark.fault(12)
def test_loss_that_is_not_finite_names_step_samples_and_learning_rate(tiny, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    stopped = run(tmp_path / "log", *command, fault=NotFinite("loss", 2))
    assert stopped.code == 1
    assert "error: the loss is nan at step 2 (epoch 1, batch 2), learning rate 0.0004" in (
        stopped.output
    )
    assert stopped.output.count(".off") == 8
    assert "Traceback" not in stopped.output


@pytest.mark.fault(13)
def test_sample_that_is_not_finite_is_named_before_the_forward(tiny, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    stopped = run(tmp_path / "log", *command, fault=NotFinite("input", 7))
    assert stopped.code == 1
    assert "the input holds values that are not finite: bed/train/bed_0002.off" in stopped.output


@pytest.mark.fault(6)
def test_full_disk_does_not_end_training_but_is_told(tiny, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    result = run(tmp_path / "log", *command, fault=DiskFullAfter(4))
    assert result.code == 3, result.output
    assert "was not written" in result.output
    assert len(metrics(tmp_path)) == 4
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["best.ckpt", "step-000000005.ckpt", "step-000000007.ckpt"]
    read_checkpoint(tmp_path / "checkpoints" / "step-000000007.ckpt")


@pytest.mark.fault(6)
def test_read_only_folder_does_not_end_training_but_is_told(tiny, tmp_path):
    folder = tmp_path / "checkpoints"
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    result = run(tmp_path / "log", *command, fault=ReadOnlyAfter(folder, 4))
    folder.chmod(0o755)
    assert result.code == 3, result.output
    assert "was not written: [Errno 13] Permission denied" in result.output
    assert len(metrics(tmp_path)) == 4
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ["best.ckpt", "step-000000005.ckpt", "step-000000007.ckpt"]
    read_checkpoint(folder / "step-000000007.ckpt")


@pytest.mark.fault(6)
@pytest.mark.slow
def test_disk_without_room_does_not_end_training_but_is_told(tiny, whole, tmp_path):
    """A small file system, mounted where nobody but this test sees it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in (whole / "checkpoints").iterdir())
    command = ["fit", *tiny, *NO_TEST, "--run_dir", disk / "run"]
    copy = f'cp -r "{disk}/run" "{tmp_path}/copy"'
    result = run_on_disk(disk, int(1.2 * size), *command, then=copy, script=SCRIPT)
    assert result.returncode == 3, result.stderr
    assert "No space left on device" in result.stderr
    kept = sorted((tmp_path / "copy" / "checkpoints").glob("*"))
    assert kept
    for path in kept:
        read_checkpoint(path)


@pytest.mark.fault(2)
def test_damaged_newest_checkpoint_costs_a_warning_and_nothing_else(tiny, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    newest = folder / "checkpoints" / "step-000000015.ckpt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 3] ^= 4
    newest.write_bytes(content)
    output = assert_resumes_exactly(["fit", *tiny, *NO_TEST, "--run_dir", folder], folder, whole)
    assert "step-000000015.ckpt" in output
    assert "falling back to step-000000014.ckpt" in output


@pytest.mark.fault(1, 3)
@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "empty", "folder", "unreadable"])
def test_newest_checkpoint_that_cannot_be_used_costs_a_warning(damage, tiny, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    newest = folder / "checkpoints" / "step-000000015.ckpt"
    if damage in ("cut", "empty"):
        os.truncate(newest, newest.stat().st_size // 2 if damage == "cut" else 0)
    elif damage == "folder":
        newest.unlink()
        newest.mkdir()
    command = ["fit", *tiny, *NO_TEST, "--run_dir", folder, "--resume"]
    fault = Unreadable(newest) if damage == "unreadable" else None
    result = run(tmp_path / "log", *command, fault=fault)
    assert "step-000000015.ckpt" in result.output
    assert "falling back to step-000000014.ckpt" in result.output
    if damage == "folder":  # nor can it be written there
        assert result.code == 3, result.output
    else:
        assert result.code == 0, result.output
        assert_same_run(whole, folder)


@pytest.mark.fault(4)
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fit", "test", "predict"])
def test_checkpoint_that_runs_code_runs_none(stage, tiny, whole, tmp_path):
    folder, canary = shutil.copytree(whole, tmp_path / "copy"), tmp_path / "canary"
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(seal(f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()))
    extra = {
        "fit": [*tiny, "--resume"],
        "test": [],
        "predict": [next(Path(tiny[1]).rglob("*.off"))],
    }
    result = run(tmp_path / "log", stage, "--run_dir", folder, *extra[stage])
    assert result.code == 1
    assert "cannot use checkpoint" in result.output
    assert "Traceback" not in result.output
    assert not canary.exists()


@pytest.mark.fault(42)
def test_other_number_of_threads_is_warned_about(tiny, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    command = ["fit", *tiny, *NO_TEST, "--run_dir", folder, "--resume", "--threads", "2"]
    result = run(tmp_path / "log", *command)
    assert result.code == 0, result.output
    assert "warning: the run had 1 threads and continues with 2" in result.output


@pytest.mark.fault(9)
def test_other_classes_than_those_of_the_run_are_told(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    checkpoint = folder / "checkpoints" / "step-000000015.ckpt"
    content = read_checkpoint(checkpoint)
    content["run"]["classes"] = content["run"]["classes"][:-1]
    SealedCheckpointIO().save_checkpoint(content, checkpoint)
    result = run(tmp_path / "log", "fit", "--run_dir", folder, "--resume")
    assert result.code == 1
    assert "error: the run has classes ['bathtub', " in result.output
    assert "Traceback" not in result.output


@pytest.mark.fault(11)
def test_weights_of_another_shape_are_listed(tiny, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copy")
    other = ["--resume", "--force-config", "--model.options.width", "8"]
    result = run(tmp_path / "log", "fit", *tiny, "--run_dir", folder, *other)
    assert result.code == 1
    assert "error: the weights do not fit mgic_diffgcn" in result.output
    assert "size mismatch for network." in result.output
    assert "Traceback" not in result.output


# results


@pytest.mark.fault(44)
def test_run_folder_holds_what_the_report_and_others_read(whole):
    test = json.loads((whole / "test-hard.json").read_text())
    arrays = np.load(whole / "predictions-test-hard.npz")
    predicted = arrays["probabilities"].argmax(axis=1)
    assert test["accuracy"] == (predicted == arrays["labels"]).mean()
    assert test["num_samples"] == 20
    assert arrays["indices"].tolist() == list(range(20))
    assert arrays["names"][0] == "bathtub/test-hard/bathtub_0001.off"
    rows = arrays["cloud_rows"]
    assert arrays["clouds"].shape == (len(rows), 32, 3)
    wrong = predicted[rows] != arrays["labels"][rows]
    assert wrong.tolist() == sorted(wrong.tolist(), reverse=True)
    assert (whole / "report.html").exists()
    config = yaml.safe_load((whole / "config.yaml").read_text())
    assert config["model"]["options"] == {"k": 4, "width": 16, "dropout": 0.5}
    assert config["model"]["optimizer"]["kind"] == "adamw"
    assert "resume" not in config


def test_best_epoch_has_the_highest_validation_accuracy_and_then_the_lowest_loss(whole):
    header, *rows = metrics(whole)
    scores = [
        (float(row[header.index("val_accuracy")]), -float(row[header.index("val_loss")]))
        for row in rows
    ]
    best = json.loads((whole / "test.json").read_text())["epoch"]
    assert scores[best - 1] == max(scores)


def test_exported_weights_are_those_of_the_best_epoch(whole):
    info = json.loads((whole / "model.json").read_text())
    model = create_model(info["name"], checkpoint=whole / "model.safetensors")
    state = read_checkpoint(whole / "checkpoints" / "best.ckpt")["state_dict"]
    for key, value in model.state_dict().items():
        assert_close(value, state[f"network.{key}"], rtol=0, atol=0)
    assert info["num_points"] == 32
    assert len(info["classes"]) == 10


@pytest.mark.fault(9, 43)
def test_second_start_in_the_same_folder_is_an_error(whole, tiny):
    result = run(whole / "log2", "fit", *tiny, "--run_dir", whole)
    assert result.code == 1
    assert "already holds a run" in result.output
    changed = ["--resume", "--model.options", '{"k": 5}']
    result = run(whole / "log2", "fit", *tiny, "--run_dir", whole, *changed)
    assert result.code == 1
    assert "model.options.k: 4 -> 5" in result.output


def test_prediction_prints_a_table_and_names_a_file_it_cannot_read(whole, tiny, tmp_path):
    root = Path(tiny[1])
    mesh = next(root.rglob("test/chair*.off"))
    stl = tmp_path / "chair.stl"
    trimesh.load(mesh).export(stl)
    result = run(tmp_path / "log", "predict", "--run_dir", whole, mesh, stl)
    assert result.code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines] == [str(mesh), str(stl)]
    assert all(line.count("%") == 3 for line in lines)
    assert lines[0].index("%") == lines[1].index("%")
    assert lines[0].split()[1] in json.loads((whole / "test.json").read_text())["classes"]
    stl.write_text("solid no more")
    result = run(tmp_path / "log", "predict", "--checkpoint", whole / "model.safetensors", stl)
    assert result.code == 1
    assert f"cannot read {stl}" in result.output


@pytest.mark.fault(10)
def test_two_processes_evaluate_to_the_same_metrics_as_one(whole, tmp_path):
    checkpoint = whole / "checkpoints" / "best.ckpt"
    args = ["test", "--checkpoint", checkpoint, "--run_dir", tmp_path]
    results = run_ranks(tmp_path, *args, faults=[None, None])
    assert [result.code for result in results] == [0, 0], results
    for split in ("test", "test-hard"):
        assert (tmp_path / f"{split}.json").read_text() == (whole / f"{split}.json").read_text()
    one, two = (np.load(folder / "predictions.npz") for folder in (whole, tmp_path))
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name])


# several processes


@pytest.fixture(scope="session")
def whole_of_two(tiny, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("two")
    results = run_ranks(folder, "fit", *tiny, *NO_TEST, "--run_dir", folder, faults=[None, None])
    assert [result.code for result in results] == [0, 0], results
    return folder


@pytest.mark.fault(8, 40)
@pytest.mark.slow
def test_stopped_run_of_two_processes_continues_exactly(whole_of_two, tiny, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    fault = SignalAt(CLASSIFIER, "training_step", 5, signal.SIGTERM)  # only one of them gets it
    stopped = run_ranks(tmp_path, *command, faults=[None, fault])
    assert [result.code for result in stopped] == [75, 75], stopped
    resumed = run_ranks(tmp_path, *command, "--resume", faults=[None, None])
    assert [result.code for result in resumed] == [0, 0], resumed
    assert_same_run(whole_of_two, tmp_path, newest="step-000000009.ckpt")


@pytest.mark.fault(40)
@pytest.mark.slow
def test_death_of_one_process_ends_the_other_with_a_message(tiny, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    fault = SignalAt(CLASSIFIER, "training_step", 5)
    begin = time.monotonic()
    survivor, killed = run_ranks(tmp_path, *command, faults=[None, fault])
    assert killed.code == -signal.SIGKILL
    assert survivor.code == 1
    assert "error: lost contact with another process" in survivor.output
    assert time.monotonic() - begin < 60


@pytest.mark.fault(40)
@pytest.mark.slow
def test_processes_with_different_settings_refuse_to_train_together(tiny, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    other = ["--data.val_fraction", "0.5"]
    results = run_ranks(tmp_path, *command, faults=[None, None], extra=[[], other])
    assert [result.code for result in results] == [1, 1], results
    assert "error: the configuration of ranks [1] is not that of rank 0" in results[0].output


@pytest.mark.fault(40)
@pytest.mark.slow
def test_torchrun_restarts_a_run_that_lost_a_process(whole_of_two, tiny, tmp_path):
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", "--max-restarts", "1", "-m", "scripts.train_modelnet10"]
    command = ["fit", *tiny, *NO_TEST, "--run_dir", str(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        agent = subprocess.Popen([*torchrun, *command], env=env, cwd=ROOT, stdout=log, stderr=log)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    psutil.Process(agent.pid).children()[-1].kill()
    try:
        assert agent.wait(300) == 0, (tmp_path / "log").read_text()
    finally:
        agent.terminate()
        agent.wait()
    assert_same_run(whole_of_two, tmp_path, newest="step-000000009.ckpt")


@pytest.mark.fault(40)
@pytest.mark.slow
def test_process_that_hangs_is_given_up(tiny, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path, "--rank_timeout", "20"]
    survivor, hung = run_ranks(tmp_path, *command, faults=[None, Hang(CLASSIFIER, 5, 60)])
    assert survivor.code == 1, survivor.output
    assert "error: lost contact with another process" in survivor.output
    assert "Timed out waiting 20000ms" in survivor.output  # and not because the other has ended
    assert hung.code == 9


@pytest.mark.fault(40)
@pytest.mark.slow
def test_processes_with_different_data_refuse_to_train_together(tiny, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    other = ["--data.root", tmp_path / "other", "--data.shapes_per_class", "[6, 2, 2]"]
    shutil.copytree(tiny[1], tmp_path / "other")
    shape = next((tmp_path / "other").rglob("train/chair_0003.off"))
    lines = shape.read_bytes().split(b"\n")
    lines[4] = lines[4][:-1] + (b"1" if lines[4][-1:] != b"1" else b"2")  # of the same size
    shape.write_bytes(b"\n".join(lines))
    results = run_ranks(tmp_path, *command, faults=[None, None], extra=[[], other])
    assert [result.code for result in results] == [1, 1], results
    assert "error: the data of ranks [1] is not that of rank 0" in results[0].output


@pytest.mark.fault(40)
@pytest.mark.slow
def test_processes_with_different_code_refuse_to_train_together(tiny, tmp_path):
    folders = ("scripts", "datasets", "mgic_geo", "mgic_vision")
    for folder in folders:
        shutil.copytree(ROOT / folder, tmp_path / "other" / folder)
    with (tmp_path / "other" / "mgic_geo" / "levels.py").open("a") as file:
        file.write("\n")
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    results = run_ranks(tmp_path, *command, faults=[None, CodeFrom(tmp_path / "other")])
    assert [result.code for result in results] == [1, 1], results
    assert "error: the code of ranks [1] is not that of rank 0" in results[0].output


@pytest.mark.fault(10)
@pytest.mark.slow
def test_run_of_two_processes_continues_in_one_with_a_warning(tiny, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    fault = SignalAt(CLASSIFIER, "training_step", 5, signal.SIGTERM)
    stopped = run_ranks(tmp_path, *command, faults=[None, fault])
    assert [result.code for result in stopped] == [75, 75], stopped
    resumed = run(tmp_path / "log", *command, "--resume")
    assert resumed.code == 0, resumed.output
    assert "warning: the run had 2 world size and continues with 1" in resumed.output
    assert len(metrics(tmp_path)) == 4


@pytest.mark.fault(27)
@pytest.mark.slow
def test_two_processes_build_one_cache_and_train_as_on_a_finished_one(whole_of_two, tiny, tmp_path):
    builds = tmp_path / "builds"
    command = ["fit", *tiny, *NO_TEST, "--data.root", tmp_path / "data", "--run_dir", tmp_path]
    results = run_ranks(tmp_path, *command, faults=[CountBuilds(builds)] * 2)
    assert [result.code for result in results] == [0, 0], results
    assert len(builds.read_text().split()) == 1
    assert_same_run(whole_of_two, tmp_path, newest="step-000000009.ckpt")


@pytest.mark.fault(41)
def test_killed_loading_process_ends_the_run_which_then_resumes_exactly(tiny, whole, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    fault = WorkerKilled(60)
    stopped = run(tmp_path / "log", *command, "--data.num_workers", "1", fault=fault)
    assert stopped.code == 1, stopped.output
    assert "error: a data-loading process died" in stopped.output
    assert "Traceback" not in stopped.output
    assert_resumes_exactly(command, tmp_path, whole)


@pytest.mark.fault(41)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "message"),
    [
        (20_000, "error: the data-loading processes cannot be started: [Errno 28] No space left"),
        (100_000, "error: a data-loading process has no room in /dev/shm: RuntimeError: unable to"),
    ],
)
def test_full_shared_memory_is_told(size, message, tiny, tmp_path):
    options = ["--data.num_workers", "1", "--data.num_points", "1024", "--run_dir", tmp_path]
    command = ["fit", *tiny, *NO_TEST, *options]
    result = run_on_disk("/dev/shm", size, *command, script=SCRIPT)
    assert result.returncode == 1, result.stderr
    assert message in result.stderr


# data


@pytest.mark.fault(16, 18, 19)
def test_broken_mesh_ends_the_run_with_its_name_unless_it_may_be_lenient(root, tmp_path):
    train = root / "ModelNet10" / "bed" / "train"
    data = ["--data.name", "modelnet10", "--data.root", root, "--data.check_counts", "false"]
    options = ["--data.num_points", "32", "--data.val_fraction", "0", "--model.name", "pointnet"]
    options += ["--model.options", '{"width": 8}', "--trainer.max_epochs", "1", "--threads", "1"]
    command = ["fit", *data, *options, *NO_TEST, "--run_dir", tmp_path / "run"]
    for number, vertex in ((1, "nan 0 0"), (2, "0 0 0")):  # the second leaves no area
        text = f"OFF\n3 1 0\n0 0 0\n1 0 0\n{vertex}\n3 0 1 2\n"
        (train / f"bed_000{number}.off").write_text(text)
    stopped = run(tmp_path / "log", *command)
    assert stopped.code == 1
    assert (
        f"error: cannot use the data: {train}/bed_0001.off, line 5: a vertex is" in stopped.output
    )
    lenient = run(tmp_path / "log", *command, "--data.lenient", "true")
    assert lenient.code == 0, lenient.output
    for number, what in ((1, "1 vertices, in 1 triangles"), (2, "no area")):
        assert re.search(rf"warning: .*bed_000{number}\.off.*{what}", lenient.output)
    cut = train / "bed_0002.off"
    cut.write_bytes(cut.read_bytes()[:-6])  # what nobody wants to be lenient about
    stopped = run(tmp_path / "log", *command, "--data.lenient", "true", "--overwrite")
    assert stopped.code == 1
    assert f"error: cannot use the data: {cut}" in stopped.output
    assert "Traceback" not in stopped.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.batch_size", "1"], "batch_size must be at least 2 in training"),
        (["--model.options.hops", "3"], "mgic_diffgcn does not take hops"),
        (["--model.name", "mgicnet"], "no model 'mgicnet'"),
        (["--data.zip", "a.zip"], "data.zip and data.download are for modelnet10"),
        (["--data.lenient", "true"], "data.lenient is for modelnet10"),
        (["--trainer.max_steps", "3"], "trainer.max_steps must stay -1"),
        (["--model.optimizer.lr", "-1"], "lr must be above 0"),
        (["--model.optimizer.speed", "1"], "speed"),
        (["--data.test_splits", "[tset]"], "no split tset in shapes10"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_options_are_told_in_one_message(options, message, tiny, tmp_path):
    result = run(tmp_path / "log", "fit", *tiny, "--run_dir", tmp_path, *options)
    assert result.code in (1, 2)
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.rglob("*.ckpt"))
