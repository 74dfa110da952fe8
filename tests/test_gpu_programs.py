"""Kernels in Triton, compiled for a GPU that is not there: its interpreter takes more than that."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels import INTERPRETS
from tests.operators import IN_TRITON, make_inputs

triton = pytest.importorskip("triton", reason="Triton is not installed")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(INTERPRETS, reason="Triton interprets in this process"),
]
INPUTS = make_inputs(torch.Generator().manual_seed(0))
FLOATS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
TYPES = {**FLOATS, torch.int64: "*i64"}


def type_of(value: object) -> str:
    """As Triton's launcher names it; the number 1 is a constant."""
    if isinstance(value, Tensor):
        return TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "constexpr" if value == 1 else "i32"


def compile_for(capability: int, kernel: JITFunction, *args: Any, **options: Any) -> Any:
    """What a launch with these arguments would run."""
    values = dict(zip(kernel.arg_names, args, strict=False))
    values |= {name: options.pop(name) for name in kernel.arg_names if name in options}
    fixed = {p.name for p in kernel.params if p.is_constexpr}
    signature = {n: "constexpr" if n in fixed else type_of(v) for n, v in values.items()}
    constants = {n: values[n] for n, kind in signature.items() if kind == "constexpr"}
    source = ASTSource(kernel, signature, constants)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", IN_TRITON)
def test_every_kernel_compiles(name, dtype, monkeypatch, tmp_path):
    programs = []

    def compile_instead(self: JITFunction, *args: Any, grid: object, warmup: bool, **options: Any):
        programs.append(compile_for(80, self, *args, **options))

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(JITFunction, "run", compile_instead)
    inputs = [
        x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in INPUTS[name]
    ]
    if name == "add_normalized_linear_backward":  # statistics are in float32
        inputs[-2] = inputs[-2].float()
    IN_TRITON[name].run(*inputs)
    assert programs
    assert all("cubin" in program.asm for program in programs)
