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
from meshes import flip
from torch.testing import assert_close
from training_runs import (
    KILLED,
    NO_TEST,
    ROOT,
    RUN_CHECKPOINT,
    CodeFrom,
    CountBuilds,
    DiskFullAfter,
    Hang,
    NotFinite,
    ReadOnlyAfter,
    SignalAt,
    Unreadable,
    WorkerKilled,
    assert_kills_change_nothing,
    assert_same_run,
    metrics,
    newest,
    run,
    run_on_disk,
    run_ranks,
    survive_kills,
)

from mgic_geo import create_model
from scripts.training.points import PointClouds
from scripts.training.reliability.checkpoint import SealedCheckpointIO, read_checkpoint, seal
from tests.slow import some

SCRIPT = "scripts.train_modelnet10"
CLASSIFIER = "scripts.training.points.PointClassifier"
FILES = "scripts.training.reliability.files.os"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> list[str]:
    """Arguments of a small run: 40 clouds, 5 batches an epoch, dropout and augmentation."""
    root = tmp_path_factory.mktemp("data")
    return [
        *("--data.root", str(root), "--data.shapes_per_class", "[6, 2, 2]"),
        *("--data.num_points", "32", "--data.batch_size", "8", "--data.val_fraction", "0.34"),
        *("--data.augment.rotate_z", "180", "--data.augment.jitter", "0.01"),
        *("--data.test_splits", "[test, test-hard]", "--data.votes", "4"),
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
    run(folder / "log", "fit", *tiny, "--report", "false", "--run_dir", folder)
    return folder


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    """A copy of the uninterrupted run, in the folder that ``fit`` trains in."""
    return shutil.copytree(whole, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def fit(tiny, tmp_path):
    """Trains in ``tmp_path``, without test and report; the rest is as of ``run``."""
    return partial(run, tmp_path / "log", "fit", *tiny, *NO_TEST, "--run_dir", tmp_path)


@pytest.fixture
def fit_ranks(tiny, tmp_path):
    """The same in several processes, as ``run_ranks`` does it."""
    return partial(run_ranks, tmp_path, "fit", *tiny, *NO_TEST, "--run_dir", tmp_path)


def assert_resumes_exactly(fit, folder, whole, *options) -> None:
    fit("--resume", *options)
    assert_same_run(whole, folder)
    assert not list(folder.rglob("*.part"))


# one after the other: what is not continued exactly once shows in the end
@pytest.mark.fault(5, 7, 8, 10, 41)
def test_resumes_exactly_from_sigterm_a_killed_loading_process_and_a_kill(fit, whole, tmp_path):
    stopped = fit(fault=SignalAt(CLASSIFIER, "training_step", 3, signal.SIGTERM), code=75)
    assert "SIGTERM after step 3, continue with --resume" in stopped
    assert newest(tmp_path) == "step-000000003.ckpt"
    stopped = fit("--resume", "--data.num_workers", "1", fault=WorkerKilled(25), code=1)
    assert "error: a data-loading process died" in stopped
    fit("--resume", fault=SignalAt(CLASSIFIER, "training_step", 4), code=KILLED)
    assert_resumes_exactly(fit, tmp_path, whole, "--data.num_workers", "2")


@pytest.mark.fault(44)
@pytest.mark.slow
def test_run_in_a_folder_whose_name_is_no_text_resumes_and_predicts(tiny, fit, whole, tmp_path):
    odd = tmp_path / "caf\udce9, a long one".ljust(200, "x")  # how Python spells the byte E9
    shutil.copytree(tiny[1], odd / "data")
    fit = partial(fit, "--data.root", odd / "data", "--run_dir", odd / "run")
    killed = fit(fault=SignalAt(CLASSIFIER, "training_step", 9), code=KILLED)
    assert "warning: a path is not in UTF-8" in killed
    fit("--resume")
    assert_same_run(whole, odd / "run")
    mesh = next((odd / "data").rglob("*.off"))
    predicted = run(tmp_path / "log", "predict", "--run_dir", odd / "run", mesh)
    assert predicted.count("%") == 3


KILLS = [
    SignalAt(CLASSIFIER, "training_step", 1),
    SignalAt(CLASSIFIER, "training_step", 5),
    SignalAt(CLASSIFIER, "training_step", 6),
    SignalAt(CLASSIFIER, "training_step", 9),
    SignalAt(CLASSIFIER, "on_validation_epoch_start", 1),
    SignalAt(CLASSIFIER, "validation_step", 4),
    SignalAt(CLASSIFIER, "validation_step", 6),
    SignalAt(CLASSIFIER, "on_validation_epoch_end", 2),
    SignalAt("scripts.training.reports.metrics_log.MetricsLog", "on_train_epoch_end", 2),
    SignalAt(RUN_CHECKPOINT, "on_train_epoch_end", 2),
    SignalAt(RUN_CHECKPOINT, "_save_step", 6),
    SignalAt("scripts.training.stages.Stages", "_training_line", 1),
    *(SignalAt(FILES, "replace", count) for count in (5, 7, 10)),
    *(SignalAt(FILES, "fsync", count) for count in (8, 12, 17)),
]


@pytest.mark.fault(5, 7, 10)
@pytest.mark.slow
@pytest.mark.parametrize("fault", KILLS, ids=lambda fault: f"{fault.method}-{fault.count}")
def test_resumes_exactly_from_a_kill_anywhere(fault, fit, whole, tmp_path):
    fit(fault=fault, code=KILLED)
    assert_resumes_exactly(fit, tmp_path, whole)


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
def test_resumes_exactly_with_other_options(options, fit, tmp_path):
    kills = (SignalAt(CLASSIFIER, "training_step", count) for count in (3, 8))
    assert_kills_change_nothing(partial(fit, *options, "--run_dir"), tmp_path, *kills)


@pytest.mark.fault(7, 10)
@pytest.mark.slow
def test_resumes_exactly_from_ten_kills_at_random_moments(tiny, whole, tmp_path):
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    survive_kills(tmp_path, whole, *command, script=SCRIPT)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.fault(5)
@pytest.mark.slow
def test_process_that_dies_in_the_middle_of_a_write_leaves_the_old_file_whole(fit, whole, tmp_path):
    fit(fault=DiskFullAfter(4, deadly=True), code=-signal.SIGXFSZ)
    (part,) = tmp_path.rglob("*.part")
    assert part.stat().st_size == 4096
    assert part.parent == tmp_path / "checkpoints"
    assert not part.with_name(part.name[1:].removesuffix(".part")).exists()
    assert_resumes_exactly(fit, tmp_path, whole)


@pytest.mark.fault(25, 27)
@pytest.mark.slow
def test_run_killed_while_its_data_are_prepared_starts_again(fit, whole, tmp_path):
    fit = partial(fit, "--data.root", tmp_path / "data")
    fit(fault=SignalAt("datasets.shapes10.Path", "write_bytes", 7), code=KILLED)
    fit(fault=SignalAt("datasets.mesh_cache.json", "dumps", 2), code=KILLED)
    fit()
    assert_same_run(whole, tmp_path)
    assert not list((tmp_path / "data").rglob("*writing*"))


# signals, numbers, disk


@pytest.mark.fault(8)
@pytest.mark.parametrize(("signals", "step"), [(1, 4), (2, 2)])
def test_one_ctrl_c_finishes_the_epoch_after_its_last_batch_and_two_do_not(
    signals, step, fit, tmp_path
):
    fault = SignalAt(CLASSIFIER, "validation_step", 6, signal.SIGINT, signals)
    few = ("--trainer.limit_train_batches", "2")
    fit("--checkpoint_every", "0", *few, fault=fault, code=130)
    assert newest(tmp_path) == f"step-{step:09d}.ckpt"


@pytest.mark.fault(12)
def test_loss_that_is_not_finite_names_step_samples_and_learning_rate(fit):
    stopped = fit(fault=NotFinite("loss", 2), code=1)
    assert "error: the loss is nan at step 2 (epoch 1, batch 2), learning rate 0.0004" in stopped
    assert stopped.count(".off") == 8


@pytest.mark.fault(13)
def test_sample_that_is_not_finite_is_named_before_the_forward(fit):
    stopped = fit(fault=NotFinite("input", 7), code=1)
    assert "the input holds values that are not finite: bed/train/bed_0002.off" in stopped


@pytest.mark.fault(6)
@pytest.mark.parametrize("kind", some(("full", "read-only"), "full"))
def test_disk_that_cannot_be_written_does_not_end_training_but_is_told(kind, fit, tmp_path):
    folder = tmp_path / "checkpoints"
    fault = DiskFullAfter(4) if kind == "full" else ReadOnlyAfter(folder, 4)
    told = fit("--trainer.max_epochs", "2", fault=fault, code=3)
    folder.chmod(0o755)
    reason = "" if kind == "full" else ": [Errno 13] Permission denied"
    assert f"was not written{reason}" in told
    assert len(metrics(tmp_path)) == 3
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


@pytest.mark.fault(1, 2, 3)
@pytest.mark.parametrize("damage", some(("flip", "folder", "unreadable"), "flip"))
def test_newest_checkpoint_that_cannot_be_used_costs_a_warning(damage, fit, whole, copy):
    path = copy / "checkpoints" / "step-000000015.ckpt"
    if damage == "flip":
        flip(path, path.stat().st_size // 3)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    fault = Unreadable(path) if damage == "unreadable" else None
    code = 3 if damage == "folder" else 0  # nor can it be written there
    output = fit("--resume", fault=fault, code=code)
    assert "step-000000015.ckpt" in output
    assert "falling back to step-000000014.ckpt" in output
    if damage != "folder":
        assert_same_run(whole, copy)


@pytest.mark.fault(4)
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fit", "test", "predict"])
def test_checkpoint_that_runs_code_runs_none(stage, tiny, copy):
    canary = copy / "canary"
    for path in (copy / "checkpoints").iterdir():
        path.write_bytes(seal(f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()))
    extra = {
        "fit": [*tiny, "--resume"],
        "test": [],
        "predict": [next(Path(tiny[1]).rglob("*.off"))],
    }
    output = run(copy / "log", stage, "--run_dir", copy, *extra[stage], code=1)
    assert "cannot use checkpoint" in output
    assert not canary.exists()


@pytest.mark.fault(42)
@pytest.mark.usefixtures("copy")
def test_other_number_of_threads_is_warned_about(fit):
    output = fit("--resume", "--threads", "2")
    assert "warning: the run had 1 threads and continues with 2" in output


@pytest.mark.fault(9)
def test_other_classes_than_those_of_the_run_are_told(copy):
    checkpoint = copy / "checkpoints" / "step-000000015.ckpt"
    content = read_checkpoint(checkpoint)
    content["run"]["classes"] = content["run"]["classes"][:-1]
    SealedCheckpointIO().save_checkpoint(content, checkpoint)
    output = run(copy / "log", "fit", "--run_dir", copy, "--resume", code=1)
    assert "error: the run has classes ['bathtub', " in output


@pytest.mark.fault(11)
@pytest.mark.usefixtures("copy")
def test_weights_of_another_shape_are_listed(fit):
    output = fit("--resume", "--force-config", "--model.options.width", "8", code=1)
    assert "error: the weights do not fit mgic_diffgcn" in output
    assert "size mismatch for network." in output


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
    expected = {key.removeprefix("network."): value for key, value in state.items()}
    assert_close(dict(model.state_dict()), expected, rtol=0, atol=0)
    assert info["num_points"] == 32
    assert len(info["classes"]) == 10


@pytest.mark.fault(9, 43)
def test_second_start_in_the_same_folder_is_an_error(whole, tiny):
    again = partial(run, whole / "log2", "fit", *tiny, "--run_dir", whole, code=1)
    assert "already holds a run" in again()
    assert "model.options.k: 4 -> 5" in again("--resume", "--model.options", '{"k": 5}')


def test_prediction_prints_a_table_and_names_a_file_it_cannot_read(whole, tiny, tmp_path):
    root = Path(tiny[1])
    mesh = next(root.rglob("test/chair*.off"))
    stl = tmp_path / "chair.stl"
    trimesh.load(mesh).export(stl)
    predict = partial(run, tmp_path / "log", "predict", "--run_dir", whole)
    lines = predict("--up", "z", mesh, stl).splitlines()
    assert [line.split()[0] for line in lines] == [str(mesh), str(stl)]
    assert all(line.count("%") == 3 for line in lines)
    assert lines[0].index("%") == lines[1].index("%")
    assert lines[0].split()[1] in json.loads((whole / "test.json").read_text())["classes"]
    stl.write_text("solid no more")
    weights = ["--checkpoint", whole / "model.safetensors"]
    assert f"cannot read {stl}" in run(tmp_path / "log", "predict", *weights, stl, code=1)


@pytest.mark.fault(10)
def test_two_processes_evaluate_to_the_same_metrics_as_one(whole, tmp_path):
    checkpoint = whole / "checkpoints" / "best.ckpt"
    run_ranks(tmp_path, "test", "--checkpoint", checkpoint, "--run_dir", tmp_path)
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
    run_ranks(folder, "fit", *tiny, *NO_TEST, "--run_dir", folder)
    return folder


@pytest.mark.fault(8, 40)
@pytest.mark.slow
def test_stopped_run_of_two_processes_continues_exactly(whole_of_two, fit_ranks, tmp_path):
    fault = SignalAt(CLASSIFIER, "training_step", 5, signal.SIGTERM)  # only one of them gets it
    fit_ranks(faults=[None, fault], codes=[75, 75])
    fit_ranks("--resume")
    assert_same_run(whole_of_two, tmp_path)


@pytest.mark.fault(40)
@pytest.mark.slow
def test_death_of_one_process_ends_the_other_with_a_message(fit_ranks):
    faults = [None, SignalAt(CLASSIFIER, "training_step", 5)]
    survivor, _ = fit_ranks(faults=faults, codes=[1, KILLED])
    assert "error: lost contact with another process" in survivor
    assert "Timed out" not in survivor  # told at once, not after --rank_timeout


@pytest.mark.fault(40)
@pytest.mark.slow
def test_processes_with_different_settings_refuse_to_train_together(fit_ranks):
    first, _ = fit_ranks(extra=[[], ["--data.val_fraction", "0.5"]], codes=[1, 1])
    assert "error: the configuration of ranks [1] is not that of rank 0" in first


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
    assert_same_run(whole_of_two, tmp_path)


@pytest.mark.fault(40)
@pytest.mark.slow
def test_process_that_hangs_is_given_up(fit_ranks):
    faults = [None, Hang(CLASSIFIER, 5, 60)]
    survivor, _ = fit_ranks("--rank_timeout", "20", faults=faults, codes=[1, 9])
    assert "error: lost contact with another process" in survivor
    assert "Timed out waiting 20000ms" in survivor  # and not because the other has ended


@pytest.mark.fault(40)
@pytest.mark.slow
def test_processes_with_different_data_refuse_to_train_together(tiny, fit_ranks, tmp_path):
    other = ["--data.root", tmp_path / "other", "--data.shapes_per_class", "[6, 2, 2]"]
    shutil.copytree(tiny[1], tmp_path / "other")
    shape = next((tmp_path / "other").rglob("train/chair_0003.off"))
    lines = shape.read_bytes().split(b"\n")
    lines[4] = lines[4][:-1] + (b"1" if lines[4][-1:] != b"1" else b"2")  # of the same size
    shape.write_bytes(b"\n".join(lines))
    first, _ = fit_ranks(extra=[[], other], codes=[1, 1])
    assert "error: the data of ranks [1] is not that of rank 0" in first


@pytest.mark.fault(40)
@pytest.mark.slow
def test_processes_with_different_code_refuse_to_train_together(fit_ranks, tmp_path):
    for folder in ("scripts", "datasets", "mgic_geo", "mgic_vision"):
        shutil.copytree(ROOT / folder, tmp_path / "other" / folder)
    with (tmp_path / "other" / "mgic_geo" / "levels.py").open("a") as file:
        file.write("\n")
    first, _ = fit_ranks(faults=[None, CodeFrom(tmp_path / "other")], codes=[1, 1])
    assert "error: the code of ranks [1] is not that of rank 0" in first


@pytest.mark.fault(10)
@pytest.mark.slow
def test_run_of_two_processes_continues_in_one_with_a_warning(fit, fit_ranks, tmp_path):
    fault = SignalAt(CLASSIFIER, "training_step", 5, signal.SIGTERM)
    fit_ranks(faults=[None, fault], codes=[75, 75])
    assert "warning: the run had 2 world size and continues with 1" in fit("--resume")
    assert len(metrics(tmp_path)) == 4


@pytest.mark.fault(27)
@pytest.mark.slow
def test_two_processes_build_one_cache_and_train_as_on_a_finished_one(
    whole_of_two, fit_ranks, tmp_path
):
    builds = tmp_path / "builds"
    fit_ranks("--data.root", tmp_path / "data", faults=[CountBuilds(builds)] * 2)
    assert len(builds.read_text().split()) == 1
    assert_same_run(whole_of_two, tmp_path)


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
    fit = partial(
        run, tmp_path / "log", "fit", *data, *options, *NO_TEST, "--run_dir", tmp_path / "run"
    )
    for number, vertex in ((1, "nan 0 0"), (2, "0 0 0")):  # the second leaves no area
        text = f"OFF\n3 1 0\n0 0 0\n1 0 0\n{vertex}\n3 0 1 2\n"
        (train / f"bed_000{number}.off").write_text(text)
    stopped = fit(code=1)
    assert f"error: cannot use the data: {train}/bed_0001.off, line 5: a vertex is" in stopped
    lenient = fit("--data.lenient", "true")
    for number, what in ((1, "1 vertices, in 1 triangles"), (2, "no area")):
        assert re.search(rf"warning: .*bed_000{number}\.off.*{what}", lenient)
    cut = train / "bed_0002.off"
    cut.write_bytes(cut.read_bytes()[:-6])  # what nobody wants to be lenient about
    stopped = fit("--data.lenient", "true", "--overwrite", code=1)
    assert f"error: cannot use the data: {cut}" in stopped


@pytest.mark.parametrize("option", ["zip", "download"])
def test_data_that_are_made_are_neither_in_an_archive_nor_fetched(option):
    with pytest.raises(ValueError, match=rf"data\.{option} is for modelnet10.* not for shapes10"):
        PointClouds(**{option: "a.zip"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.batch_size", "1"], "batch_size must be at least 2 in training"),
        (["--model.options.hops", "3"], "mgic_diffgcn does not take hops"),
        (["--trainer.max_steps", "3"], "trainer.max_steps must stay -1"),
        (["--model.optimizer.speed", "1"], "speed"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_options_are_told_in_one_message(options, message, fit, tmp_path):
    assert message in fit(*options, code=(1, 2))
    assert not list(tmp_path.rglob("*.ckpt"))
