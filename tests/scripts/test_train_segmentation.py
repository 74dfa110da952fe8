import csv
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from image_folders import CAR, ROAD, SKY, write_scene
from meshes import flip
from sklearn.metrics import jaccard_score
from torch.testing import assert_close
from torchvision import tv_tensors
from training_runs import KILLED, NO_TEST, ROOT, SignalAt, assert_same_run, run, run_ranks

from datasets.cityscapes import IGNORED, Scenes
from datasets.digit_scenes import CLASSES, DigitScenes, write_digit_scenes
from datasets.image_dataset import ImageFormat
from mgic_vision import create_model
from scripts.training.masks import MaskEvaluation
from scripts.training.optimizer import OptimizerSettings
from scripts.training.reliability.errors import TrainingError
from scripts.training.reports.masks import MaskSplit
from scripts.training.reports.splits import ReportError
from scripts.training.scenes import PreparedScenes, SceneAugment, SegmentationData
from scripts.training.segmenter import Segmenter

SEGMENTER = "scripts.training.segmenter.Segmenter"
SCRIPT = "scripts.train_segmentation"
COUNTS = {"num_train": 9, "num_val": 3, "num_test": 5}


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_digit_scenes(root, size=48, **COUNTS)
    return root


@pytest.fixture(scope="session")
def tiny(digits) -> list[str]:
    """Arguments of a small run: 9 scenes, 2 batches an epoch, everything random switched on."""
    return [
        *("--data.root", str(digits), "--data.scenes", "[9, 3, 5]", "--data.scene_size", "48"),
        *("--data.crop", "[40, 56]", "--data.batch_size", "4", "--data.eval_batch_size", "2"),
        *("--data.augment.flip", "0.5", "--data.augment.hue", "0.2"),
        *("--model.name", "lraspp_mgic_small", "--model.options", '{"filters": 8, "width": 0.5}'),
        *("--model.optimizer.schedule", "poly", "--trainer.max_epochs", "2"),
        *("--trainer.accelerator", "cpu", "--checkpoint_every", "1", "--threads", "1"),
    ]


