import subprocess
import sys
import warnings

import pytest

import mgic_vision
from mgic_vision.models.registration import NAMES, register_with_timm


@pytest.fixture(scope="module")
def timm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
    return timm


@pytest.fixture(scope="module", autouse=True)
def registered(timm):
    register_with_timm()


@pytest.mark.slow  # a process that imports everything anew
def test_importing_the_package_imports_neither_library_and_changes_no_import():
    code = (
        "import sys; finders = list(sys.meta_path); import mgic_vision\n"
        "print([name for name in ('timm', 'torchvision') if name in sys.modules])\n"
        "print(sys.meta_path == finders)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "True", ""]


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
