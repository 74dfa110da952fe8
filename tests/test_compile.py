"""Every model is one graph to ``torch.compile``, forward and backward, with the eager values.

Those on clouds are compiled in geo/models/test_point_cloud.py, here by Inductor.
"""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import mgic_geo
import mgic_vision
from tests.slow import some

QUICK_IMAGES = "mgic_resnet56"


def agree(model: nn.Module, inputs: tuple, *, backend: str) -> None:
    """Values, gradients and statistics of the compiled model are those of the eager one."""
    torch.compiler.reset()
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend=backend, fullgraph=True, dynamic=False)
    with torch.random.fork_rng():
        expected = model(*inputs)
    with torch.random.fork_rng():
        found = compiled(*inputs)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for y in (expected, found):
        parts = y.values() if isinstance(y, dict) else [y]
        sum(part.square().mean() for part in parts).backward()
    state = zip(model.named_parameters(), twin.parameters(), strict=True)
    for (name, eager), other in state:
        assert (eager.grad is None) == (other.grad is None), name
        if eager.grad is not None:
            # of a bias in front of a norm it is zero: what is found are rounding errors of terms
            # as large as those of the weight
            beside = model.get_submodule(name.rpartition(".")[0]).parameters(recurse=False)
            largest = [p.grad.abs().max() for p in beside if p.grad is not None]
            scale = torch.stack(largest).max().clamp_min(1e-3)
            assert_close(other.grad / scale, eager.grad / scale, rtol=0, atol=1e-3, msg=name)
    for (name, eager), other in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert_close(other, eager, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", some(mgic_vision.list_models(), QUICK_IMAGES))
def test_image_model_is_one_graph(name):
    torch.manual_seed(0)
    size = (5,) if name.startswith("function") else (3, 32, 32)
    options = {"depth": 8} if "depth" in mgic_vision.list_options(name) else {}
    sizes = {"group_size": 16, "coarse_size": 32, "min_levels": 0}  # two levels in the last stage
    options |= sizes if name == QUICK_IMAGES else {}
    model = mgic_vision.create_model(name, 4, **options).train().double()
    # in float32, gradients behind torch's norms are some thousandths off
    agree(model, (torch.rand(4, *size).double(),), backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dgcnn", "mgic_diffgcn"])
def test_point_cloud_model_compiles_with_inductor(name):
    torch.manual_seed(0)
    model = mgic_geo.create_model(name, 4, width=16, k=4).train()
    batch = torch.arange(3).repeat_interleave(12)
    agree(model, (torch.rand(36, 3), batch, 3), backend="inductor")
