"""When kernels in Triton run: where they are asked for, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from mgic_geo.ops.compiled import why_not_in_autocast
from mgic_geo.ops.csrc.build import SWITCH
from mgic_geo.ops.operator import ELSEWHERE

TYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not_triton(*tensors: Tensor | None) -> str | None:
    """Why a kernel in Triton does not take these tensors, in words; ``None`` where it does.

    ``MGIC_KERNELS=triton`` asks for them: none has been seen to be faster on a GPU yet. With
    ``TRITON_INTERPRET=1`` Triton's interpreter runs them on a processor, slowly, for tests.
    """
    there = [x for x in tensors if x is not None]
    if not is_asked_for():
        return ELSEWHERE if there[0].is_cpu else f"{SWITCH}=triton asks for it"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if there[0].is_cpu and not _interprets():
        return ELSEWHERE
    for x in there:
        if x.dtype not in TYPES:
            return f"a tensor is {x.dtype}, not one of float32, bfloat16 and float16"
    return None


def why_not_multiply_in_triton(*tensors: Tensor | None) -> str | None:
    """As :func:`why_not_triton`, of factors and terms of a matrix product."""
    reason = why_not_triton(*tensors)
    if reason is not None:
        return reason
    there = [x for x in tensors if x is not None]
    types = {x.dtype for x in there}
    if len(types) > 1:
        return f"types differ: {sorted(map(str, types))}"
    return next(filter(None, map(why_not_in_autocast, {x.device.type for x in there})), None)


@torch.compiler.assume_constant_result
def is_asked_for() -> bool:
    """Whether ``MGIC_KERNELS`` says ``triton``."""
    return os.environ.get(SWITCH) == "triton"


@torch.compiler.assume_constant_result
def _interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
