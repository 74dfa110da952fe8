"""Groups of convolutions merged: for a runtime's blocks of channels, or where that is faster."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mgic_geo.conversion import computed_tensors
from mgic_vision.layers import GroupedConv2d
from mgic_vision.ops.kernel import can_change

BLOCK = 8
WIDEST = 128  # channels of a group that are tried: wider ones are zeros for the most part
GAIN = 0.9  # of the time, at most: as much as timings vary

_log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


def merge_groups(model: Model, *, block: int = BLOCK) -> Model:
    r"""An equal network whose grouped convolutions fit a runtime's blocks of channels.

    ONNX Runtime keeps channels of an image in blocks, 8 on processors with AVX2 and 16 with
    AVX-512. A grouped convolution stays in that order where the block divides the width of a group
    on both sides; others are slow, and take every sum, norm and activation after them out of that
    order. Here as few groups as make the block divide become one, with zeros between them. In a
    network of MGIC these are above all the depthwise changes of width, of one channel in and
    several out.

    Depthwise convolutions that keep their width, dense ones, and those that no merging makes fit
    are left. Use it after :func:`mgic_vision.fuse` and in front of the export to ONNX; for PyTorch
    itself ``fuse(..., sample=x)`` measures what is faster.

    Args:
        model: A network with :class:`torch.nn.Conv2d`; it is left as it is.
        block: Channels in a block of the runtime.

    Cost:
        A merged convolution has as many times the weights and multiply-adds as groups became one.

    Raises:
        ValueError: If ``block`` is below 1.

    Example:
        >>> from mgic_vision import create_model, fuse
        >>> model = fuse(create_model("mgic_resnet56", depth=8).eval(), native="never")
        >>> merged, x = merge_groups(model), torch.rand(1, 3, 32, 32)
        >>> torch.testing.assert_close(merged(x), model(x), rtol=1e-4, atol=1e-4)
    """
    if block < 1:
        raise ValueError(f"block must be at least 1 channel, got {block}")
    merged = copy.deepcopy(model, computed_tensors(model))
    for module in merged.modules():
        if isinstance(module, nn.Conv2d) and can_change(module):
            _merge_(module, _groups_to_merge(module, block))
    return merged


class MergedConv2d(GroupedConv2d):
    """A convolution whose groups were merged because that is faster; it prints what was measured.

    Shape:
        - As the convolution.
    """

    measured: str

    def extra_repr(self) -> str:
        """The convolution as it is now, and what it was."""
        return f"{super().extra_repr()}, {self.measured}"


def merge_faster_(model: nn.Module, sample: Tensor) -> None:
    """Merge groups wherever a measurement says that it is faster, in place.

    Libraries for GPUs may take longer for many narrow groups than for a few wide ones that are
    zeros for the most part. Which are faster depends on the card, the library, the type and the
    sizes: every grouped convolution that PyTorch itself runs on ``sample`` is timed as it is and
    with groups of up to 128 channels. One that is at least a tenth faster is kept, logged, and says
    so when the network is printed.

    Args:
        model: A network in evaluation mode, on the device where it will run.
        sample: Images such as will come.

    Shape:
        - ``sample``: ``(B, C, H, W)``.

    References:
        https://github.com/pytorch/pytorch/issues/73764, grouped convolutions on a GPU.
    """
    names = {module: name for name, module in model.named_modules()}
    calls = _Calls(module for module in names if isinstance(module, nn.Conv2d))
    with torch.no_grad(), calls:
        model(sample)
    fastest: dict[tuple[object, ...], tuple[int, str]] = {}
    for conv, x in calls.inputs.items():
        kind = repr(conv), x.shape, x.stride(), x.dtype
        if kind not in fastest:
            fastest[kind] = _find_fastest(conv, torch.randn_like(x, device=sample.device))
        count, measured = fastest[kind]
        if count > 1:
            _merge_(conv, count)
            conv.__class__ = MergedConv2d
            assert isinstance(conv, MergedConv2d)
            conv.measured = measured
            _log.info("%s: %s", names[conv], conv)


class _Calls(TorchFunctionMode):
    """Sees which convolutions PyTorch itself runs, and what images they get."""

    def __init__(self, convs: Iterable[nn.Conv2d]) -> None:
        super().__init__()
        self.convs = {id(conv.weight): conv for conv in convs if conv.groups > 1}
        self.inputs: dict[nn.Conv2d, Tensor] = {}  # without their values

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        conv = self.convs.get(id(args[1])) if func is torch.conv2d else None
        if conv is not None:
            self.inputs[conv] = args[0].to("meta")
        return func(*args, **(kwargs or {}))


def _find_fastest(conv: nn.Conv2d, x: Tensor) -> tuple[int, str]:
    """How many groups are to become one, and what was measured."""
    widths = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    counts = [
        count
        for count in range(2, conv.groups + 1)
        if conv.groups % count == 0 and count * max(widths) <= WIDEST
    ]
    if widths == (1, 1) or not counts:  # libraries know depthwise convolutions
        return 1, ""
    times = {1: _time(conv, x)}
    for count in counts:
        merged = copy.deepcopy(conv)
        _merge_(merged, count)
        times[count] = _time(merged, x)
    best = min(times, key=lambda count: times[count])
    if times[best] > GAIN * times[1]:
        return 1, ""
    took = " ms, not ".join(f"{1e3 * times[count]:.3g}" for count in (best, 1))
    return best, f"merged from {conv.groups} groups: {took} ms"


def _time(conv: nn.Conv2d, x: Tensor) -> float:
    """Seconds of a call."""
    from torch.utils.benchmark import Timer

    timer = Timer(
        "with torch.no_grad():\n    conv(x)",
        globals={"torch": torch, "conv": conv, "x": x},
        num_threads=torch.get_num_threads(),
    )
    return timer.blocked_autorange(min_run_time=0.05).median


def _groups_to_merge(conv: nn.Conv2d, block: int) -> int:
    """Fewest groups that have to become one; 1 where none has or none does."""
    inner, outer = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    if inner == outer == 1:
        return 1  # runtimes know depthwise convolutions
    for count in range(1, conv.groups + 1):
        if conv.groups % count == count * inner % block == count * outer % block == 0:
            return count
    return 1


def _merge_(conv: nn.Conv2d, count: int) -> None:
    """Make one group of every ``count``, with zeros where they did not see each other."""
    if count == 1:
        return
    groups = conv.groups // count
    weight = conv.weight.detach().unflatten(0, (groups, count, -1))  # (groups, count, out, in, ...)
    own = torch.eye(count, dtype=weight.dtype, device=weight.device)
    blocks = torch.einsum("gcoihw,cd->gcodihw", weight, own)
    wide = blocks.flatten(3, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
    conv.weight = nn.Parameter(wide, requires_grad=conv.weight.requires_grad)
    conv.groups = groups
