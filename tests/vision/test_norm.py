"""The compiled batch norm of images against torch's, in double precision."""

import copy

import pytest
import torch
from image_kernels import needs_compiler
from torch import Tensor, nn
from torch.testing import assert_close

from mgic_vision import create_model
from mgic_vision.norm import BatchNorm2d, Chain


def drawn(norm: nn.Module) -> nn.Module:
    """The norm with a scale and a shift that are not those of the start."""
    generator = torch.Generator().manual_seed(1)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=generator)
    return norm


def images(*shape: int, order: torch.memory_format = torch.channels_last) -> Tensor:
    x = 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + 5
    return x.contiguous(memory_format=order)


@needs_compiler
@pytest.mark.parametrize("shape", [(2, 1, 3, 5), (4, 21, 9, 7), (3, 200, 13, 6), (2, 960, 7, 7)])
@pytest.mark.parametrize("affine", [True, False])
def test_norm_and_gradients_equal_double(shape, affine, ran):
    norm = drawn(BatchNorm2d(shape[1], affine=affine))
    x, grad = images(*shape).requires_grad_(), images(*shape, order=torch.contiguous_format)

    def results(apply, inputs):
        y = apply(*inputs)
        return y.detach(), *torch.autograd.grad(y, inputs, grad.to(y.dtype))

    def plain(x, weight=None, bias=None):
        return nn.functional.batch_norm(x, None, None, weight, bias, training=True, eps=norm.eps)

    inputs = x, *norm.parameters()
    ours = results(lambda x, *_: norm(x), inputs)
    assert ran("batch_norm_act") == {"compiled": 1}
    single = results(plain, inputs)
    double = results(plain, [z.detach().double().requires_grad_() for z in inputs])
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for one, other, exact in zip(ours, single, double, strict=True):
        scale = exact.abs().max().clamp_min(1.0)
        tolerance = max(2e-6, 2 * float((other - exact).abs().max() / scale))  # torch's own error
        assert_close(one.double() / scale, exact / scale, rtol=0, atol=tolerance)


@needs_compiler
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_move_as_those_of_torch(momentum):
    ours, torchs = BatchNorm2d(5, momentum=momentum), nn.BatchNorm2d(5, momentum=momentum)
    for scale in (1, 3):
        ours(scale * images(2, 5, 4, 4))
        torchs(scale * images(2, 5, 4, 4))
    assert_close(ours.state_dict(), torchs.state_dict())


CALLED_AS_THEY_ARE = {
    "evaluation": lambda: (BatchNorm2d(4).eval(), images(2, 4, 3, 3)),
    "another order": lambda: (
        BatchNorm2d(4),
        images(2, 4, 3, 3, order=torch.contiguous_format),
    ),
    "double": lambda: (BatchNorm2d(4).double(), images(2, 4, 3, 3).double()),
    "bfloat16": lambda: (BatchNorm2d(4).bfloat16(), images(2, 4, 3, 3).bfloat16()),
}


@pytest.mark.parametrize("case", CALLED_AS_THEY_ARE)
def test_other_inputs_go_to_torch(case, ran):
    norm, x = CALLED_AS_THEY_ARE[case]()
    twin = nn.BatchNorm2d(4).to(x.dtype).train(norm.training)
    assert_close(norm(x), twin(x), rtol=1e-5, atol=1e-5)
    rounding = max(1e-5, torch.finfo(x.dtype).eps)
    assert_close(norm.state_dict(), twin.state_dict(), rtol=rounding, atol=rounding)
    assert "compiled" not in ran("batch_norm_act")


def test_transforms_and_forward_mode_go_through():
    norm, x = BatchNorm2d(3, track_running_stats=False), images(2, 3, 4, 4)

    def loss(scale):
        return nn.functional.relu(norm(x + scale * x.square())).square().sum()

    slope = torch.func.grad(loss)(torch.tensor(1.0))
    along = torch.func.jvp(loss, (torch.tensor(1.0),), (torch.tensor(1.0),))[1]
    assert_close(along, slope, rtol=1e-4, atol=0)  # forward and back, each rounded on its way
    each = torch.func.vmap(norm)(images(8, 3, 4, 4).view(4, 2, 3, 4, 4))
    assert_close(each[0], nn.BatchNorm2d(3)(images(8, 3, 4, 4)[:2]))


@needs_compiler
@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.Hardswish()])
def test_a_norm_and_its_activation_are_one_and_equal_double(act, ran, monkeypatch):
    chain = Chain(nn.Conv2d(3, 6, 1), drawn(BatchNorm2d(6)), act, nn.Tanh())
    plain = copy.deepcopy(chain).double()
    x, grad = images(2, 3, 5, 5), images(2, 6, 5, 5)

    def results(module, dtype):
        y = module(x.to(dtype))
        return y.detach(), *torch.autograd.grad(y, tuple(module.parameters()), grad.to(dtype))

    monkeypatch.setattr(type(act), "forward", None)
    ours = results(chain, torch.float32)
    monkeypatch.undo()
    assert ran("batch_norm_act") == {"compiled": 1}
    assert_close([z.double() for z in ours], list(results(plain, torch.double)), rtol=0, atol=1e-4)


def test_one_value_a_channel_is_refused_as_torch_does():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        BatchNorm2d(3)(images(1, 3, 1, 1))


@needs_compiler
def test_a_networks_norms_are_compiled_in_training_and_become_synchronized(ran):
    model = create_model("mgic_resnet56", depth=8).to(memory_format=torch.channels_last)
    model(images(2, 3, 16, 16)).sum().backward()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert ran("batch_norm_act") == {"compiled": norms}
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert not any(isinstance(module, BatchNorm2d) for module in synchronized.modules())
