import json
import shutil
import signal
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from image_folders import CLASSES, write_images
from meshes import flip
from PIL import Image
from torch.testing import assert_close
from training_runs import (
    KILLED,
    NO_TEST,
    ROOT,
    RUN_CHECKPOINT,
    SignalAt,
    assert_kills_change_nothing,
    assert_same_run,
    metrics,
    run,
    run_on_disk,
)

from mgic_vision import create_model
from scripts.training.averaging import MovingAverage
from scripts.training.evaluation import TopFive
from scripts.training.images import ImageBatch, ImageClassifier, ImageData, read_sample
from scripts.training.reliability.checkpoint import read_checkpoint
from scripts.training.reliability.checks import check_labels
from scripts.training.reliability.errors import TrainingError
from scripts.training.reports.report import write_report
from scripts.training.weights import read_weights

CLASSIFIER = "scripts.training.images.ImageClassifier"
SCRIPT = {"script": "scripts.train_image"}


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_images(root, "train", 16)
    return write_images(root, "val", 4)


@pytest.fixture(scope="session")
def tiny(images) -> list[str]:
    """Arguments of a small run: 36 images, 5 batches an epoch, everything random switched on."""
    return [
        *("--data.name", "folder", "--data.root", str(images), "--data.size", "8"),
        *("--data.batch_size", "8", "--data.val_fraction", "0.25"),
        *("--data.augment.flip", "true", "--data.augment.crop_padding", "1"),
        *("--model.name", "mgic_resnet56", "--model.label_smoothing", "0.1"),
        *("--model.options", '{"depth": 8, "width": 8, "group_size": 4, "coarse_size": 8}'),
        *("--model.mixup", "0.2", "--model.ema_decay", "0.7"),
        *("--model.optimizer.kind", "sgd", "--model.optimizer.lr", "0.1"),
        *("--trainer.max_epochs", "3", "--trainer.accelerator", "cpu"),
        *("--checkpoint_every", "2", "--threads", "1"),
    ]


@pytest.fixture(scope="session")
def whole(tiny, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run; its output is in ``log``."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder / "log", "fit", *tiny, "--run_dir", folder, **SCRIPT)
    return folder


@pytest.fixture
def fit(tiny, tmp_path):
    """Trains in ``tmp_path``, without test and report; the rest is as of ``run``."""
    return partial(run, tmp_path / "log", "fit", *tiny, *NO_TEST, "--run_dir", tmp_path, **SCRIPT)


KILLS = [
    (SignalAt(CLASSIFIER, "training_step", 5), ["--data.num_workers", "2"]),
    (SignalAt(CLASSIFIER, "training_step", 8, signal.SIGTERM), []),
    (SignalAt(CLASSIFIER, "validation_step", 4), []),
    (SignalAt(RUN_CHECKPOINT, "_save_step", 6), []),
]


# of a network whose weights are averaged, on images that are mixed
@pytest.mark.slow
@pytest.mark.fault(7, 10)
@pytest.mark.parametrize(
    ("fault", "options"),
    [(SignalAt(CLASSIFIER, "training_step", 9), []), *KILLS],
    ids=lambda value: f"{value.method}-{value.count}" if isinstance(value, SignalAt) else "",
)
def test_resumes_bit_for_bit_from_a_kill_anywhere(fault, options, fit, whole, tmp_path):
    fit(fault=fault, code=75 if fault.number == signal.SIGTERM else KILLED)
    fit("--resume", *options)
    assert_same_run(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.precision", "bf16-mixed"],
        ["--trainer.accumulate_grad_batches", "2"],
        ["--model.channels_last", "false", "--model.ema_decay", "null"],
        ["--model.grad_checkpointing", "true"],
        ["--model.optimizer.kind", "adamw", "--data.num_train", "30"],
    ],
    ids=lambda options: options[0],
)
def test_resumes_bit_for_bit_with_other_options(options, fit, tmp_path):
    kill = SignalAt(CLASSIFIER, "training_step", 8)
    assert_kills_change_nothing(partial(fit, *options, "--run_dir"), tmp_path, kill)


