"""The compiled depthwise convolution of training against torch's, in double precision."""

import copy

import pytest
import torch
from image_kernels import gradients, images, needs_compiler
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from mgic_vision.layers import DepthwiseConv2d
from mgic_vision.ops.kernel import run_kernel

# channels of whole and of broken vectors, of one chunk and of several; images of several strips
SHAPES = [
    (2, 1, 5, 4),
    (3, 8, 7, 7),
    (1, 21, 9, 1),
    (2, 72, 6, 13),
    (5, 100, 3, 3),
    (2, 16, 120, 90),
]


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (7, 1), (9, 1), (3, 2), (5, 3)])
def test_result_and_gradients_equal_double(shape, kernel, dilation, ran):
    conv = DepthwiseConv2d(shape[1], shape[1], kernel_size=kernel, dilation=dilation)
    x, grad = images(*shape).requires_grad_(), images(*shape, seed=1)
    ours = gradients(conv, x, grad)
    assert ran("depthwise") == {"compiled": 1}
    double = gradients(
        copy.deepcopy(conv).double(), x.detach().double().requires_grad_(), grad.double()
    )
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for one, exact in zip(ours, double, strict=True):
        scale = exact.abs().max()
        assert_close(one.double() / scale, exact / scale, rtol=0, atol=3e-6)


@needs_compiler
@pytest.mark.parametrize("needed", ["input", "weight"])
def test_a_gradient_that_nobody_needs_is_left_out(needed, ran):
    conv, x = DepthwiseConv2d(12, 12), images(2, 12, 6, 6).requires_grad_(needed == "input")
    conv.weight.requires_grad_(needed == "weight")
    wanted = x if needed == "input" else conv.weight
    (ours,) = torch.autograd.grad(conv(x).square().sum(), wanted)
    plain = nn.functional.conv2d(x, conv.weight, padding=1, groups=12)
    assert_close(ours, torch.autograd.grad(plain.square().sum(), wanted)[0], rtol=1e-4, atol=1e-4)
    assert ran("depthwise") == {"compiled": 1}


@needs_compiler
def test_gradients_in_any_order_of_memory_and_of_gradients(ran):
    conv, x = DepthwiseConv2d(6, 6, kernel_size=5), images(2, 6, 5, 5).requires_grad_()
    plain = nn.Conv2d(6, 6, 5, padding=2, groups=6, bias=False)
    plain.weight = conv.weight

    def curvature(module):
        (slope,) = torch.autograd.grad(module(x).sin().mean(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (x, conv.weight))

    assert_close(curvature(conv), curvature(plain))
    for order in (torch.contiguous_format, torch.channels_last):
        grad = images(2, 6, 5, 5, seed=2, order=order)
        assert_close(gradients(conv, x, grad), gradients(plain, x, grad), rtol=1e-4, atol=1e-4)
    expanded = torch.ones(1, 1, 1, 1).expand(2, 6, 5, 5)
    assert_close(gradients(conv, x, expanded), gradients(plain, x, expanded), rtol=1e-4, atol=1e-4)
    assert ran("depthwise") == {"compiled": 4}


@needs_compiler
def test_no_image_is_an_empty_result_and_no_pixel_an_error():
    conv, x = DepthwiseConv2d(12, 12, kernel_size=5), images(0, 12, 6, 5).requires_grad_()
    y, grad_x, grad_weight = gradients(conv, x, torch.empty(0, 12, 6, 5))
    assert y.shape == grad_x.shape == x.shape
    assert_close(grad_weight, torch.zeros_like(conv.weight))
    with pytest.raises(ValueError, match=r"height must be from 1 to \d+, got 0"):
        conv(images(2, 12, 0, 5))
    with pytest.raises(ValueError, match=r"width must be from 1 to \d+, got 0"):
        conv(images(2, 12, 6, 0))


@needs_compiler
@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("value", [-1, 0, 10, 2**41, 2**62, -(2**63)])
def test_sizes_that_do_not_fit_are_refused(place, value):
    x, weight = images(2, 12, 6, 5), torch.randn(12, 1, 5, 5)
    sizes = [2, 6, 5, 12, 5, 1]
    sizes[place] = value
    if place == 5 and value == 10:  # of dilation
        sizes[place] = 40
    with pytest.raises((ValueError, MemoryError)):
        run_kernel("mgic_depthwise", x, weight, torch.empty_like(x), *sizes)
    with pytest.raises((ValueError, MemoryError)):
        run_kernel("mgic_depthwise_backward", x, x, weight, torch.empty_like(x), None, *sizes)


@needs_compiler
def test_tensors_that_do_not_fit_are_refused_by_name():
    x, weight, sizes = images(2, 12, 6, 5), torch.randn(12, 1, 5, 5), (2, 6, 5, 12, 5, 1)
    for y, name in ((images(2, 12, 6, 4), "y must have"), (x.double(), "y must be torch.float32")):
        with pytest.raises((ValueError, TypeError), match=name):
            run_kernel("mgic_depthwise", x, weight, y, *sizes)
    with pytest.raises(ValueError, match="weight must have"):
        run_kernel("mgic_depthwise", x, weight[1:], x.clone(), *sizes)
    for grads, name in (((x[:1], None), "grad_x"), ((None, weight[1:]), "grad_weight")):
        with pytest.raises(ValueError, match=f"{name} must have"):
            run_kernel("mgic_depthwise_backward", x, x, weight, *grads, *sizes)


OTHERS = {
    "double": lambda: (DepthwiseConv2d(4, 4).double(), images(2, 4, 5, 5).double()),
    "bfloat16": lambda: (DepthwiseConv2d(4, 4).bfloat16(), images(2, 4, 5, 5).bfloat16()),
    "another order": lambda: (
        DepthwiseConv2d(4, 4),
        images(2, 4, 5, 5, order=torch.contiguous_format),
    ),
    "a stride": lambda: (DepthwiseConv2d(4, 4, stride=2), images(2, 4, 5, 5)),
    "another width": lambda: (DepthwiseConv2d(4, 8), images(2, 4, 5, 5)),
    "a margin wider than ours": lambda: (DepthwiseConv2d(4, 4, dilation=65), images(2, 4, 5, 5)),
    "one tap": lambda: (DepthwiseConv2d(4, 4, kernel_size=1), images(2, 4, 5, 5)),
    "no image": lambda: (DepthwiseConv2d(4, 4), torch.randn(4, 5, 5)),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_convolutions_and_inputs_go_to_torch(case, ran):
    conv, x = OTHERS[case]()
    y = conv(x)
    assert "compiled" not in ran("depthwise")
    assert_close(y, nn.Conv2d.forward(conv, x))


def test_modes_see_a_convolution():
    conv, x = DepthwiseConv2d(3, 3), images(2, 3, 4, 4)
    with FlopCounterMode(display=False) as counter:
        conv(x)
    assert counter.get_total_flops() == 2 * 9 * x.numel()
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_traces_hold_operators_of_pytorch_only():
    conv, x = DepthwiseConv2d(3, 3), images(2, 3, 4, 4)
    traced = torch.jit.trace(conv, x)
    assert {node.kind().partition("::")[0] for node in traced.graph.nodes()} == {"prim", "aten"}
    assert_close(traced(x), conv(x), rtol=1e-4, atol=1e-4)


def test_wrong_channels_are_refused_as_torch_does():
    with pytest.raises(RuntimeError, match="channels"):
        DepthwiseConv2d(4, 4)(images(2, 5, 6, 6))
