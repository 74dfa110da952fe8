import math
import os
import pickle
import signal
import time
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from meshes import Canary, flip
from sklearn.metrics import accuracy_score, log_loss
from torch.utils.data import Dataset

from scripts.training.arguments import with_saved_config
from scripts.training.data import ClassificationData
from scripts.training.evaluation import Evaluation
from scripts.training.loader import OrderedBatches, ResumableLoader, ShuffledBatches
from scripts.training.optimizer import OptimizerSettings
from scripts.training.reliability.advice import explained
from scripts.training.reliability.checkpoint import (
    SealedCheckpointIO,
    newest_checkpoint,
    read_checkpoint,
    seal,
    unseal,
)
from scripts.training.reliability.errors import (
    CheckpointError,
    LoaderError,
    RunFolderError,
    TrainingError,
    TrainingWarning,
)
from scripts.training.reliability.files import write_whole
from scripts.training.reliability.run_folder import compare_configs, open_run
from scripts.training.reliability.seeds import derive_seed
from scripts.training.weights import Weights, export_weights, read_weights


class Squares(Dataset):
    def __len__(self):
        return 11

    def __getitem__(self, key):
        epoch, index = key
        return epoch * 100 + index**2


def _kill(pid: int):
    os.kill(pid, signal.SIGKILL)
    raise ConnectionResetError("Connection reset by peer")


class Torn:
    """Kills the process that made it when another one receives it."""

    def __reduce__(self):
        return _kill, (os.getpid(),)


class TornBatches(Squares):
    def __getitem__(self, key):
        return Torn()


class Crash(Squares):
    def __init__(self, spared: int = 0):
        self.spared = spared

    def __getitem__(self, key):
        self.spared -= 1
        if self.spared < 0:
            time.sleep(0.3)  # so that the main process is somewhere else
            os._exit(1)
        return super().__getitem__(key)


def save(path: Path, **content) -> Path:
    SealedCheckpointIO().save_checkpoint({"state_dict": {}, "run": {}, **content}, path)
    return path


# batches


