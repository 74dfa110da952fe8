"""The fused norm and activation against torch's own, in double precision."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch_geometric.nn import BatchNorm

from mgic_geo.nn.norm_act import norm_act
from mgic_geo.ops.batch_norm_act import ACTIVATIONS
from tests.clouds import disturb_norms
from tests.kernels import needs_compiler


def features(rows: int, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(rows, channels, generator=generator) + 5


@pytest.fixture
def only_fused(monkeypatch):
    """Let torch's own batch norm fail."""

    def refuse(*args, **kwargs):
        raise AssertionError("torch's batch norm was called")

    monkeypatch.setattr(nn.BatchNorm1d, "forward", refuse)


@needs_compiler
def test_a_large_mean_costs_no_more_digits_than_the_input_has(only_fused):
    x = features(4000, 8) + 3000
    y = norm_act(nn.BatchNorm1d(8), None, x)
    double = nn.functional.batch_norm(x.double(), None, None, training=True)
    assert_close(y.double(), double, rtol=0, atol=2e-4)  # 3,000 has seven digits


@needs_compiler
@pytest.mark.parametrize("momentum", [0.1, None, 0.0])
@pytest.mark.parametrize("wrap", [False, True])
def test_running_statistics_move_as_those_of_torch(momentum, wrap):
    fused, plain = (BatchNorm(5, momentum=momentum) for _ in range(2))
    for scale in (1.0, 2.0, 0.5):
        x = features(40, 5) * scale
        norm_act(fused if wrap else fused.module, nn.ReLU(), x)
        plain(x)
    assert_close(fused.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-5)


@needs_compiler
def test_norm_without_running_statistics_takes_those_of_the_batch_in_evaluation(only_fused):
    norm = nn.BatchNorm1d(3, track_running_stats=False).eval()
    assert_close(norm_act(norm, None, features(50, 3)).mean(0), torch.zeros(3), rtol=0, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("act", [nn.ReLU(), nn.Hardswish()])
def test_gradients_of_gradients_equal_those_of_torch(act):
    def curvature(apply):
        x, norm = features(30, 4).requires_grad_(), nn.BatchNorm1d(4)
        torch.manual_seed(1)
        disturb_norms(norm)
        y = apply(norm, x)
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (x, *norm.parameters()))

    fused = curvature(lambda norm, x: norm_act(norm, act, x.tanh()))
    plain = curvature(lambda norm, x: act(norm(x.tanh())))
    assert_close(fused, plain, rtol=1e-3, atol=1e-3)


CALLED_AS_THEY_ARE = {
    "evaluation": (nn.BatchNorm1d(4).eval(), nn.ReLU(), features(6, 4)),
    "another norm": (nn.LayerNorm(4), nn.ReLU(), features(6, 4)),
    "another activation": (nn.BatchNorm1d(4), nn.GELU(), features(6, 4)),
    "double": (nn.BatchNorm1d(4).double(), nn.ReLU(), features(6, 4).double()),
    "three axes": (nn.BatchNorm1d(4), nn.ReLU(), features(6, 8).view(6, 4, 2)),
    "a lone node": (BatchNorm(4, allow_single_element=True), nn.ReLU(), features(1, 4)),
    "across processes": (nn.SyncBatchNorm(4).eval(), nn.ReLU(), features(6, 4)),
}


@pytest.mark.parametrize("case", CALLED_AS_THEY_ARE)
def test_other_norms_and_activations_are_called_as_they_are(case, ran):
    norm, act, x = CALLED_AS_THEY_ARE[case]
    assert_close(norm_act(norm, act, x), act(norm(x)))
    assert "compiled" not in ran("batch_norm_act")


def test_a_batch_of_one_is_refused_as_torch_does():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm_act(nn.BatchNorm1d(4), nn.ReLU(), features(1, 4))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("activation", ACTIVATIONS.values())
@pytest.mark.parametrize("affine", [True, False])
def test_gradients_do_not_depend_on_the_order_in_memory(activation, affine):
    x, grad = torch.randn(2, 300, 8, generator=torch.Generator().manual_seed(0))
    found = []
    strided = torch.stack([x, x + 1], -1)[..., 0]  # has no kernel forward
    assert not strided.is_contiguous()
    for each in (x, strided):
        parts = torch.linspace(0.5, 2, 8), torch.linspace(-1, 1, 8)
        inputs = [tensor.requires_grad_() for tensor in (each, *(parts if affine else ()))]
        missing = () if affine else (None, None)
        y, statistics = torch.ops.mgic.batch_norm_act(*inputs, *missing, 1e-5, activation)
        found.append((y, statistics, *torch.autograd.grad(y, inputs, grad)))
    assert_close(*found, rtol=1e-4, atol=1e-4)
