"""Operators are the same called directly and through PyTorch's dispatcher, which sees them."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from mgic_geo import create_model
from mgic_geo.nn.grouped_linear import grouped_linear
from mgic_geo.ops import operator
from tests.kernels import needs_compiler

POINTS = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) // 20


class Names(TorchDispatchMode):
    """The operators called meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def gradients(name: str) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    model = create_model(name, 4, width=16, k=4)
    loss = nn.functional.cross_entropy(model(*POINTS), torch.tensor([0, 1]))
    return loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


@pytest.mark.parametrize("name", ["mgic_diffgcn", "mgic_dgcnn"])
def test_both_ways_to_an_operator_give_the_same(name, monkeypatch):
    direct = gradients(name)
    with Names() as modes:
        assert_close(gradients(name), direct, rtol=0, atol=0)
    own = {each for each in modes.names if each.startswith("mgic::")}
    assert own >= {"mgic::knn"}
    monkeypatch.setattr(operator, "is_observed", lambda inputs: True)
    assert_close(gradients(name), direct, rtol=0, atol=0)


def test_nobody_looking_means_no_dispatcher(monkeypatch):
    def refuse(*inputs):
        raise AssertionError("through the dispatcher")

    monkeypatch.setattr("torch._library.custom_ops.CustomOpDef.__call__", refuse)
    gradients("mgic_diffgcn")


def _twice(x: Tensor) -> Tensor:
    return 2 * x


twice = operator.Operation(
    "mgic_test::twice",
    _twice,
    operator.Kernel("sum", lambda x: x + x, lambda x: None),
    fake=torch.empty_like,
    setup=lambda ctx, inputs, output: None,
    backward=lambda ctx, grad: twice(grad),
)


@needs_compiler
def test_a_tensor_without_content_gets_a_shape():
    mode = FakeTensorMode()
    x, weight = (mode.from_tensor(torch.ones(*shape)) for shape in ((5, 8), (2, 3, 4)))
    assert grouped_linear(x, weight).shape == (5, 6)


def test_an_operator_is_one_node_to_the_compiler():
    x = torch.ones(3, requires_grad=True)
    y = torch.compile(twice, backend="aot_eager", fullgraph=True)(x)
    assert_close(torch.autograd.grad(y.sum(), x)[0], 2 * torch.ones(3))