@pytest.mark.fault(34)
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [6, 7, 8, 23, 24, 25])
def test_every_sample_is_trained_on_once_and_no_rank_gets_less_than_two(count, world_size):
    ranks = [
        list(ShuffledBatches(range(count), 3, seed=0, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    assert all(len(batch) >= 2 for batch in chain(*ranks))
    assert sorted(index for batch in chain(*ranks) for _, index in batch) == list(range(count))


def test_balanced_batches_draw_all_classes_equally_often_and_depend_on_the_epoch_only():
    labels = [0] * 20 + [1] * 8 + [2] * 2
    one, two, other = (ShuffledBatches(range(30), 5, seed=0, labels=labels) for _ in range(3))
    other.set_epoch(1)
    drawn = [index for _, index in chain(*one)]
    assert np.bincount([labels[index] for index in drawn]).tolist() == [10, 10, 10]
    assert drawn == [index for _, index in chain(*two)] != [index for _, index in chain(*other)]


@pytest.mark.fault(7)
def test_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        batches = ShuffledBatches(range(30), 4, seed=seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(0, 1) == order(0, 1)
    assert [index for _, index in chain(*order(0, 1))] != [
        index for _, index in chain(*order(0, 2))
    ]
    assert order(0, 1) != order(1, 1)
    assert {epoch for epoch, _ in chain(*order(0, 3))} == {3}


@pytest.mark.fault(34)
@pytest.mark.parametrize(
    ("count", "batch_size", "match"),
    [(1, 4, "at least 2 samples"), (8, 1, "at least 2 in training"), (3, 2, "at least 4 samples")],
)
def test_training_batches_of_one_are_refused(count, batch_size, match):
    with pytest.raises(ValueError, match=match):
        ShuffledBatches(range(count), batch_size, seed=0, world_size=2 if count == 3 else 1)


def test_evaluation_batches_are_those_of_one_process_dealt_out():
    one = list(OrderedBatches(range(10), 3))
    two = [list(OrderedBatches(range(10), 3, rank=rank, world_size=2)) for rank in (0, 1)]
    assert one == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert two == [[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9]]]


# loader


def loader(num_workers=0, dataset=None) -> ResumableLoader:
    batches = ShuffledBatches(range(11), 2, seed=3)
    return ResumableLoader(dataset or Squares(), batches, list, num_workers=num_workers)


@pytest.mark.fault(7, 10)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("delivered", [0, 1, 4])
def test_loader_continues_after_the_batches_it_delivered(delivered, num_workers):
    first, second = loader(), loader(num_workers)
    for each in (first, second):
        each.sampler.set_epoch(1)
    batches = iter(first)
    for _ in range(delivered):
        next(batches)
    second.load_state_dict(first.state_dict())
    assert list(second) == list(batches)
    assert len(list(second)) == len(second)  # the epoch after that is whole
    second._iterator = None


def test_loader_takes_the_epoch_that_is_set_after_iter():
    batches = loader()
    iterator = iter(batches)
    batches.sampler.set_epoch(7)
    assert min(next(iterator)) >= 700


def test_prefetched_batches_do_not_count():
    batches = loader(num_workers=1)
    next(iter(batches))
    assert batches.state_dict() == {"delivered": 1}
    batches._iterator = None


def test_loading_does_not_draw_from_the_global_generator():
    before = torch.get_rng_state()
    list(loader())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.fault(41)
@pytest.mark.parametrize("dataset", [Crash(), TornBatches()], ids=["loading", "handing-over"])
def test_dead_worker_is_an_error_that_says_what_to_do(dataset):
    with pytest.raises(LoaderError, match=r"process died.*--resume"), explained(16):
        list(loader(num_workers=1, dataset=dataset))


class Unsendable(Squares):
    def __getitem__(self, key):
        return lambda: key


@pytest.mark.fault(41)
def test_batch_that_cannot_leave_its_process_is_not_waited_for(capfd):
    batches = loader(num_workers=1, dataset=Unsendable())
    with pytest.raises(LoaderError, match=r"process died.*--resume"), explained(16):
        list(batches)
    assert "error: a batch cannot leave the process that loaded it: " in capfd.readouterr().err


@pytest.mark.fault(41)
def test_processes_that_cannot_be_started_are_told(monkeypatch):
    def refuse(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)
    with pytest.raises(LoaderError, match=r"cannot be started: .*No space left.*num_workers 0"):
        list(loader(num_workers=1))


@pytest.mark.fault(41)
def test_worker_that_dies_while_the_main_process_computes_is_noticed_with_the_next_batch():
    batches = iter(loader(num_workers=1, dataset=Crash(spared=4)))
    next(batches)  # which lets it go on after those that it has loaded ahead
    time.sleep(1)  # in which torch's handler of SIGCHLD would raise
    with pytest.raises(LoaderError, match=r"process died.*--resume"), explained(16):
        list(batches)


# seeds, optimizer


def test_seeds_of_all_places_differ():
    places = [(seed, kind, n) for seed in range(3) for kind in ("a", "b") for n in range(50)]
    assert len({derive_seed(*place) for place in places}) == len(places)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant", "warmup_epochs": 0}, [1, 1, 1, 1, 1, 1]),
        ({"schedule": "constant", "warmup_epochs": 2}, [0.25, 0.5, 0.75, 1, 1, 1]),
        ({"schedule": "step", "warmup_epochs": 0, "step_epochs": 1}, [1, 1, 0.1, 0.1, 0.01, 0.01]),
        (
            {"schedule": "cosine", "warmup_epochs": 0},
            [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)],
        ),
    ],
)
def test_learning_rate_follows_the_schedule(settings, expected):
    factor = OptimizerSettings(**settings).make_factor(2, 3)
    torch.testing.assert_close([factor(step) for step in range(6)], [float(x) for x in expected])


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"lr": 0}, "lr must"), ({"momentum": -1}, "momentum"), ({"step_epochs": 0}, "step_epochs")],
)
def test_optimizer_settings_that_make_no_sense_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        OptimizerSettings(**settings)


# checkpoints


def test_sealed_checkpoint_is_still_a_torch_file(tmp_path):
    path = save(tmp_path / "a.ckpt", step=3)
    assert torch.load(path, weights_only=True)["step"] == read_checkpoint(path)["step"] == 3


@pytest.mark.fault(1, 2)
def test_every_flipped_bit_and_every_cut_is_noticed():
    sealed = seal(b"some weights")
    for place in range(len(sealed)):
        for damaged in (
            sealed[:place],
            sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :],
        ):
            with pytest.raises(ValueError, match="SHA-256"):
                unseal(damaged)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def _empty(path):
    path.write_bytes(b"")


def _folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.fault(1, 2, 3)
@pytest.mark.parametrize("damage", [flip, _cut, _empty, _folder])
def test_damaged_newest_checkpoint_falls_back_to_the_one_before_or_is_an_error(damage, tmp_path):
    path = save(tmp_path / "step-000000010.ckpt")
    damage(path)
    for use, place in ((newest_checkpoint, tmp_path), (read_checkpoint, path)):
        with pytest.raises(CheckpointError, match="step-000000010"):
            use(place)
    before = save(tmp_path / "step-000000009.ckpt")
    with pytest.warns(TrainingWarning, match=r"step-000000010.*falling back to step-000000009"):
        assert newest_checkpoint(tmp_path) == before


