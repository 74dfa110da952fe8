"""Exported weights, read by the packages alone."""

import hashlib
import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import mgic_geo
import mgic_vision
from mgic_geo.models.weights import WeightsError, WeightsWarning, read_weights
from scripts.training.weights import Weights, export_weights, find_weights
from tests.meshes import Canary, flip

NETWORKS = {
    "mgic_geo": (mgic_geo, "mgic_diffgcn", {"k": 3, "width": 16, "group_size": 4}),
    "mgic_vision": (mgic_vision, "mgic_resnet56", {"depth": 8, "width": 8, "group_size": 4}),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A package, the name of one of its networks, and options."""
    return NETWORKS[request.param]


@pytest.fixture
def exported(network, tmp_path):
    """The path of exported weights, and the network they were taken from."""
    package, name, options = network
    torch.manual_seed(0)
    model = package.create_model(name, num_classes=3, **options)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    info = {"name": name, "options": options, "classes": ["a", "b", "c"]}
    export_weights(Weights(tmp_path, model.state_dict(), info), tmp_path)
    return tmp_path / "model.safetensors", model


def change_sidecar(path: Path, **changes) -> None:
    sidecar = path.with_suffix(".json")
    info = json.loads(sidecar.read_text()) | changes
    sidecar.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))


def test_network_of_a_checkpoint_has_its_options_classes_and_weights(network, exported):
    package, name, _ = network
    path, model = exported
    read = package.create_model(name, checkpoint=str(path))
    assert repr(read) == repr(model)
    assert_close(read.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_package_brings_weights_along_by_the_name_of_their_network(
    network, exported, tmp_path, monkeypatch
):
    package, name, _ = network
    path, model = exported
    folder = tmp_path / "pretrained" / name
    folder.mkdir(parents=True)
    for file in (path, path.with_suffix(".json")):
        file.rename(folder / file.name)
    monkeypatch.setattr(f"{package.__name__}.models.registry.PRETRAINED", folder.parent)
    assert package.list_models(pretrained=True) == [name]
    read = package.create_model(name, pretrained=True)
    assert_close(read.state_dict(), model.state_dict(), rtol=0, atol=0)
    labels = "classes" if package is mgic_geo else "label_names"
    assert read.pretrained_cfg[labels] == ["a", "b", "c"]
    assert find_weights(Path(name)) == folder / "model.safetensors"
    with pytest.raises(ValueError, match="either pretrained=True or checkpoint=, got both"):
        package.create_model(name, pretrained=True, checkpoint=folder)
    other = next(each for each in package.list_models() if each != name)
    message = f"no pretrained weights of {other}, but those of {name}"
    with pytest.raises(WeightsError, match=message):
        package.create_model(other, pretrained=True)


@pytest.mark.parametrize("package", [mgic_geo, mgic_vision])
def test_weights_that_come_along_fit_and_say_what_they_reached(package):
    for name in package.list_models(pretrained=True):
        config = package.create_model(name, pretrained=True).pretrained_cfg
        assert config["results"]["test"]["accuracy"] > 0.5
        assert (package.models.registry.PRETRAINED / name / "README.md").exists()


@pytest.mark.fault(11)
def test_other_number_of_classes_keeps_the_body_and_gets_a_fresh_classifier(network, exported):
    package, name, _ = network
    path, model = exported
    read = package.create_model(name, num_classes=7, checkpoint=path)
    before, after = model.state_dict(), read.state_dict()
    changed = [key for key in before if before[key].shape != after[key].shape]
    assert len(changed) == 2
    assert after[changed[0]].shape[0] == 7
    for key in before.keys() - set(changed):
        assert_close(after[key], before[key], rtol=0, atol=0)


@pytest.mark.fault(11)
def test_weights_of_another_shape_are_listed(network, exported):
    package, name, _ = network
    with pytest.raises(WeightsError, match=r"do not fit[\s\S]*size mismatch for"):
        package.create_model(name, checkpoint=exported[0], width=32)


@pytest.mark.fault(11)
def test_missing_and_unknown_weights_are_listed_unless_strict_is_false(network, exported, tmp_path):
    package, name, options = network
    path, model = exported
    state = model.state_dict()
    lost = next(key for key in state if key.endswith("weight"))
    state["surplus"] = state.pop(lost)
    info = {"name": name, "options": options, "classes": ["a", "b", "c"]}
    export_weights(Weights(tmp_path, state, info), tmp_path)
    with pytest.raises(WeightsError, match=r"Missing key[\s\S]*Unexpected key[\s\S]*surplus"):
        package.create_model(name, checkpoint=path)
    with pytest.warns(WeightsWarning, match=rf"no weights for \['{lost}'\], no place for \['surp"):
        package.create_model(name, checkpoint=path, strict=False)


def test_weights_of_another_network_are_refused(network, exported):
    package, name, _ = network
    other = next(other for other in package.list_models() if other != name)
    with pytest.raises(WeightsError, match=rf"holds weights of {name}, not of {other}"):
        package.create_model(other, checkpoint=exported[0])


@pytest.mark.fault(2)
def test_flipped_bit_is_noticed(network, exported):
    path, _ = exported
    flip(path, path.stat().st_size - 3)
    with pytest.raises(WeightsError, match=r"model\.safetensors: its SHA-256 is not the one in"):
        network[0].create_model(network[1], checkpoint=path)


@pytest.mark.fault(1, 3)
@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b""), "SHA-256"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "SHA-256"),
        (lambda path: (path.unlink(), path.mkdir()), "directory"),
        (lambda path: path.with_suffix(".json").unlink(), r"model\.json"),
        (lambda path: path.with_suffix(".json").write_text("{"), "Expecting property name"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "does not hold an object"),
        (lambda path: change_sidecar(path, options=None), "lacks 'options'"),
        (lambda path: change_sidecar(path, num_classes="3"), "it is no int"),
        (lambda path: change_sidecar(path, sha256=None), "SHA-256"),
    ],
)
def test_damaged_files_are_refused_by_name(damage, match, exported):
    path, _ = exported
    damage(path)
    with pytest.raises(WeightsError, match=rf"model\.safetensors: .*{match}"):
        read_weights(path)


@pytest.mark.fault(4)
def test_pickle_under_the_name_of_weights_is_not_run(exported, tmp_path):
    path, _ = exported
    path.write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    change_sidecar(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        read_weights(path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.fault(4)
def test_files_of_other_kinds_are_not_opened(tmp_path):
    torch.save({"state_dict": Canary(tmp_path / "canary")}, tmp_path / "best.ckpt")
    with pytest.raises(WeightsError, match=r"best\.ckpt: expected a \.safetensors file"):
        read_weights(tmp_path / "best.ckpt")
    assert not (tmp_path / "canary").exists()


def test_missing_safetensors_says_how_to_get_it(monkeypatch, exported):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"pip install safetensors"):
        read_weights(exported[0])
