import json

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from meshes import flip
from safetensors.torch import load_file
from test_report import CLASSES, make_run
from torch.testing import assert_close

from mgic_geo import create_model
from mgic_geo.models.hub import HubModel
from mgic_geo.models.weights import WeightsError, pack_weights
from mgic_vision import create_model as create_image_model
from mgic_vision.models.hub import HubModel as ImageHubModel
from scripts import share
from scripts.training.reliability.errors import CheckpointError
from scripts.training.weights import Weights, export_weights, read_weights

OPTIONS = {"width": 8, "k": 4}


def finished_run(folder, seed: int, best: float, **data):
    """A run of four classes, tested, whose best epoch has this validation accuracy."""
    make_run(folder, ("test", "hard"))
    metrics = (folder / "metrics.csv").read_text().replace("0.75,0.7", f"{best},0.7")
    (folder / "metrics.csv").write_text(metrics)
    torch.manual_seed(seed)
    tensors = create_model("dgcnn", len(CLASSES), **OPTIONS).state_dict()
    info = {"name": "dgcnn", "options": OPTIONS, "classes": CLASSES, "epoch": 2}
    export_weights(Weights(folder, tensors, info), folder)
    config = {"seed": seed, "trainer": {"max_epochs": 3}, "command": "python -m scripts.x"}
    config |= {"model": {"name": "dgcnn", "seed": seed}, "data": {"name": "shapes10", **data}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    summary = json.loads((folder / "test.json").read_text())
    (folder / "test.json").write_text(json.dumps(summary | {"accuracy": best}))
    return folder


@pytest.fixture
def runs(tmp_path):
    return [finished_run(tmp_path / f"run-{seed}", seed, 0.7 + seed / 10) for seed in (0, 2, 1)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("asked the network"))


def test_the_best_of_several_seeds_is_shared_with_the_spread_of_all(runs, tmp_path):
    folder = tmp_path / "shared"
    assert share.main([*map(str, runs), "--folder", str(folder)]) == 0
    text = (folder / "README.md").read_text()
    assert "3 runs, seeds 0, 2, 1: mean ± standard deviation" in text
    assert "seed 2 after epoch 2 of 3, the best on validation (0.9000)" in text
    assert "| test | accuracy, % | 80.0 ± 10.0 | 70.0 to 90.0 | 90.0 |" in text
    assert text.count("| hard |") == 2
    assert "from mgic_geo.models.hub import HubModel" in text
    info = read_weights(folder / "model.safetensors").info
    assert info["results"]["test"]["accuracy"] == pytest.approx(0.9)
    model = HubModel.from_pretrained(str(folder))
    assert_close(model.network.state_dict(), load_file(runs[1] / "model.safetensors"))
    assert not model.training
    network = create_model("dgcnn", len(CLASSES), **OPTIONS).eval()
    network.load_state_dict(load_file(runs[1] / "model.safetensors"))
    pos = torch.rand(10, 3)
    assert_close(model(pos), network(pos))


def test_the_card_can_be_read_by_machines(runs, tmp_path):
    share.main([str(runs[0]), "--folder", str(tmp_path / "shared")])
    data = ModelCard.load(tmp_path / "shared/README.md").data
    assert (data.model_name, data.library_name, data.license) == ("dgcnn", "mgic", "mit")
    found = {(r.dataset_split, r.metric_type): r.metric_value for r in data.eval_results}
    assert found["test", "accuracy"] == pytest.approx(0.7)
    assert found.keys() == {
        (split, key) for split in ("test", "hard") for key in ("accuracy", "class_accuracy")
    }


def test_runs_that_differ_in_more_than_their_seed_are_refused(runs, tmp_path, capsys):
    other = finished_run(tmp_path / "other", 5, 0.8, num_points=3)
    args = ["--folder", str(tmp_path / "shared")]
    assert share.main([str(runs[0]), str(other), *args]) == 1
    assert "differ in data.num_points" in capsys.readouterr().err
    (other / "test.json").unlink()
    (other / "hard.json").unlink()
    assert share.main([str(other), *args]) == 1
    assert "has not been tested" in capsys.readouterr().err
    assert not (tmp_path / "shared").exists()


def test_what_is_saved_is_read_again(tmp_path):
    model = ImageHubModel("mgic_resnet56", 5, depth=8, width=8, group_size=4, coarse_size=8)
    model.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.safetensors", "model.json", "README.md", "config.json"}
    again = ImageHubModel.from_pretrained(str(tmp_path))
    assert_close(again.state_dict(), model.state_dict())
    assert again.options == model.options
    assert_close(load_file(tmp_path / "model.safetensors"), dict(model.network.state_dict()))
    assert "from mgic_vision.models.hub import HubModel" in (tmp_path / "README.md").read_text()
    network = create_image_model("mgic_resnet56", checkpoint=tmp_path / "model.safetensors")
    assert_close(network.state_dict(), model.network.state_dict())
    with pytest.raises(CheckpointError, match=r"model\.json does not name the classes"):
        read_weights(tmp_path)  # it is no run


def test_weights_that_are_missing_are_an_error_unless_that_is_asked_for(tmp_path):
    model = HubModel("pointnet", 4, width=8)
    model.save_pretrained(tmp_path)
    tensors = dict(model.network.state_dict())
    del tensors["head.4.bias"]
    info = {"name": "pointnet", "options": {"width": 8}, "num_classes": 4}
    content, sidecar = pack_weights(tensors, info)
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "model.json").write_bytes(sidecar)
    with pytest.raises(RuntimeError, match=r"head\.4\.bias"):
        HubModel.from_pretrained(str(tmp_path))
    assert HubModel.from_pretrained(str(tmp_path), strict=False).name == "pointnet"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: flip(folder / "model.safetensors", -3), "its SHA-256 is not the one in"),
        (lambda folder: (folder / "model.json").unlink(), r"No such file .*model\.json"),
        (
            lambda folder: HubModel("dgcnn", 4, width=8)._save_pretrained(folder),
            "holds weights of dgcnn, not of pointnet",
        ),
    ],
)
def test_weights_that_are_not_those_that_were_saved_are_refused(damage, message, tmp_path):
    HubModel("pointnet", 4, width=8).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(WeightsError, match=message):
        HubModel.from_pretrained(str(tmp_path))


def test_a_hub_is_asked_for_the_hash_and_pickled_weights_are_refused(tmp_path, monkeypatch):
    HubModel("pointnet", 4, width=8).save_pretrained(tmp_path)
    asked = []

    def download(repo_id, filename, **_):
        asked.append(filename)
        if not (tmp_path / filename).exists() and filename != "pytorch_model.bin":
            raise EntryNotFoundError(filename)
        return str(tmp_path / filename)

    monkeypatch.setattr("mgic_geo.models.hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", download)
    assert HubModel.from_pretrained("user/pointnet").name == "pointnet"
    assert asked == ["config.json", "model.json", "model.safetensors"]
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="is a pickle: pointnet is read from"):
        HubModel.from_pretrained("user/pointnet")


def test_networks_of_parts_are_not_shared(runs, tmp_path, capsys):
    info = json.loads((runs[0] / "model.json").read_text())
    (runs[0] / "model.json").write_text(json.dumps(info | {"task": "parts"}))
    assert share.main([str(runs[0]), "--folder", str(tmp_path / "shared")]) == 1
    assert "tells parts apart" in capsys.readouterr().err
    assert not (tmp_path / "shared").exists()