@pytest.fixture(scope="session")
def whole(tiny, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run; its output is in ``log``."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder / "log", "fit", *tiny, "--run_dir", folder, script=SCRIPT)
    return folder


@pytest.fixture
def fit(tiny, tmp_path):
    """Trains in ``tmp_path``, without test and report; the rest is as of ``run``."""
    command = ["fit", *tiny, *NO_TEST, "--run_dir", tmp_path]
    return partial(run, tmp_path / "log", *command, script=SCRIPT)


# runs


@pytest.mark.slow
@pytest.mark.fault(7)
def test_killed_and_resumed_run_is_bit_identical(fit, whole, tmp_path):
    fit(fault=SignalAt(SEGMENTER, "training_step", 4), code=KILLED)
    fit("--resume", "--data.num_workers", "1")
    assert_same_run(whole, tmp_path)


def test_run_folder_holds_the_iou_of_each_class_and_pictures(whole):
    test = json.loads((whole / "test.json").read_text())
    arrays = np.load(whole / "predictions.npz")
    counts = arrays["confusion"]
    assert test["classes"] == list(CLASSES)
    assert counts.sum() == test["num_pixels"] == 5 * 48 * 48
    assert test["num_samples"] == 5
    met, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    expected = [i / u if u else None for i, u in zip(met, union, strict=True)]
    assert test["iou"] == expected
    assert test["miou"] == pytest.approx(np.mean([iou for iou in expected if iou is not None]))
    assert arrays["scenes"].shape == (5, 48, 48, 3)
    assert arrays["truths"].shape == arrays["masks"].shape == (5, 48, 48)
    shares = (arrays["truths"] == arrays["masks"]).mean(axis=(1, 2))
    np.testing.assert_allclose(arrays["accuracies"], shares, rtol=1e-6)


def test_metrics_and_report_show_what_segmentation_is_measured_by(whole):
    with (whole / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [key for key in rows[0] if key.startswith("val")] == [
        *("val_loss", "val_miou", "val_accuracy")
    ]
    best = json.loads((whole / "test.json").read_text())["epoch"]
    assert float(rows[best - 1]["val_miou"]) == max(float(row["val_miou"]) for row in rows)
    page = (whole / "report.html").read_text()
    assert "Intersection over union by class" in page
    assert "highest validation mIoU" in page
    assert {"scenes.png", "confusion.png", "per_class.csv"} <= {p.name for p in whole.iterdir()}
    header = (whole / "per_class.csv").read_text().splitlines()[0]
    assert header == "split,class,union,intersection,iou"
    assert "test: mIoU 0." in (whole / "log").read_text()


def test_two_processes_count_the_same_pixels_as_one(whole, tmp_path):
    args = ["test", "--checkpoint", whole / "checkpoints" / "best.ckpt", "--run_dir", tmp_path]
    run_ranks(tmp_path, *args, script=SCRIPT)
    one, two = (json.loads((folder / "test.json").read_text()) for folder in (whole, tmp_path))
    assert one.pop("loss") == pytest.approx(two.pop("loss"))
    assert one == two


def test_prediction_prints_the_shares_of_the_largest_classes(whole, digits, tmp_path):
    images = sorted(digits.rglob("test/*/*_leftImg8bit.png"))[:2]
    args = ["predict", "--run_dir", whole, *images]
    lines = run(tmp_path / "log", *args, script=SCRIPT).splitlines()
    assert [line.split()[0] for line in lines] == list(map(str, images))
    assert all(line.count("%") == 3 for line in lines)


def fit_cityscapes(root: Path, *options: str, code: int = 0) -> str:
    args = ["--data.name", "cityscapes", "--data.root", root, "--data.check_counts", "false"]
    args += ["--data.batch_size", "2", "--model.name", "lraspp_mobilenet_v3_small"]
    args += ["--trainer.max_epochs", "1", "--threads", "1", "--report", "false"]
    args += ["--run_dir", root, *options]
    return run(root / "log", "fit", *args, code=code, script=SCRIPT)


@pytest.mark.fault(38)
def test_cityscapes_trains_also_on_images_where_everything_is_ignored(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            mask = np.zeros((40, 56), int)  # unlabeled
            if number >= count // 2:
                mask[:, 10:], mask[:, 30:], mask[20:] = ROAD, CAR, SKY
            write_scene(tmp_path, split, "ulm", number, mask)
    fit_cityscapes(tmp_path, "--data.crop", "[32, 32]")
    assert "nan" not in (tmp_path / "metrics.csv").read_text()
    assert json.loads((tmp_path / "val.json").read_text())["num_pixels"] == 20 * 56 + 20 * 46


@pytest.mark.fault(39)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [("image", "cannot be read as an image"), ("mask", "77 is no label; labels are 0, 1, 2")],
)
def test_damaged_scene_ends_the_run_with_its_name(kind, message, tmp_path):
    for split in ("train", "val"):
        for number in range(4):
            write_scene(tmp_path, split, "ulm", number, np.full((40, 56), ROAD))
    broken = write_scene(tmp_path, "train", "ulm", 3, np.full((40, 56), 77))
    if kind == "image":
        broken = next(tmp_path.rglob("train/ulm/ulm_000003*_leftImg8bit.png"))
        broken.write_bytes(broken.read_bytes()[:60])
    told = fit_cityscapes(tmp_path, "--data.num_workers", "1", code=1)
    assert f"error: {broken}: {message}" in told


@pytest.mark.fault(40)
def test_no_scene_of_two_processes_may_differ(digits, tmp_path):
    def fingerprint(root):
        data = SegmentationData(root=str(root), scenes=[9, 3, 5], scene_size=48)
        data.setup("fit")
        return data.fingerprint()

    copy = shutil.copytree(digits, tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(digits)
    flip(sorted(copy.rglob("train/*/*_labelIds.png"))[7], -1)  # behind the picture
    assert fingerprint(copy) != fingerprint(digits)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Segmenter("resnet56").make_network(11), "does not score pixels; lraspp_mgic"),
        (lambda: SegmentationData(crop=[40]), r"data.crop must be height and width, got \[40\]"),
        (lambda: SegmentationData(test_splits=["tset"]), "no split tset; there are train, val"),
        (lambda: SceneAugment(scale=(2, 1)), "scale must be two positive numbers in order"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_place_is_told_in_one_message(fit):
    place = ("--data.name", "cityscapes", "--data.scenes", "null")
    assert "error: cannot use the data: " in (told := fit(*place, code=1))
    assert "no folder leftImg8bit/val" in told


@pytest.mark.parametrize("name", ["digit_scenes", "cityscapes"])
def test_configurations_build_what_they_say(name):
    config = yaml.safe_load((ROOT / f"scripts/configs/{name}.yaml").read_text())
    data, model = config["data"], config["model"]
    augment = SceneAugment(**data.pop("augment"))
    assert SegmentationData(**data, augment=augment).crop == data["crop"]
    settings = OptimizerSettings(**model.pop("optimizer"))
    assert Segmenter(**model, optimizer=settings).make_network(19).head_hidden_size == 128


# evaluation


@pytest.mark.fault(38)
def test_miou_is_counted_over_the_whole_set_and_not_averaged_over_batches():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (3, 8, 8), generator=generator)
    truth[1] = 2  # of very different batches
    truth[0, :4] = IGNORED
    scores = torch.randn(3, 4, 8, 8, generator=generator)
    scores[:, 3] = -9  # a class that is neither there nor predicted
    evaluation, batches = MaskEvaluation(4), []
    for image in range(3):
        single = MaskEvaluation(4)
        for each in (evaluation, single):
            each.update(scores[image, None], truth[image, None])
        batches.append(single.compute()["miou"])
    metrics, counted = evaluation.compute(), truth != IGNORED
    predicted = scores.argmax(dim=1)
    expected = jaccard_score(truth[counted], predicted[counted], average=None)
    assert metrics["iou"][:3] == pytest.approx(expected.tolist())
    assert metrics["iou"][3] is None
    assert metrics["miou"] == pytest.approx(expected.mean())
    assert metrics["miou"] != pytest.approx(np.mean(batches), abs=1e-3)
    assert metrics["num_samples"] == 3
    assert metrics["num_pixels"] == 3 * 64 - 32


@pytest.mark.fault(38)
def test_split_without_a_single_label_is_an_error():
    evaluation = MaskEvaluation(2)
    evaluation.update(torch.randn(1, 2, 4, 4), torch.full((1, 4, 4), IGNORED))
    with pytest.raises(TrainingError, match="nothing to evaluate"):
        evaluation.compute()


def test_poly_falls_with_every_step_after_the_warm_up():
    settings = OptimizerSettings(schedule="poly", poly_power=2, warmup_epochs=1)
    factor = settings.make_factor(2, 3)
    assert [factor(step) for step in range(7)] == [0.5, 1, 1, 0.5625, 0.25, 0.0625, 0]


# data


def prepared(scenes: Scenes, crop: tuple[int, int] = (48, 48), seed: int = 0, **augment):
    format = ImageFormat(48, 48, mean=(0, 0, 0), std=(1, 1, 1))
    change = SceneAugment(**augment).make((48, 48), crop, (0.5, 0.5, 0.5))
    return PreparedScenes(scenes, format, change, seed)


class Striped(Scenes):
    """Scenes whose red is a hundredth of the class."""

    def __init__(self, scenes: Scenes):
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key):
        scene = self.scenes[key]
        image = (10 * scene.mask).to(torch.uint8).expand(3, -1, -1)
        return type(scene)(tv_tensors.Image(image), scene.mask, scene.name, scene.index)


@pytest.fixture
def scenes(digits) -> DigitScenes:
    return DigitScenes(digits, "train", size=48, **COUNTS)


@pytest.mark.parametrize("scale", [(1, 1), (0.5, 2.0)])
def test_image_and_mask_are_moved_together(scenes, scale):
    samples = prepared(Striped(scenes), scale=scale, flip=0.5)
    moved = 0
    for epoch in range(8):
        scene, before = samples[epoch, 1], scenes[1].mask
        told = (scene.image[0] * 25.5).round()
        inside = scene.mask != IGNORED
        agree = (told == scene.mask)[inside].float().mean()
        assert agree == 1 if scale == (1, 1) else agree > 0.75  # edges are blurred by scaling
        moved += not torch.equal(scene.mask.as_subclass(torch.Tensor), before)
    assert moved >= 2


def test_changes_are_a_function_of_seed_epoch_and_index(scenes):
    options = {"scale": (0.5, 2.0), "brightness": 0.5, "hue": 0.2}
    one, again = prepared(scenes, **options), prepared(scenes, **options)
    torch.rand(3)  # whatever was drawn before
    assert_close(one[2, 1].image, again[2, 1].image, rtol=0, atol=0)
    assert not torch.equal(one[2, 1].image, one[3, 1].image)
    assert not torch.equal(one[2, 1].image, prepared(scenes, seed=1, **options)[2, 1].image)


def test_what_a_crop_adds_is_the_mean_color_and_ignored(scenes):
    scene = prepared(scenes, crop=(64, 80), scale=(1, 1), flip=0)[0, 0]
    added = scene.mask == IGNORED
    assert scene.mask.shape == (64, 80)
    assert added.sum() == 64 * 80 - 48 * 48
    assert_close(scene.image[:, added].unique(), torch.tensor([128 / 255]))


def test_images_of_different_sizes_are_refused_in_one_batch(scenes):
    samples = [scenes[0], prepared(scenes, crop=(32, 32))[0, 1]]
    with pytest.raises(TrainingError, match=r"differ in size: .* has 48 x 48, .* has 32 x 32"):
        SegmentationData.collate(samples)


@pytest.mark.parametrize("size", [(33, 70), (48, 48), (800, 100)])
def test_pooling_branch_works_at_any_crop_size(size):
    network = create_model("lraspp_mgic_small", 11, filters=8).eval()
    with torch.inference_mode():
        assert network(torch.rand(1, 3, *size)).shape == (1, 11, *size)


# report and results


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("confusion", np.zeros((2, 2)), "confusion have shape"),
        ("scene_rows", np.arange(5) + 9, "scene_rows must lie from 0 to 4"),
        ("masks", None, "it has no array 'masks'"),
    ],
)
def test_broken_predictions_are_told(whole, tmp_path, name, value, message):
    with np.load(whole / "predictions.npz") as file:
        arrays = {key: file[key] for key in file.files}
    arrays[name] = value
    arrays = {key: array for key, array in arrays.items() if array is not None}
    np.savez(tmp_path / "predictions.npz", **arrays)
    summary = json.loads((whole / "test.json").read_text())
    with pytest.raises(ReportError, match=message):
        MaskSplit.read(tmp_path / "test.json", summary)
