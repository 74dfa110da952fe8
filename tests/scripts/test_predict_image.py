import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from datasets.image_dataset import ImageFormat
from mgic_vision import create_model
from scripts import predict_image
from scripts.training.reliability import files
from scripts.training.weights import Weights, export_weights

FORMAT = ImageFormat(16, 16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
COLORS = [[0, 0, 0], [230, 159, 0], [86, 180, 233]]
MASKS = ("lraspp_mgic_small", {"filters": 8}, ["background", "cat", "dog"])
LABELS = (
    "mgic_resnet56",
    {"depth": 8, "width": 8, "group_size": 4, "coarse_size": 8},
    list("abcdefg"),
)


def export(folder: Path, name: str, options: dict, classes: list[str], **info) -> Path:
    torch.manual_seed(0)
    tensors = create_model(name, len(classes), **options).state_dict()
    facts = {"name": name, "options": options, "classes": classes} | info
    export_weights(Weights(folder / "model.safetensors", tensors, facts), folder)
    return folder


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    """The folder of a segmentation run, as far as prediction needs it."""
    facts = {"task": "segmentation", "input": asdict(FORMAT), "colors": COLORS}
    return export(tmp_path_factory.mktemp("masks"), *MASKS, **facts)


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Path:
    """The folder of a classification run."""
    return export(tmp_path_factory.mktemp("labels"), *LABELS, input=asdict(FORMAT))


@pytest.fixture
def photo(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    path = tmp_path / "photo, Zürich.jpg"
    Image.fromarray(pixels).save(path)
    return path


def load(folder: Path, name: str, options: dict, classes: list[str]) -> torch.nn.Module:
    network = create_model(name, len(classes), **options).eval()
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network


def read_bytes(photo: Path) -> torch.Tensor:
    with Image.open(photo) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_mask_has_the_classes_of_the_network_at_the_size_of_the_image(masks, photo, capsys):
    assert predict_image.main([str(photo), "--run_dir", str(masks)]) == 0
    path = photo.with_name("photo, Zürich.mask.png")
    with torch.inference_mode():
        expected = (
            load(masks, *MASKS)(FORMAT.normalize(read_bytes(photo))[None])[0].argmax(dim=0).numpy()
        )
    with Image.open(path) as mask:
        np.testing.assert_array_equal(np.array(mask), expected)
        np.testing.assert_array_equal(np.array(mask.convert("RGB")), np.array(COLORS)[expected])
    line = capsys.readouterr().out
    shares = np.bincount(expected.ravel()) / expected.size
    assert line.startswith(f"{path}  {MASKS[2][shares.argmax()]} {shares.max():.1%}")


def test_classes_that_no_pixel_has_are_not_named(masks, photo, capsys, monkeypatch):
    scores = torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, 4, 4)
    monkeypatch.setattr(predict_image, "score", lambda network, image: scores)
    assert predict_image.main([str(photo), "--run_dir", str(masks)]) == 0
    path = photo.with_name("photo, Zürich.mask.png")
    assert capsys.readouterr().out == f"{path}  {MASKS[2][1]} 100.0%\n"


def test_classes_come_with_their_five_largest_probabilities(labels, photo, capsys):
    weights = str(labels / "model.safetensors")
    assert predict_image.main([str(photo), str(photo), "--checkpoint", weights]) == 0
    first, second = capsys.readouterr().out.splitlines()
    with torch.inference_mode():
        image = FORMAT.normalize(FORMAT.cut(read_bytes(photo)))
        scores = load(labels, *LABELS)(image[None])[0]
    shares, places = scores.softmax(dim=0).topk(5)
    expected = [f"{LABELS[2][p]} {s:.1%}" for s, p in zip(shares, places, strict=True)]
    assert first == second == "  ".join([str(photo), *expected])
    assert not list(photo.parent.glob("*.mask.png"))


def test_mask_that_is_there_is_replaced_only_if_asked_for(masks, photo, capsys):
    path = predict_image.mask_path(photo)
    path.write_text("mine")
    assert predict_image.main([str(photo), "--run_dir", str(masks)]) == 1
    assert f"error: {path} would be replaced: use --overwrite" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert predict_image.main([str(photo), "--run_dir", str(masks), "--overwrite"]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_failed_write_leaves_no_mask(masks, photo, monkeypatch, capsys):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    assert predict_image.main([str(photo), "--run_dir", str(masks)]) == 1
    assert "No space left" in capsys.readouterr().err
    assert list(photo.parent.iterdir()) == [photo]


@pytest.mark.fault(39)
def test_file_that_is_no_image_is_named_and_the_others_are_done(masks, photo, capsys):
    bad = photo.with_name("bad.png")
    bad.write_text("<html>404</html>")
    assert predict_image.main([str(bad), str(photo), "--run_dir", str(masks)]) == 1
    printed = capsys.readouterr()
    assert f"error: {bad}: cannot be read as an image" in printed.err
    assert printed.out.startswith(str(predict_image.mask_path(photo)))
    assert not predict_image.mask_path(bad).exists()


def test_two_files_with_one_name_for_the_mask_are_refused(masks, photo, capsys):
    other = photo.with_suffix(".png")
    Image.open(photo).save(other)
    assert predict_image.main([str(photo), str(other), "--run_dir", str(masks)]) == 1
    assert "two files have the same mask" in capsys.readouterr().err
    assert not list(photo.parent.glob("*.mask.png"))


def test_weights_of_something_else_are_refused(tmp_path, photo, capsys):
    folder = export(tmp_path, *LABELS, num_points=32)
    assert predict_image.main([str(photo), "--run_dir", str(folder)]) == 1
    assert "mgic_resnet56 was not trained on images" in capsys.readouterr().err
    (folder / "model.safetensors").write_bytes(b"0")
    assert predict_image.main([str(photo), "--run_dir", str(folder)]) == 1
    assert "its SHA-256 is not the one in model.json" in capsys.readouterr().err


def test_weights_that_do_not_fit_their_network_are_told(labels, tmp_path, photo, capsys):
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((labels / name).read_bytes())
    info = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(info | {"classes": ["a", "b"]}))
    assert predict_image.main([str(photo), "--run_dir", str(tmp_path)]) == 1
    assert "size mismatch" in capsys.readouterr().err
