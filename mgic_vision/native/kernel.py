"""What the modules share that run in a compiled kernel."""

from __future__ import annotations

import ctypes
from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from mgic_geo.native import build
from mgic_vision.native import IMAGES

MAX_KERNEL = 9  # side: MAX_TAPS of tiles.h are 81


def keeps_size(conv: nn.Conv2d) -> bool:
    """Whether a convolution is square, keeps the resolution, and is none too large for a kernel."""
    kernel, dilation = conv.kernel_size[0], conv.dilation[0]
    return (
        conv.stride == (1, 1)
        and conv.kernel_size == (kernel, kernel)
        and conv.dilation == (dilation, dilation)
        and kernel % 2 == 1
        and kernel <= MAX_KERNEL
        and conv.padding == (kernel // 2 * dilation,) * 2
        and conv.padding_mode == "zeros"
    )


def run_kernel(name: str, x: Tensor, *arguments: Any) -> None:
    """Call a compiled function, which reports a status.

    Args:
        name: Of the function.
        x: Its input, to be named where something is wrong.
        *arguments: Addresses and numbers.

    Raises:
        MemoryError: There was none for its scratch space.
    """
    library = build.library(IMAGES)
    assert library is not None
    if getattr(library, name)(*arguments):
        raise MemoryError(f"no memory for {name} on {tuple(x.shape)}")


def cycle_bytes() -> int:
    """Memory that cycles called from this thread keep for what passes between their levels.

    It is as large as the largest of them needed, is kept from call to call, and is not torch's.
    """
    library = build.library(IMAGES)
    if library is None:
        return 0
    library.mgic_cycle_bytes.restype = ctypes.c_int64
    return library.mgic_cycle_bytes()


class PackedModule(nn.Module):
    """A module whose weights are laid out for the vectors of this processor, beside those it has.

    What is packed is not part of its state, and is packed again where the module is read from a
    file: another processor may have longer vectors, or no kernels.
    """

    @abstractmethod
    def pack(self) -> None:
        """Register what the kernel takes as buffers that are not persistent."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Pack again."""
        super().__setstate__(state)
        self.pack()
