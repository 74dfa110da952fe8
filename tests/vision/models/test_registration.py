import warnings

import pytest
import torch
from torch.testing import assert_close

import mgic_vision
from mgic_geo import WeightsError
from mgic_vision.models.registration import (
    NAMES,
    register_with_timm,
    register_with_torchvision,
)


@pytest.fixture(scope="module", autouse=True)
def timm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
    register_with_timm()
    return timm


def test_options_of_timm_reach_the_network(timm):
    model = timm.create_model("mgic_resnet56", num_classes=5, group_size=4, in_chans=1)
    ours = mgic_vision.create_model("mgic_resnet56", 5, group_size=4, in_chans=1)
    assert str(model) == str(ours)
    assert timm.create_model("mgic_resnet56").num_classes == 10
    assert set(timm.list_models("*mgic*")) == {name for name in NAMES if name[0] == "m"}


def test_pretrained_weights_are_refused(timm):
    with pytest.raises(WeightsError, match="no pretrained weights of mgic_resnet50, but those of"):
        timm.create_model("mgic_resnet50", pretrained=True)
    with pytest.raises(ValueError, match="mgic_resnet56 does not take drop_block_rate"):
        timm.create_model("mgic_resnet56", drop_block_rate=0.1)


def test_torchvision_gets_scores_by_name_for_masks():
    from torchvision.models import get_model

    register_with_torchvision()
    options = {"weights": None, "weights_backbone": None, "aux_loss": False, "progress": False}
    model = get_model("lraspp_mgic_small", num_classes=5, **options).eval()
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        y = model(x)
        assert list(y) == ["out"]
        assert_close(y["out"], model.segmenter(x), rtol=0, atol=0)
    assert y["out"].shape == (1, 5, 64, 96)
    classifier = get_model("mgic_resnet56", weights=None, progress=False)
    assert classifier.num_classes == 10


@pytest.mark.parametrize("argument", ["weights", "weights_backbone"])
def test_weights_that_do_not_exist_are_refused_under_torchvisions_names(argument):
    from torchvision.models import get_model

    register_with_torchvision()
    with pytest.raises(ValueError, match=f"no pretrained .*, got {argument}='DEFAULT'; checkpoint"):
        get_model("lraspp_mgic_small", **{argument: "DEFAULT"})
    with pytest.raises(NotImplementedError, match="aux_loss must be False"):
        get_model("lraspp_mgic_small", aux_loss=True)


def test_registering_twice_changes_nothing(timm):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_with_timm()