def test_run_folder_holds_what_the_report_and_others_read(whole):
    test = json.loads((whole / "val.json").read_text())
    arrays = np.load(whole / "predictions-val.npz")
    assert test["accuracy"] == (arrays["probabilities"].argmax(axis=1) == arrays["labels"]).mean()
    assert test["top5"] == 1  # of three classes
    assert arrays["names"][0] == "val/blue/00.png"
    assert arrays["images"].shape == (len(arrays["image_rows"]), 8, 8, 3)
    for name in ("report.html", "curves.png", "confusion-val.png", "images-val.png"):
        assert (whole / name).exists()
    assert "val_top5" in metrics(whole)[0]
    assert "top-5 accuracy 1.0000" in (whole / "log").read_text()


def test_exported_weights_are_the_average_and_say_what_input_they_expect(whole):
    checkpoint = read_checkpoint(whole / "checkpoints" / "best.ckpt")
    info = read_weights(whole / "model.safetensors").info
    model = create_model(info["name"], checkpoint=whole / "model.safetensors")
    moved = 0
    for key, value in model.state_dict().items():
        assert_close(value, checkpoint["state_dict"][f"network.{key}"], rtol=0, atol=0)
        moved += not torch.equal(value, checkpoint["current_model_state"][f"network.{key}"])
    assert moved > 10
    assert info["classes"] == list(CLASSES)
    assert (info["input"]["size"], info["input"]["resize"]) == (8, 9)
    assert info["input"]["mean"] == [0.485, 0.456, 0.406]


def test_prediction_of_a_file_is_that_of_the_test(whole, images, tmp_path):
    files = [images / "val" / name / "01.png" for name in CLASSES]
    printed = run(tmp_path / "log", "predict", "--run_dir", whole, *files, **SCRIPT)
    arrays = np.load(whole / "predictions-val.npz")
    expected = dict(zip(arrays["names"], arrays["probabilities"], strict=True))
    for file, line in zip(files, printed.splitlines(), strict=True):
        probabilities = expected[str(file.relative_to(images))]
        words = line.split()
        assert words[:2] == [str(file), CLASSES[probabilities.argmax()]]
        assert words[2] == f"{probabilities.max():.1%}"


@pytest.mark.fault(39)
def test_damaged_training_image_ends_the_run_with_its_name(fit, tmp_path):
    root = write_images(tmp_path / "images", "train", 4)
    write_images(root, "val", 1)
    broken = root / "train" / "green" / "02.png"
    broken.write_bytes(b"no image")
    options = ["--data.root", root, "--data.val_fraction", "0", "--data.num_workers", "1"]
    assert f"error: {broken}: cannot be read as an image" in fit(*options, code=1)


@pytest.mark.fault(41)
@pytest.mark.slow
def test_full_shared_memory_is_told(tiny, tmp_path):
    options = ["--data.num_workers", "1", "--data.size", "64", "--run_dir", tmp_path]
    result = run_on_disk("/dev/shm", 100_000, "fit", *tiny, *NO_TEST, *options, **SCRIPT)
    assert result.returncode == 1, result.stderr
    assert "error: a batch cannot leave the process that loaded it: unable to " in result.stderr
    assert "error: a data-loading process died: DataLoader worker" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.fault(40)
