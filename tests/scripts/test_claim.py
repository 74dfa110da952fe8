"""Run folders have one writer, and what cannot start says so before torch is imported."""

import errno
import importlib
import inspect
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from lightning.pytorch import callbacks
from training_runs import NO_TEST, ROOT, run, start

from scripts.training.arguments import refuse_callbacks
from scripts.training.reliability.claim import LOCK, claim, release
from scripts.training.reliability.errors import RunFolderError, TrainingWarning
from scripts.training.start import Script, read_settings

SCRIPTS = ("train_modelnet10", "train_parts", "train_image", "train_segmentation")
STAGES = ("fit", "test") * 2
TINY = ("--data.shapes_per_class", "[2, 1, 1]", "--data.num_points", 16, "--threads", 1)
TINY += ("--model.name", "pointnet", "--model.options.width", 8, "--trainer.max_epochs", 2)
HOLD = "from scripts.training.reliability.claim import claim, Path; claim(Path({!r})); {}"
LIGHT = """
import sys
from scripts.{} import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules, "torch was imported"
sys.exit(code)
"""


@contextmanager
def holder(folder: Path, then: str = "print(1, flush=True); input()"):
    """A process that holds a run folder until it is killed."""
    command = [sys.executable, "-c", HOLD.format(str(folder), then)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def _released():
    yield
    release()


@pytest.mark.fault(54)
def test_a_folder_in_use_is_refused_with_the_name_of_who_uses_it(tmp_path):
    with holder(tmp_path) as other:
        who = rf"in use by process {other.pid} on .* since .*--run_dir"
        with pytest.raises(RunFolderError, match=who):
            claim(tmp_path)


@pytest.mark.fault(54)
def test_death_of_the_process_releases_its_folder_although_its_children_live_on(tmp_path):
    fork = "import os; os.fork() or (__import__('time').sleep(3)); print(1, flush=True); input()"
    with holder(tmp_path, fork) as other:
        other.kill()
        other.wait()
        claim(tmp_path)


def test_a_disk_without_locks_is_told_and_used(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with pytest.warns(TrainingWarning, match="on a disk without locks"):
        claim(tmp_path)


def test_a_folder_is_claimed_once_by_a_process_and_left_as_it_was_if_nothing_was_written(tmp_path):
    folder, other = tmp_path / "new", tmp_path / "old"
    other.mkdir()
    (other / "notes.txt").touch()
    for place in (folder, folder, other):
        claim(place)
    assert (folder / LOCK).exists()
    release()
    assert not folder.exists()
    assert (other / "notes.txt").exists()


@pytest.mark.fault(54)
@pytest.mark.parametrize(("script", "stage"), [*zip(SCRIPTS, STAGES, strict=True)])
def test_second_start_leaves_before_torch_is_imported_and_writes_nothing(script, stage, tmp_path):
    command = [sys.executable, "-c", LIGHT.format(script)]
    with holder(tmp_path):
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        args = [*command, stage, "--run_dir", str(tmp_path)]
        left = subprocess.run(args, cwd=ROOT, capture_output=True, text=True)
        assert left.returncode == 1, left.stderr
        assert "error: " in left.stderr
        assert "in use by process" in left.stderr
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_folder_that_holds_a_run_is_told_before_torch_is_imported(tmp_path):
    (tmp_path / "model.safetensors").touch()
    config = tmp_path / "own.yaml"
    config.write_text(f"run_dir: {tmp_path}")
    command = [sys.executable, "-c", LIGHT.format("train_modelnet10"), "fit", "--config", config]
    left = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert left.returncode == 1, left.stderr
    assert "already holds a run: continue it with --resume" in left.stderr


@pytest.mark.fault(54)
@pytest.mark.slow
def test_of_two_runs_in_one_folder_one_trains_and_the_other_leaves_ten_times_of_ten(tmp_path):
    command = ["fit", "--data.root", tmp_path / "data", *TINY, *NO_TEST]
    for number in range(10):
        folder = tmp_path / f"run-{number}"
        both = [start(tmp_path / f"log-{i}", *command, "--run_dir", folder) for i in range(2)]
        for process in both:
            process.join(300)
        assert sorted(process.exitcode for process in both) == [0, 1]
        assert len((folder / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("script", SCRIPTS)
def test_names_that_a_script_takes_by_default_are_those_of_its_classes(script):
    main: Script = importlib.import_module(f"scripts.{script}").main
    model, data = main.load()
    found = (inspect.signature(each).parameters["name"].default for each in (data, model))
    assert tuple(found) == main.names


def test_settings_are_read_from_files_and_arguments_and_the_last_counts(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("run_dir: runs/a\ndata:\n  name: folder\n  root: b\n")
    found = read_settings(["--run_dir", "x", "--config", str(config), "--data.root=caf\udce9"])
    assert found == {"run_dir": "runs/a", "data.name": "folder", "data.root": "caf\udce9"}
    assert read_settings(["--overwrite", "--seed", "3"]) == {"overwrite": True, "seed": 3}


# settings that are fixed when a run starts


@pytest.fixture
def fit(tmp_path):
    """Trains a tiny network in ``tmp_path / "run"``."""
    where = ["--data.root", tmp_path / "data", "--run_dir", tmp_path / "run"]
    return partial(run, tmp_path / "log", "fit", *where, *TINY)


def test_a_try_of_a_few_batches_ends_well_and_leaves_no_run_folder(fit, tmp_path):
    told = fit("--trainer.fast_dev_run", "true")
    assert "nothing was kept" in told
    assert not (tmp_path / "run").exists()


def test_a_callback_that_is_refused_leaves_no_run_folder(fit, tmp_path):
    callback = {"class_path": "lightning.pytorch.callbacks.LearningRateFinder"}
    told = fit("--trainer.callbacks", str([callback]), code=1)
    assert "error: trainer.callbacks cannot hold LearningRateFinder" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("callback", "instead"),
    [
        (callbacks.LearningRateFinder(), "--model.optimizer.lr"),
        (callbacks.BatchSizeFinder(), "--data.batch_size"),
        (callbacks.StochasticWeightAveraging(swa_lrs=0.1), "--model.ema_decay"),
        (callbacks.Timer("00:00:01:00"), "--trainer.max_epochs"),
    ],
)
def test_callbacks_that_change_frozen_settings_are_refused_by_name(callback, instead):
    with pytest.raises(ValueError, match=f"cannot hold {type(callback).__name__},.*{instead}"):
        refuse_callbacks([callback])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--trainer.enable_checkpointing", "false"], "trainer.enable_checkpointing must stay"),
        (["--trainer.default_root_dir", "x"], "trainer.default_root_dir must stay"),
        (["--data.nmae", "x"], "no option --data.nmae; did you mean --data.name?"),
        (["--data.nam", "x"], "no option --data.nam; did you mean --data.name?"),
        (["--rsume"], "no option --rsume; did you mean --resume?"),
        (["--data.augment.jiter", "1"], "did you mean data.augment.jitter?"),
        (["--on_nonfinite", "rolback"], "; did you mean rollback?"),
        (["--vote", "3"], "no option --vote; did you mean --votes?"),
        (["--data.num_points", "many"], "data.num_points: expected int or null, got many"),
        (["--data.rotate", "s03"], "expected 'so3' or null, got s03; did you mean so3?"),
        (["--data.augment.jitter", "x"], "data.augment.jitter: expected float, got x"),
        (["--data.test_splits", "test"], "data.test_splits: expected list[str] or null, got test"),
        (["--data.name", "shape10"], "got shape10; did you mean shapes10?"),
        (["--data.test_splits", "[tset]"], "no split tset in shapes10"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_options_are_told_in_three_lines_with_the_nearest_name(args, message, fit):
    told = fit(*args, code=(1, 2))
    assert message in told
    assert len(without_start(told)) <= 3


def without_start(told: str) -> list[str]:
    return [line for line in told.splitlines() if not line.startswith("starting")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:\n  nam: x\n", "no option data.nam; did you mean data.name?"),
        ("trainer:\n  max_epoch: 3\n", "did you mean trainer.max_epochs?"),
        ("data:\n  augment:\n    rotat_z: 9\n", "did you mean data.augment.rotate_z?"),
        ("trainer: [\n", "while parsing a flow node"),
    ],
)
def test_wrong_key_of_a_config_file_is_told_in_three_lines(text, message, fit, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    told = fit("--config", tmp_path / "own.yaml", code=2)
    assert message in told
    assert len(without_start(told)) <= 3
