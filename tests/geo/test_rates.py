import pytest
import torch
from torch.testing import assert_close

import mgic_vision
from mgic_geo import create_model, level_plan, param_groups
from mgic_geo.nn.structured_linear import StructuredLinear


def rates(model, **options):
    groups = param_groups(model, 0.1, **options)
    return {parameter: group["lr"] for group in groups for parameter in group["params"]}


def test_rates_follow_width_inputs_and_length_of_the_chain():
    model = StructuredLinear(128, 64, group_size=8, coarse_size=16)
    found, block = rates(model), model.block
    for number, level in enumerate(level_plan(64, group_size=8, coarse_size=16)):
        inputs = block.layers[number].weight.size(-1)
        expected = 0.1 * 128 / inputs / (2 * number + 1)  # 128 is the dense map's number of inputs
        assert_close(found[block.layers[number].weight], expected)
        if not level.coarsest:
            for transfer in (block.restrict[number], block.prolong[number]):
                expected = 0.1 * 64 / transfer.weight.size(-1) / (2 * number + 3)
                assert_close(found[transfer.weight], expected)
    assert found[model.bias] == 0.1


@pytest.mark.parametrize(
    "model",
    [create_model("mgic_dgcnn", cycle="additive"), mgic_vision.create_model("mgic_resnet56")],
)
def test_every_parameter_is_there_once_and_the_optimizer_takes_them(model):
    groups = param_groups(model, 0.01)
    parameters = [parameter for group in groups for parameter in group["params"]]
    assert len(parameters) == len(set(parameters))
    assert set(parameters) == set(model.parameters())
    assert len(groups) > 2
    torch.optim.AdamW(groups, lr=0.01)


def test_equal_rates_are_one_group():
    model = StructuredLinear(16, 16, group_size=4)
    assert [group["lr"] for group in param_groups(model, 0.1, rule="equal")] == [0.1]


def test_unknown_rules_and_rates_are_refused():
    model = StructuredLinear(16, 16, group_size=4)
    with pytest.raises(ValueError, match="rule must be one of structure, equal, got 'x'"):
        param_groups(model, 0.1, rule="x")
    with pytest.raises(ValueError, match="lr must be above 0, got 0"):
        param_groups(model, 0.0)