def test_no_image_of_two_processes_may_differ(images, tmp_path):
    def fingerprint(root):
        data = ImageData("folder", str(root), size=8)
        data.setup("fit")
        return data.fingerprint()

    copy = shutil.copytree(images, tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(images)
    flip(copy / "train" / "red" / "09.png", -1)  # behind the picture
    assert fingerprint(copy) != fingerprint(images)


def test_wrong_place_is_told_in_one_message(fit):
    told = "error: cannot use the data: /nowhere/train: no such folder"
    assert told in fit("--data.root", "/nowhere", code=1)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ImageData("mnist5k", root="a"), "data.root is not for mnist5k"),
        (
            lambda: ImageData("folder", download=True),
            "data.download is for cifar10 and fashion_mnist, not for folder",
        ),
        (lambda: ImageData(num_train=0), "num_train must be at least 1, got 0"),
        (lambda: ImageData(test_splits=["exam"]), "test_splits must be of train, val and test"),
        (lambda: ImageClassifier(mixup=-1), "mixup must be 0 or more"),
        (lambda: ImageClassifier(ema_decay=1), "ema_decay must be from 0 to below 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("name", ["mnist5k", "cifar10", "imagenet"])
def test_every_configuration_is_understood(name):
    config = yaml.safe_load((ROOT / f"scripts/configs/{name}.yaml").read_text())
    assert config["data"]["name"] == name
    with torch.device("meta"):  # no values are needed
        create_model(config["model"]["name"], **config["model"]["options"])
    optimizer = config["model"]["optimizer"]
    if name != "mnist5k":  # the paper's
        assert (optimizer["kind"], optimizer["momentum"]) == ("sgd", 0.9)
        assert (optimizer["weight_decay"], optimizer["step_epochs"]) == (1e-4, 30)
        batch_and_rate = {"cifar10": (128, 0.001), "imagenet": (256, 0.1)}[name]
        assert (config["data"]["batch_size"], optimizer["lr"]) == batch_and_rate


# parts


def batch(count=6) -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    names = [f"{place}.png" for place in range(count)]
    return ImageBatch(images, torch.arange(count) % 3, list(range(count)), names)


def classifier(**options) -> ImageClassifier:
    model = ImageClassifier("resnet56", options={"depth": 8, "width": 4}, **options)
    model.classes = list(CLASSES)
    model.configure_model()
    return model.eval()


def test_channels_last_changes_the_layout_and_not_the_scores():
    one, other = classifier(channels_last=True), classifier(channels_last=False)
    weight = next(one.network.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert_close(one(batch()), other(batch()))


def test_mixup_mixes_images_and_targets_by_the_same_shares():
    torch.manual_seed(0)
    before = batch()
    mixed, shares = classifier(mixup=1.0).mix(before, before.targets)
    assert_close(shares.sum(dim=1), torch.ones(6))
    own = shares[torch.arange(6), before.targets]  # neighbors in the batch are of other classes
    assert (own < 1).all()
    partners = before.images.roll(1, 0)
    weight = own[:, None, None, None]
    assert_close(mixed.images, weight * before.images + (1 - weight) * partners)
    assert classifier().mix(before, before.targets)[1] is before.targets


@pytest.mark.fault(38)
def test_label_out_of_range_is_told_with_the_sample_before_the_forward():
    wrong = batch()
    wrong.targets[2], wrong.targets[5] = 7, -3
    model = classifier()
    message = r"labels must be from 0 to 2, got -3, 7 in 2\.png, 5\.png"
    with pytest.raises(TrainingError, match=message):
        model.training_step(wrong, 0)
    check_labels(batch().targets, batch().names, 3, ignored=-100)
    check_labels(torch.tensor([[0, 255], [2, 1]]), "ab", 3, ignored=255)
    with pytest.raises(TrainingError, match=r"got 3 in b$"):
        check_labels(torch.tensor([[0, 255], [3, 1]]), "ab", 3, ignored=255)


@pytest.mark.fault(13)
def test_the_sample_that_is_not_finite_is_named():
    bad = batch()
    bad.images[4, 1, 2, 3] = torch.nan
    assert classifier().bad_samples(bad) == ["4.png"]


def test_top_five_counts_whether_the_class_is_among_the_five_most_probable():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(40, 9, generator=generator), torch.arange(40) % 9
    evaluation = TopFive(9)
    for part in (slice(0, 15), slice(15, 40)):
        evaluation.update(logits[part], targets[part])
    rank = (logits > logits.gather(1, targets[:, None])).sum(dim=1)
    found = evaluation.compute()
    assert found["top5"] == pytest.approx((rank < 5).double().mean().item())
    assert found["accuracy"] == pytest.approx((rank < 1).double().mean().item())
    evaluation.reset()
    evaluation.update(logits[:1], logits[:1].argmax(dim=1))
    assert evaluation.compute()["top5"] == 1


def test_fewer_training_images_and_validation_do_not_overlap(images):
    def parts(num_train, val_fraction=0.25):
        data = ImageData("folder", str(images), num_train=num_train, val_fraction=val_fraction)
        data.setup("fit")
        return set(data.train_indices), set(data.val_indices)

    train, held_out = parts(24)
    assert (len(train), len(held_out)) == (18, 6)
    assert not train & held_out
    assert train | held_out < set().union(*parts(48))
    assert parts(9, 0)[0] < parts(24, 0)[0]


@pytest.mark.fault(28)
def test_test_folder_with_other_classes_is_told_before_training(tmp_path):
    root = write_images(tmp_path, "train", 2)
    write_images(root, "test", 1)
    (root / "test" / "red").rename(root / "test" / "rot")
    with pytest.raises(TrainingError, match="missing red; unknown rot"):
        ImageData("folder", str(root)).setup("fit")


def test_damaged_image_is_named_without_other_processes(tmp_path):
    root = write_images(tmp_path, "train", 2)
    broken = root / "train" / "red" / "01.png"
    broken.write_bytes(b"no image")
    data = ImageData("folder", str(root), size=8, val_fraction=0, test_splits=["train"])
    data.setup("fit")
    with pytest.raises(TrainingError, match=r"red/01\.png: cannot be read as an image"):
        list(data.train_dataloader())
    with pytest.raises(TrainingError, match=r"red/01\.png: cannot be read as an image"):
        data.read_file(broken, data.describe())


def test_more_training_images_than_there_are_is_an_error(images):
    with pytest.raises(TrainingError, match=r"data\.num_train: count must be from 1 to 48"):
        ImageData("folder", str(images), num_train=1000).setup("fit")


def test_network_that_does_not_score_whole_images_is_refused():
    model = ImageClassifier("resnet56", options={"depth": 8, "width": 4, "features_only": True})
    model.classes = list(CLASSES)
    model.configure_model()
    with pytest.raises(TrainingError, match="resnet56 does not score the classes of a whole image"):
        model(batch())


def test_weights_of_something_else_do_not_take_images(tmp_path):
    with pytest.raises(TrainingError, match="pointnet was not trained on images"):
        read_sample(tmp_path / "a.png", {"name": "pointnet", "num_points": 8})


def test_the_average_starts_without_a_warning():
    model, average = classifier(ema_decay=0.9), MovingAverage(decay=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        average.setup(None, model, "fit")


def test_report_of_a_thousand_classes_stays_readable(tmp_path):
    classes = [f"n{number:08} class" for number in range(1000)]
    labels = np.arange(2000) % 1000
    probabilities = np.zeros((2000, 1000), np.float32)
    probabilities[np.arange(2000), np.where(labels % 3, labels, 7)] = 1
    summary = {"split": "val", "accuracy": 0.667, "class_accuracy": 0.667, "loss": 1.0}
    summary |= {"num_samples": 2000, "classes": classes}
    (tmp_path / "val.json").write_text(json.dumps(summary))
    (tmp_path / "metrics.csv").write_text("epoch,train_loss\n1,0.5\n")
    np.savez(tmp_path / "predictions-val.npz", probabilities=probabilities, labels=labels)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<details >" in page  # the thousand rows are folded
    assert page.count("class</th>") == 1001
    assert len((tmp_path / "per_class.csv").read_text().splitlines()) == 1001
    with Image.open(tmp_path / "confusion-val.png") as image:
        assert max(image.size) < 2500
