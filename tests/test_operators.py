"""Operators are the same called directly and through PyTorch's dispatcher, which sees them."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from mgic_geo import create_model, operators

POINTS = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) // 20


class Names(TorchDispatchMode):
    """The operators called meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


class Marked(Tensor):
    """A tensor that wants to see what is done with it."""

    seen: ClassVar[list[str]] = []

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func.name())
        plain = [arg.as_subclass(Tensor) if isinstance(arg, cls) else arg for arg in args]
        return func(*plain, **(kwargs or {}))


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
    monkeypatch.setattr(operators, "_is_observed", lambda inputs: True)
    assert_close(gradients(name), direct, rtol=0, atol=0)


def test_nobody_looking_means_no_dispatcher(monkeypatch):
    def refuse(*inputs):
        raise AssertionError("through the dispatcher")

    monkeypatch.setattr("torch._library.custom_ops.CustomOpDef.__call__", refuse)
    gradients("mgic_diffgcn")


def _twice(x: Tensor) -> Tensor:
    return 2 * x


twice = operators.Operator(
    "mgic_test::twice",
    _twice,
    torch.empty_like,
    backward=lambda ctx, grad: twice(grad),
    setup=lambda ctx, inputs, output: None,
)


def test_a_tensor_that_wants_to_see_operators_sees_them():
    x = torch.ones(3)
    assert_close(twice(x.as_subclass(Marked)).as_subclass(Tensor), 2 * x)
    assert "mgic_test::twice" in Marked.seen


def test_an_operator_is_one_node_to_the_compiler():
    x = torch.ones(3, requires_grad=True)
    y = torch.compile(twice, backend="aot_eager", fullgraph=True)(x)
    assert_close(torch.autograd.grad(y.sum(), x)[0], 2 * torch.ones(3))
