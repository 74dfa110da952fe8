"""What a kernel of the way back gets from a forward pass that had none."""

import pytest
import torch
from torch.testing import assert_close

from mgic_geo.ops.batch_norm_act import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.mark.parametrize("activation", ACTIVATIONS.values())
@pytest.mark.parametrize("affine", [True, False])
def test_gradients_do_not_depend_on_the_order_in_memory(activation, affine):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, generator=generator)
    grad = torch.randn(300, 8, generator=generator)
    parts = [torch.linspace(0.5, 2, 8), torch.linspace(-1, 1, 8)] if affine else [None, None]
    found = []
    for each in (x, torch.stack([x, x + 1], -1)[..., 0]):  # the second has no kernel forward
        inputs = [t if t is None else t.detach().clone() for t in parts]
        inputs = [each.detach(), *inputs]
        for tensor in inputs:
            if tensor is not None:
                tensor.requires_grad_()
        y, statistics = torch.ops.mgic.batch_norm_act(*inputs, 1e-5, activation)
        wanted = [tensor for tensor in inputs if tensor is not None]
        found.append((y, statistics, *torch.autograd.grad(y, wanted, grad)))
    assert not torch.stack([x, x + 1], -1)[..., 0].is_contiguous()
    for one, other in zip(*found, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-4)
