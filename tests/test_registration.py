import importlib.util
import subprocess
import sys
import warnings

import pytest

import mgic_vision
from mgic_vision.models import registration
from mgic_vision.models.registration import NAMES, _AtImport, register_with_timm


@pytest.fixture(scope="module")
def timm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
    return timm


@pytest.mark.slow  # a process that imports everything anew
def test_networks_are_registered_when_the_libraries_are_imported_later():
    code = """import sys
import mgic_vision
print([name for name in ("timm", "torchvision") if name in sys.modules])
import timm, torchvision.models
print(timm.create_model("mgic_resnet56", num_classes=7).num_classes)
print(torchvision.models.get_model("lraspp_mgic_small", num_classes=3).num_classes)
print(timm.create_model("resnet18").num_classes)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "7", "3", "1000", ""]


def test_networks_are_registered_at_once_where_the_libraries_are_imported(timm, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    calls = []
    for name in ("timm", "torchvision"):
        monkeypatch.setattr(registration, f"register_with_{name}", lambda n=name: calls.append(n))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    registration.register_at_import()
    assert calls == ["timm", "torchvision"]
    assert (timm.__name__, torchvision.__name__) == ("timm", "torchvision")
    monkeypatch.delitem(sys.modules, "timm")
    registration.register_at_import()
    assert calls == ["timm", "torchvision", "torchvision"]
    assert list(sys.meta_path[0].waiting) == ["timm"]


def test_a_library_that_is_missing_is_still_missing(monkeypatch):
    finder = _AtImport({"mgic_no_library": pytest.fail})
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    with pytest.raises(ImportError, match="No module named 'mgic_no_library'"):
        __import__("mgic_no_library")
    assert "mgic_no_library" in finder.waiting


def test_options_of_timm_reach_the_network(timm):
    model = timm.create_model("mgic_resnet56", num_classes=5, group_size=4, in_chans=1)
    ours = mgic_vision.create_model("mgic_resnet56", 5, group_size=4, in_chans=1)
    assert str(model) == str(ours)
    assert timm.create_model("mgic_resnet56").num_classes == 10
    assert set(timm.list_models("*mgic*")) == {name for name in NAMES if name[0] == "m"}


def test_pretrained_weights_are_refused(timm):
    with pytest.raises(ValueError, match="no pretrained weights of mgic_resnet56; checkpoint="):
        timm.create_model("mgic_resnet56", pretrained=True)
    with pytest.raises(ValueError, match="mgic_resnet56 does not take drop_path_rate"):
        timm.create_model("mgic_resnet56", drop_path_rate=0.1)


def test_registering_twice_changes_nothing(timm):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_with_timm()


def test_a_library_that_is_imported_later_is_registered_with_once(monkeypatch, tmp_path):
    (tmp_path / "mgic_later_library.py").write_text("value = 3")
    monkeypatch.syspath_prepend(str(tmp_path))
    calls = []

    def register() -> None:
        calls.append(sys.modules["mgic_later_library"].value)  # it is whole by now

    finder = _AtImport({"mgic_later_library": register})
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    for _ in range(2):  # to look whether it is there is not to import it
        assert importlib.util.find_spec("mgic_later_library") is not None
        assert not calls
    import mgic_later_library  # type: ignore[import-not-found]

    importlib.reload(mgic_later_library)
    assert calls == [3]
    monkeypatch.delitem(sys.modules, "mgic_later_library")


def test_a_registration_that_fails_leaves_the_import_alone(monkeypatch, tmp_path):
    (tmp_path / "mgic_fake_library.py").write_text("value = 3")
    monkeypatch.syspath_prepend(str(tmp_path))

    def fail() -> None:
        raise RuntimeError("no registry")

    monkeypatch.setattr(sys, "meta_path", [_AtImport({"mgic_fake_library": fail}), *sys.meta_path])
    with pytest.warns(UserWarning, match="not registered with mgic_fake_library: no registry"):
        import mgic_fake_library  # type: ignore[import-not-found]
    assert mgic_fake_library.value == 3
    monkeypatch.delitem(sys.modules, "mgic_fake_library")
