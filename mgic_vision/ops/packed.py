"""Modules whose weights are laid out for the vectors of this processor, beside those they have."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from dataclasses import dataclass
from operator import is_
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from mgic_geo.ops.compiled import why_not_in_autocast
from mgic_geo.ops.operator import (
    REFERENCE,
    hooks_of,
    is_exporting,
    is_traced,
    is_transformed,
    note,
)
from mgic_vision.ops.kernel import available, why_not_compiled


class Sources:
    """What a module computes with, to tell later whether it still is what it was.

    Another tensor in the place of one is noticed, another module once the old one is gone. What
    writes to a tensor by way of ``weight.data``, as ``weight.data.zero_()``, counts no change and
    goes unnoticed. A look costs a microsecond a tensor, most of it spent on fetching what tensors
    are made of; modules would add half of that.

    Args:
        module: Its parameters and buffers, and those of the modules in it, count their changes:
            they were not made in ``torch.inference_mode``.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = list(module.modules())
        self.hooks = [table for part in parts[1:] for table in hooks_of(part)]
        self.tables = [t for part in parts for t in (part._parameters, part._buffers) if t]
        self.found = self._find()
        tensors = [x for x in self.found if x is not None]
        self.state = [(x, x._version, x.data_ptr()) for x in tensors]
        # as long as this memory is held, what lies at another address is something else
        self.held = [x.detach() for x in tensors]
        self.lost: list[object] = []
        self.modules = [weakref.ref(part, self.lost.append) for part in parts]

    def changed(self) -> bool:
        """Whether a tensor was written to, or it or a module was replaced."""
        found = self._find()
        if self.lost or len(found) != len(self.found) or not all(map(is_, found, self.found)):
            return True
        for x, version, place in self.state:
            if x._version != version or x.data_ptr() != place:
                return True
        return False

    def are_hooked(self) -> bool:
        """Whether a hook watches a module inside, whose calls it would miss."""
        return any(self.hooks)

    def need_gradients(self) -> bool:
        """Whether a parameter needs gradients."""
        return any(x.requires_grad for x, _, _ in self.state)

    def _find(self) -> list[Tensor | None]:
        return [x for table in self.tables for x in table.values()]


@dataclass(frozen=True, eq=False)
class Packed:
    """Arguments of a kernel beside the images, made from the weights of a module.

    Args:
        sources: Where they come from.
        arguments: ``None`` where the kernel does not know the module.
    """

    sources: Sources
    arguments: tuple[Any, ...] | None


class PackedModule(nn.Module):
    """A module that a kernel can run, from weights that it keeps laid out until they change.

    What is packed is no part of its state: it is not moved, cast, copied, saved or loaded. It is
    made at the first call that can use it, if not before, and again where a weight has changed.
    """

    plain: type[nn.Module]  # what it is without the kernel
    operation: str
    kernel = "compiled"
    _packed: Packed | None = None

    @classmethod
    def take(cls, module: nn.Module) -> Self | None:
        """Make one of a plain module whose norms are folded, in place.

        Returns ``None``, and leaves the module alone, where the kernel does not know its parts or
        torch is faster.
        """
        if type(module) is not cls.plain or not cls.knows(module):
            return None
        module.__class__ = cls
        assert isinstance(module, cls)
        return module

    def give_back(self) -> None:
        """Become the plain module again, in place."""
        self.__dict__.pop("_packed", None)
        self.__class__ = self.plain  # type: ignore[assignment]

    @staticmethod
    @abstractmethod
    def knows(module: Any) -> bool:
        """Whether the kernel is to run a plain module."""

    @abstractmethod
    def pack(self) -> tuple[Any, ...] | None:
        """Lay out the weights; ``None`` where the kernel does not know what the module is now."""

    @staticmethod
    def why_not(x: Tensor) -> str | None:
        """Why the kernel cannot take these images, in words; ``None`` where it can."""
        return why_not_compiled(x=x) or why_not_in_autocast()

    @staticmethod
    def takes(weight: Tensor) -> bool:
        """Whether the kernel can read a parameter or buffer, and changes of it are counted."""
        return available() and _is_plain(weight)

    def prepare(self) -> None:
        """Lay out the weights now, so that the first call takes no longer than the others."""
        self._packed = self._pack()

    def packed_for(self, x: Tensor) -> tuple[Any, ...] | None:
        """What the kernel takes beside ``x``; ``None`` where the module has to compute as it is."""
        arguments, reason = self._find_packed(x)
        if reason is not None:
            text = f"{self.kernel}: {reason}" if reason else None
            note(self.operation, REFERENCE, text)
        return arguments

    def _find_packed(self, x: Tensor) -> tuple[tuple[Any, ...] | None, str | None]:
        if self.training:
            return None, "the module is in training mode"
        reason = _why_not_alone(x)
        reason = self.why_not(x) if reason is None else reason
        if reason is not None:
            return None, reason
        packed = self._packed  # once: another thread may put a newer one there
        if packed is None or packed.sources.changed():
            self._packed = packed = self._pack()
        if packed is None or packed.arguments is None:
            return None, "the kernel does not know what the module is made of"
        if torch.is_grad_enabled() and packed.sources.need_gradients():
            return None, "a parameter needs gradients"
        if packed.sources.are_hooked():
            return None, "a hook watches a module inside"
        return packed.arguments, None

    def _pack(self) -> Packed | None:
        tensors = (*self.parameters(), *self.buffers())
        if not all(map(self.takes, tensors)):
            return None
        sources = Sources(self)  # before: what changes from here on makes what follows outdated
        with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
            arguments = self.pack()
        made = [x for x in arguments or () if isinstance(x, Tensor)]
        return Packed(sources, arguments) if all(map(self.takes, made)) else None

    def _apply(self, fn: Any, recurse: bool = True) -> PackedModule:
        """Cast or move, and drop what would only take up memory."""
        self._packed = None
        return cast(PackedModule, super()._apply(fn, recurse))

    def __getstate__(self) -> dict[str, Any]:
        """All but what is packed: another processor may have longer vectors, or no kernels."""
        return {key: value for key, value in self.__dict__.items() if key != "_packed"}


def _why_not_alone(x: Tensor) -> str | None:
    """Why more than a result is wanted: what was recorded could not tell of changed weights."""
    if type(x) not in (Tensor, nn.Parameter):
        return f"x is a {type(x).__name__}"
    if x.requires_grad and torch.is_grad_enabled():
        return "x needs gradients"
    traced = is_traced() or is_exporting() or is_transformed()
    return "the call is traced, exported or transformed" if traced else None


def _is_plain(x: Tensor) -> bool:
    """Whether a kernel can read it, and changes of it are counted."""
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.is_cpu
        and x.layout is torch.strided
        and (x.dtype == torch.float32 or not x.is_floating_point())
        and not x.is_inference()
    )
