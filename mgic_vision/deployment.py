"""The form of a network that is deployed."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from mgic_vision.folding import fold_norms_

Model = TypeVar("Model", bound=nn.Module)


def fuse(model: Model) -> Model:
    """An equal network for inference alone, with less to compute.

    Batch norms are folded into the linear maps next to them wherever algebra allows it (see
    :func:`mgic_vision.folding.fold_norms_`), cycles run in correction form, and convolutions in
    channels-last order, in which grouped ones are fast on a processor. The result has the interface
    of ``model`` (features, head) and exports through ``torch.export`` and to ONNX.

    Args:
        model: A network of this package, trained; also one of torchvision or timm from the
            registry. It is left as it is.

    Returns:
        A network in evaluation mode whose parameters need no gradients; its values are those of
        ``model.eval()`` up to rounding.

    Example:
        >>> from mgic_vision import create_model
        >>> model = create_model("mgic_resnet56", depth=8).eval()
        >>> x = torch.rand(2, 3, 32, 32)
        >>> torch.testing.assert_close(fuse(model)(x), model(x), rtol=1e-4, atol=1e-4)
    """
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    fold_norms_(fused)
    fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fused