@pytest.mark.fault(4)
@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_runs_code_is_refused_and_not_run(sealed, zipped, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "step-000000001.ckpt"
    content = {"state_dict": Canary(canary)}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    if sealed:
        path.write_bytes(seal(path.read_bytes()))
    with pytest.raises(CheckpointError, match="step-000000001"):
        read_checkpoint(path)
    assert not canary.exists()


@pytest.mark.fault(6)
def test_write_that_fails_warns_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = save(tmp_path / "a.ckpt", step=1)
    io = SealedCheckpointIO()

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.warns(TrainingWarning, match=r"not written.*No space left"):
        io.save_checkpoint({"step": 2}, path)
    assert io.failures == 1
    assert read_checkpoint(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.fault(2)
def test_exported_weights_read_back_and_damage_is_noticed(tmp_path):
    info = {"name": "net", "options": {"k": 3}, "classes": ["a", "b"], "num_points": 8}
    tensors = {"w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(4)}
    export_weights(Weights(tmp_path, tensors, info), tmp_path)
    path = tmp_path / "model.safetensors"
    read = read_weights(path)
    assert read.info == info
    torch.testing.assert_close(read.tensors, tensors)
    flip(path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_weights(path)


def test_folder_without_weights_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="neither checkpoints nor"):
        read_weights(tmp_path)


# evaluation


@pytest.mark.fault(38)
def test_metrics_are_those_of_scikit_learn_and_leave_out_classes_that_do_not_occur():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(50) % 3  # the fourth class is predicted, but never right
    evaluation = Evaluation(4)
    for part in (slice(0, 7), slice(7, 50)):
        evaluation.update(logits[part], targets[part])
    predicted = logits.argmax(dim=1)
    assert (predicted == 3).any()
    recall = [(predicted[targets == c] == c).double().mean() for c in range(3)]
    expected = {
        "loss": log_loss(targets, logits.double().softmax(dim=1), labels=range(4)),
        "accuracy": accuracy_score(targets, predicted),
        "class_accuracy": float(sum(recall) / 3),
        "num_samples": 50,
    }
    torch.testing.assert_close(evaluation.compute(), expected, rtol=1e-6, atol=0)


@pytest.mark.fault(35)
def test_evaluation_of_nothing_is_an_error():
    evaluation = Evaluation(2)
    evaluation.update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    with pytest.raises(TrainingError, match="the split is empty"):
        evaluation.compute()


@pytest.mark.fault(14, 40)
@pytest.mark.parametrize(
    ("error", "match"),
    [
        (MemoryError(), r"batches of 16.*--data\.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "batches of 16"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "batches of 16"),
        (
            RuntimeError("Caught it\nunable to allocate shared memory(shm) for x"),
            "room in /dev/shm",
        ),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed"), "lost contact"),
    ],
)
def test_errors_of_torch_are_turned_into_advice(error, match):
    with pytest.raises(TrainingError, match=match), explained(16):
        raise error


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="shapes"), explained(16):
        raise RuntimeError("the shapes do not match")


# run folder


@pytest.mark.fault(43)
def test_run_folder_with_a_run_is_refused_unless_resumed_or_overwritten(tmp_path):
    config = {"seed": 0, "data": {"root": "a"}}
    assert open_run(tmp_path, config, "new", force=False) is None
    assert open_run(tmp_path, config, "new", force=False) is None  # nothing was lost by that
    path = save(tmp_path / "checkpoints" / "step-000000001.ckpt")
    with pytest.raises(RunFolderError, match=r"--resume.*--overwrite"):
        open_run(tmp_path, config, "new", force=False)
    assert open_run(tmp_path, config, "resume", force=False) == path
    (tmp_path / "notes.txt").write_text("mine")
    assert open_run(tmp_path, config, "overwrite", force=False) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "notes.txt"]


@pytest.mark.fault(9)
def test_resume_with_another_configuration_lists_what_differs(tmp_path):
    before = {"seed": 0, "model": {"options": {"group_size": 8}}, "data": {"root": "a"}}
    after = {"seed": 1, "model": {"options": {"group_size": 4}}, "data": {"root": "b"}}
    open_run(tmp_path, before, "new", force=False)
    path = save(tmp_path / "checkpoints" / "step-000000001.ckpt")
    with pytest.raises(RunFolderError, match=r"group_size: 8 -> 4\n  seed: 0 -> 1\nContinue"):
        open_run(tmp_path, after, "resume", force=False)
    assert open_run(tmp_path, after, "resume", force=True) == path
    assert (tmp_path / "config-1.yaml").exists()


@pytest.mark.fault(9)
def test_what_does_not_change_the_numbers_may_differ():
    before = {"data": {"num_workers": 0, "root": "a"}, "trainer": {"devices": 1, "precision": None}}
    after = {"data": {"num_workers": 2, "root": "b"}, "trainer": {"devices": 2, "precision": "16"}}
    assert compare_configs(before, after) == ["trainer.precision: not set -> 16"]


@pytest.mark.fault(5)
def test_parts_of_a_killed_write_are_removed(tmp_path):
    part = tmp_path / "checkpoints" / ".step-000000001.ckpt.part"
    part.parent.mkdir()
    part.write_bytes(b"half")
    open_run(tmp_path, {}, "new", force=False)
    assert not part.exists()


def test_write_whole_replaces_and_leaves_nothing_behind(tmp_path):
    for content in (b"one", b"two"):
        write_whole(tmp_path / "a" / "b", content)
    assert [p.read_bytes() for p in (tmp_path / "a").iterdir()] == [b"two"]


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_stages_on_a_run_read_its_configuration_first(stage, tmp_path):
    config = tmp_path / "config.yaml"
    config.touch()
    args = ["--run_dir", str(tmp_path), "--seed", "1"]
    assert with_saved_config([stage, *args]) == [stage, "--config", str(config), *args]
    args = [f"--checkpoint={tmp_path}/checkpoints/best.ckpt"]
    assert with_saved_config([stage, *args]) == [stage, "--config", str(config), *args]


class Generated(ClassificationData):
    """Data sets of which one is made and one read."""

    made: ClassVar = {"made": "folder"}
    source: ClassVar = {"root": "null", "download": "false", "test_splits": "null"}


class Pictures(Generated):
    """The same, where no folder is read."""

    made: ClassVar = {"made": "city"}


@pytest.fixture
def saved(tmp_path) -> Path:
    """The configuration of a run on data that are made."""
    path = tmp_path / "config.yaml"
    path.write_text("data: {name: made, root: a, test_splits: [hard], num_points: 3}")
    return path


@pytest.mark.fault(55)
@pytest.mark.parametrize("stage", ["test", "validate"])
def test_a_root_alone_means_a_folder_and_nothing_of_where_the_data_of_the_run_are(stage, saved):
    args = ["--run_dir", str(saved.parent), "--data.root", "b"]
    forgotten = ["--data.root", "null", "--data.test_splits", "null"]
    expected = [stage, "--config", str(saved), "--data.name", "folder", *forgotten, *args]
    assert with_saved_config([stage, *args], Generated) == expected


@pytest.mark.fault(55)
def test_another_data_set_takes_nothing_of_where_the_data_of_the_run_are(saved):
    args = ["--run_dir", str(saved.parent), "--data.name=city"]
    forgotten = ["--data.root", "null", "--data.test_splits", "null"]
    found = with_saved_config(["test", *args], Generated)
    assert found == ["test", "--config", str(saved), *forgotten, *args]


@pytest.mark.fault(55)
def test_the_root_of_the_run_itself_and_that_of_data_that_are_read_mean_what_they_did(saved):
    args = ["--run_dir", str(saved.parent), "--data.root", "a"]
    assert with_saved_config(["test", *args], Generated)[3:] == args
    saved.write_text("data: {name: city, root: a}")
    args[-1] = "b"
    assert with_saved_config(["test", *args], Generated)[3:] == args


@pytest.mark.fault(55)
def test_a_root_is_refused_where_the_data_are_made_and_no_folder_is_read(saved):
    args = ["test", "--run_dir", str(saved.parent), "--data.root", "b"]
    message = "made and not read: nothing in b would be tested. --data.name city reads"
    with pytest.raises(TrainingError, match=message):
        with_saved_config(args, Pictures)


def test_short_options_stand_for_those_of_the_data():
    args = ["predict", "--votes=3", "--up", "y", "a.off"]
    assert with_saved_config(args) == ["predict", "--data.votes=3", "--data.up", "y", "a.off"]


@pytest.mark.parametrize("option", ["--up", "--data.up"])
def test_an_axis_with_a_minus_is_no_option(option):
    args = ["predict", option, "-z", "-x.off"]
    assert with_saved_config(args) == ["predict", "--data.up=-z", "-x.off"]


def test_fit_reads_the_configuration_of_a_run_only_to_continue_it(tmp_path):
    config = tmp_path / "config.yaml"
    config.touch()
    args = ["fit", "--run_dir", str(tmp_path)]
    assert with_saved_config(args) == args
    assert with_saved_config([*args, "--resume"])[1:3] == ["--config", str(config)]
    own = [*args, "--resume", "--config", "other.yaml"]
    assert with_saved_config(own) == own
