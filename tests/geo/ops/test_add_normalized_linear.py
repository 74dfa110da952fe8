"""A prolongation, its norm and the sum behind it as one operation, against the three in double."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mgic_geo import GroupedLinear
from mgic_geo.nn.correction import GraphCorrection
from mgic_geo.ops.add_normalized_linear import MIN_ROWS, add_normalized_linear
from mgic_geo.ops.csrc import build

needs_compiler = pytest.mark.skipif(build.library() is None, reason="no C compiler")
# not one input a group: a norm is blind to its scale, and the gradient nothing but rounding
SHAPES = [(8, 8, 4), (1, 8, 8), (2, 8, 4), (3, 5, 7), (12, 4, 2), (5, 9, 4)]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correction(shape: tuple[int, int, int], affine: bool = True) -> GraphCorrection:
    """Of groups, and the outputs and inputs of each; scales and shifts of both signs."""
    groups, rows, columns = shape
    prolong = GroupedLinear(groups * columns, groups * rows, groups=groups, bias=False)
    prolong.weight.data = draw(*prolong.weight.shape, seed=1)
    made = GraphCorrection(prolong, nn.BatchNorm1d(groups * rows, affine=affine))
    for seed, parameter in enumerate(made.norm.parameters()):
        parameter.data = draw(*parameter.shape, seed=seed)
    return made


def results(shape, module, num_rows, offset, *, double: bool) -> dict[str, Tensor]:
    groups, rows, columns = shape
    module = copy.deepcopy(module)
    addend = draw(num_rows, groups * rows, seed=2)
    x = draw(num_rows, groups * columns, seed=3) + offset
    grad = draw(num_rows, groups * rows, seed=4)
    if double:
        module, addend, x, grad = (each.double() for each in (module, addend, x, grad))
    addend.requires_grad_()
    x.requires_grad_()
    y = module(x, addend)
    y.backward(grad)
    found = {"y": y, "addend": addend.grad, "x": x.grad}
    found |= {name: parameter.grad for name, parameter in module.named_parameters()}
    return found | dict(module.named_buffers())


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_rows", [256, 700, 5000])
@pytest.mark.parametrize(("affine", "offset"), [(True, 0.0), (False, 3.0), (True, 100.0)])
def test_values_gradients_and_statistics_equal_double(shape, num_rows, affine, offset, ran):
    module = correction(shape, affine)
    found = results(shape, module, num_rows, offset, double=False)
    assert ran("add_normalized_linear") == {"compiled": 1}
    expected = results(shape, module, num_rows, offset, double=True)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        size = expected[name].abs().max()
        tolerance = 2e-5 if offset < 100 else 5e-4  # inputs know their own last figures only
        assert_close(tensor.double() / size, expected[name].double() / size, rtol=0, atol=tolerance)


def seen(module: nn.Module) -> list[Tensor]:
    """What a module returns, from now on."""
    outputs: list[Tensor] = []
    module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    return outputs


@pytest.mark.parametrize(
    "case", ["evaluation", "few rows", "bias", "hook", "map's hook", "other map"]
)
def test_others_are_called_one_after_the_other(case, ran):
    module = correction((4, 8, 4))
    num_rows, outputs = MIN_ROWS - (case == "few rows"), []
    if case == "evaluation":
        module.eval()
    elif case == "bias":
        module.transfer = GroupedLinear(16, 32, groups=4)
    elif case == "hook":
        outputs = seen(module.norm)
    elif case == "map's hook":
        outputs = seen(module.transfer)
    elif case == "other map":
        module.transfer = nn.Linear(16, 32)
    addend, x = draw(num_rows, 32, seed=2), draw(num_rows, 16, seed=3)
    twin = copy.deepcopy(module)
    assert_close(module(x, addend), addend + twin.norm(twin.transfer(x)))
    assert "compiled" not in ran("add_normalized_linear")
    assert bool(outputs) == ("hook" in case)


@needs_compiler
def test_is_differentiable_twice():
    weight = correction((2, 8, 4)).transfer.weight.detach()
    inputs = [draw(300, 16, seed=2), draw(300, 8, seed=3), weight]
    inputs = [tensor.requires_grad_() for tensor in inputs]

    def second(inputs, add):
        y = add(*inputs)
        grads = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(grad.square().sum() for grad in grads), inputs)

    def plain(addend, x, weight):
        mapped = x @ torch.block_diag(*weight).T
        return addend + nn.functional.batch_norm(mapped, None, None, training=True)

    def fused(addend, x, weight):
        return add_normalized_linear(addend, x, weight, None, None, 1e-5)[0]

    found = second(inputs, fused)
    expected = second([tensor.detach().double().requires_grad_() for tensor in inputs], plain)
    for one, other in zip(found, expected, strict=True):
        assert_close(one.double() / other.abs().max(), other / other.abs().max(), rtol=0, atol=1e-4)
