import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.models.resnet import BasicBlock

from mgic_geo import MGICBlock
from mgic_vision import convert, create_model, fuse

SMALL = {
    "mgic_resnet56": {"depth": 8},
    "mgic_resnet50": {"layers": (1, 1, 1, 1), "group_size": 16},
    "mgic_mobilenetv3_small": {"group_size": 16, "coarse_size": 16},
}


@pytest.mark.parametrize("name", SMALL)
def test_networks_take_additive_cycles(name):
    torch.manual_seed(0)
    model = create_model(name, 10, cycle="additive", **SMALL[name]).eval()
    blocks = [module for module in model.modules() if isinstance(module, MGICBlock)]
    assert blocks
    assert {block.cycle for block in blocks} == {"additive"}
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        y = model(x)
        assert y.shape == (2, 10)
        assert_close(fuse(model)(x), y, rtol=1e-3, atol=1e-4)
    torch.manual_seed(0)
    other = create_model(name, 10, **SMALL[name]).eval()
    assert other.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        assert (other(x) - y).abs().max() > 1e-4  # another sum of the same weights


def test_functions_of_vectors_take_additive_cycles():
    model = create_model("function_mgic", c_max=32, cycle="additive").eval()
    blocks = [module for module in model.modules() if isinstance(module, MGICBlock)]
    assert {block.cycle for block in blocks} == {"additive"}
    assert model(torch.rand(3, 5)).shape == (3, 1)


def test_converted_blocks_are_additive():
    options = {"group_size": 16, "coarse_size": 32, "include": ["1"]}
    model = nn.Sequential(BasicBlock(64, 64), BasicBlock(64, 64))
    new, report = convert(model, cycle="additive", **options)
    assert report.rows == convert(model, **options)[1].rows
    (block,) = (module for module in new.modules() if isinstance(module, MGICBlock))
    assert block.cycle == "additive"
    assert new.eval()(torch.rand(1, 64, 9, 9)).shape == (1, 64, 9, 9)
    with pytest.raises(ValueError, match="cycle must be one of"):
        convert(model, cycle="v", **options)
