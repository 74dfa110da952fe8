"""A prolongation, its norm and the sum behind it as one operation, against the three in double."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mgic_geo import GroupedLinear
from mgic_geo.nn.correction import GraphCorrection
from mgic_geo.ops.add_normalized_linear import MIN_ROWS, add_normalized_linear
from tests.kernels import needs_compiler


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correction(shape: tuple[int, int, int]) -> GraphCorrection:
    """Of groups, and the outputs and inputs of each; scales and shifts of both signs."""
    groups, rows, columns = shape
    prolong = GroupedLinear(groups * columns, groups * rows, groups=groups, bias=False)
    prolong.weight.data = draw(*prolong.weight.shape, seed=1)
    made = GraphCorrection(prolong, nn.BatchNorm1d(groups * rows))
    for seed, parameter in enumerate(made.norm.parameters()):
        parameter.data = draw(*parameter.shape, seed=seed)
    return made


def seen(module: nn.Module) -> list[Tensor]:
    """What a module returns, from now on."""
    outputs: list[Tensor] = []
    module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    return outputs


@needs_compiler
def test_in_training_the_three_are_one(ran):
    module = correction((4, 8, 4))
    module(draw(MIN_ROWS, 16, seed=3), draw(MIN_ROWS, 32, seed=2))
    assert ran("add_normalized_linear") == {"compiled": 1}


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
