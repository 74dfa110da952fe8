"""What the features of a network are, under the names of timm, which need not be installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Which features: of these numbers, also counted from the end; the last so many; ``None`` for all.
Indices = Sequence[int] | int | None


class FeatureInfo(list[dict[str, Any]]):
    """Channels, stride and module of every feature map of a network, as timm's class of this name.

    It is a list of what is known of each, from which timm's own wrappers make theirs.

    Args:
        rows: For every feature map ``num_chs``, ``reduction`` (its stride) and ``module``.
        out_indices: Those that a network gives; ``None`` for all.

    Raises:
        ValueError: As :func:`take_indices`.

    Example:
        >>> rows = [{"num_chs": 8 * 2**i, "reduction": 2**i, "module": f"s{i}"} for i in range(3)]
        >>> info = FeatureInfo(rows, (0, -1))
        >>> info.channels(), info.reduction(), info.module_name(1), info[1]["num_chs"]
        ([8, 32], [1, 4], 's1', 16)
    """

    def __init__(self, rows: Sequence[dict[str, Any]], out_indices: Indices = None) -> None:
        super().__init__({"index": number, **row} for number, row in enumerate(rows))
        self.out_indices = take_indices(len(self), out_indices)

    @property
    def info(self) -> list[dict[str, Any]]:
        """The rows, by timm's name for them."""
        return self

    def from_other(self, out_indices: Indices) -> FeatureInfo:
        """The same rows, of which a network gives others."""
        return FeatureInfo(self, out_indices)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """One entry of the features that are given, or of those at ``idx``, given or not."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[i][key] for i in (self.out_indices if idx is None else idx)]

    def get_dicts(
        self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None
    ) -> Any:
        """All entries, or those of ``keys``, as :meth:`get`."""
        rows = [row if keys is None else {key: row[key] for key in keys} for row in self.info]
        if isinstance(idx, int):
            return rows[idx]
        return [rows[i] for i in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Channels, as :meth:`get`."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Strides, as :meth:`get`."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Names of the modules that give them, as :meth:`get`."""
        return self.get("module", idx)


def take_indices(count: int, indices: Indices) -> tuple[int, ...]:
    """Numbers of the features that are asked for, as they were asked for.

    Raises:
        ValueError: One of them is not there, or none is asked for.

    Example:
        >>> take_indices(4, None), take_indices(4, 2), take_indices(4, (0, -1))
        ((0, 1, 2, 3), (2, 3), (0, 3))
    """
    wanted = range(-indices, 0) if isinstance(indices, int) else indices
    found = tuple(range(count) if wanted is None else wanted)
    if not found or not all(-count <= index < count for index in found):
        raise ValueError(f"features are 0 to {count - 1}, or {-count} to -1; got {indices}")
    return tuple(index % count for index in found)
