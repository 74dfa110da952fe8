"""This package's networks under the names by which users of timm and torchvision make theirs.

Neither library is needed here, and neither is imported: timm alone would make
``import mgic_vision`` a sixth longer. Where a library is imported already, the networks are
registered at once, and otherwise at the end of its own import, whichever of the two comes first.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from torch import nn

from mgic_vision.models.registry import create_model, list_models

#: The networks that others do not have.
NAMES = tuple(name for name in list_models() if name.startswith(("mgic_", "lraspp_mgic_")))


def register_with_timm() -> None:
    """Let ``timm.create_model("mgic_resnet50")`` work; done by itself wherever timm is imported.

    The networks for classification are registered. There are no pretrained weights; a checkpoint
    of this project's training is loaded with ``checkpoint=``, as in
    :func:`~mgic_vision.create_model`.

    Raises:
        ImportError: If timm is missing.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     import timm
        >>> register_with_timm()
        >>> timm.list_models("mgic_*")
        ['mgic_mobilenetv3', 'mgic_mobilenetv3_small', 'mgic_resnet50', 'mgic_resnet56']
    """
    from timm.models import is_model, register_model

    for name in NAMES:
        if name.startswith("mgic_") and not is_model(name):
            register_model(_timm_entry(name))


def register_with_torchvision() -> None:
    """Let ``torchvision.models.get_model("mgic_resnet50")`` work; as :func:`register_with_timm`.

    The networks for segmentation are registered as well.

    Raises:
        ImportError: If torchvision is missing.

    Example:
        >>> from torchvision.models import get_model
        >>> register_with_torchvision()
        >>> get_model("mgic_resnet56", num_classes=10).num_classes
        10
    """
    from torchvision.models import list_models as names_there
    from torchvision.models._api import register_model

    for name in set(NAMES) - set(names_there()):
        register_model(name)(_torchvision_builder(name))


def _timm_entry(name: str) -> Callable[..., nn.Module]:
    def entry(pretrained: bool = False, **options) -> nn.Module:
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            options.pop(key, None)
        _refuse_pretrained(name, pretrained)
        return create_model(name, options.pop("num_classes", None), **options)

    entry.__name__ = entry.__qualname__ = name
    return entry


def _torchvision_builder(name: str) -> Callable[..., nn.Module]:
    def build(*, weights: None = None, num_classes: int | None = None, **options) -> nn.Module:
        _refuse_pretrained(name, weights)
        return create_model(name, num_classes, **options)

    build.__name__ = build.__qualname__ = name
    return build


def _refuse_pretrained(name: str, wanted: object) -> None:
    if wanted:
        raise ValueError(f"there are no pretrained weights of {name}; checkpoint= takes your own")


class _AtImport(importlib.abc.MetaPathFinder):
    """Registers with each library when it has been imported, then stands aside for it.

    Args:
        waiting: What to call, by the name of the library.
    """

    def __init__(self, waiting: dict[str, Callable[[], None]]) -> None:
        self.waiting = waiting
        self.searching: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the library as everybody else does, and note to register after it is run.

        To be found is not to be imported: others look whether a library is there.
        """
        if name not in self.waiting or name in self.searching:
            return None
        self.searching.add(name)
        try:
            spec = importlib.util.find_spec(name)  # by the other finders
        finally:
            self.searching.remove(name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            register = self.waiting.pop(name, None)
            if register is None:
                return
            try:
                register()
            except Exception as error:  # an import of theirs must not fail for our sake
                warnings.warn(f"mgic_vision is not registered with {name}: {error}", stacklevel=2)

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def register_at_import() -> None:
    """Register with timm and torchvision, now or at the end of their import."""
    waiting = {}
    for name, register in (
        ("timm", register_with_timm),
        ("torchvision", register_with_torchvision),
    ):
        if name in sys.modules:
            register()
        else:
            waiting[name] = register
    if waiting:
        sys.meta_path.insert(0, _AtImport(waiting))
