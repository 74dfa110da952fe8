"""The form of a network that is deployed."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from mgic_geo.conversion import computed_tensors
from mgic_geo.ops.gpu.choice import is_asked_for
from mgic_geo.ops.inputs import check_module, check_tensors
from mgic_vision.folding import fold_norms_
from mgic_vision.merging import merge_faster_
from mgic_vision.ops.cycle import NativeCycle
from mgic_vision.ops.grouped_conv import NativeConv
from mgic_vision.ops.kernel import available
from mgic_vision.ops.level import FusedLevel
from mgic_vision.ops.packed import PackedModule

NATIVE = ("auto", "never")

Model = TypeVar("Model", bound=nn.Module)


def fuse(model: Model, *, native: str = "auto", sample: Tensor | None = None) -> Model:
    """An equal network for inference alone, with less to compute.

    Batch norms are folded into the linear maps next to them wherever algebra allows it (see
    :func:`mgic_vision.folding.fold_norms_`), cycles run in correction form, and convolutions in
    channels-last order, in which grouped ones are fast on a processor. A cycle of bottlenecks,
    inverted residuals or basic blocks is one call of a kernel compiled at first use, which takes
    each group of each level through all its convolutions while it is in cache; so is a convolution
    with narrow groups where the width changes. The result has the interface of ``model`` (features,
    head) and exports through ``torch.export`` and to ONNX, without kernels.

    Args:
        model: A network of this package, trained; also one of torchvision or timm from the
            registry. It is left as it is.
        native: ``"auto"`` for the kernels where they can be compiled (a processor, float32) and
            plain PyTorch elsewhere, ``"never"`` for plain PyTorch. With ``MGIC_KERNELS=triton``
            levels of inverted residuals without squeeze-excite run in a kernel in Triton on a GPU,
            which nobody has timed.
        sample: Images such as will come, on the device of ``model``. Grouped convolutions are timed
            on what they get, and groups merged where that is faster: see
            :func:`mgic_vision.merging.merge_faster_`. These print what was measured, and their
            weights have another shape.

    Returns:
        A network in evaluation mode whose parameters need no gradients; its values are those of
        ``model.eval()`` up to rounding. It is a network as others are: it may be moved, cast,
        copied, saved and fused again, and its state, whose names and shapes are the same with and
        without kernels, may be replaced by that of another fused network. Kernels take the new
        weights, unless these are written by way of ``weight.data``.

    Raises:
        ValueError: If ``native`` is neither.

    Example:
        >>> from mgic_vision import create_model
        >>> model = create_model("mgic_resnet56", depth=8).eval()
        >>> x = torch.rand(2, 3, 32, 32)
        >>> torch.testing.assert_close(fuse(model)(x), model(x), rtol=1e-4, atol=1e-4)
    """
    check_module(model)
    check_tensors(sample=sample)
    if native not in NATIVE:
        raise ValueError(f"native must be one of {', '.join(NATIVE)}, got {native!r}")
    with torch.inference_mode(False):  # tensors made in it do not count their changes
        fused = copy.deepcopy(model, computed_tensors(model)).eval().requires_grad_(False)
        for module in fused.modules():
            if isinstance(module, PackedModule):
                module.give_back()
        fold_norms_(fused)
        fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if native == "auto" and is_asked_for():
            for module in fused.modules():
                FusedLevel.take(module)
        if native == "auto" and available():
            _use_kernels_(fused)
        if sample is not None:
            merge_faster_(fused, sample)
    return fused


def _use_kernels_(module: nn.Module) -> None:
    """Run cycles and convolutions with narrow groups in kernels; names in the state stay."""
    taken = NativeCycle.take(module) or NativeConv.take(module)
    if taken is not None:
        taken.prepare()
        return
    for child in module.children():
        _use_kernels_(child)
