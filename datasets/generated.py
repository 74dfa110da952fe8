"""Folders of generated data: written whole by one process, and known again by their manifest."""

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets.atomic import lock_for, replacing
from datasets.mesh_cache import CacheWarning
from datasets.off import shown

MANIFEST = "manifest.json"


def write_generated(
    folder: str | os.PathLike[str], wanted: Mapping[str, Any], fill: Callable[[Path], None]
) -> Path:
    """Fill a folder and add a manifest, or do nothing where that has been done.

    The folder appears whole, by a rename. What was written for the same ``wanted`` is left alone;
    what differs, or has lost files since, is replaced with a warning. A folder without such a
    manifest is not ours and stays.

    Args:
        folder: The folder to write.
        wanted: What decides the content, ``data`` (its name) among it; plain values only.
        fill: Writes the files into the folder that it is given.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder is there and was not written by this function.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     folder = write_generated(
        ...         Path(root, "new"), {"data": "new"}, lambda f: (f / "a").mkdir()
        ...     )
        ...     sorted(os.listdir(folder))
        ['a', 'manifest.json']
    """
    folder = Path(folder)
    with lock_for(folder):  # one process writes, the others wait
        if folder.exists():
            fault = _find_fault(folder, wanted)
            if fault is None:
                return folder
            message = f"{shown(folder)}: {fault}; it is written again"
            warnings.warn(message, CacheWarning, stacklevel=3)
        with replacing(folder) as fresh:
            fill(fresh)
            text = json.dumps({**wanted, "bytes": _count_bytes(fresh)})
            (fresh / MANIFEST).write_text(text, "ascii")
    return folder


def _find_fault(folder: Path, wanted: Mapping[str, Any]) -> str | None:
    """Say why the folder is not what is wanted, if it is not; refuse one that is not ours."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("ascii"))
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("data") != wanted["data"]:
        raise FileExistsError(
            f"{shown(folder)} is in the way: it has no manifest of {wanted['data']}"
        )
    changed = [key for key, value in wanted.items() if manifest.get(key) != value]
    if changed:
        return f"it was made with other {', '.join(changed)}"
    if manifest.get("bytes") != _count_bytes(folder):
        return "files are missing or changed"
    return None


def _count_bytes(folder: Path) -> int:
    """Add up the sizes of all files but the manifest and hidden ones."""
    paths = (path for path in folder.rglob("[!.]*") if path.is_file())
    return sum(path.stat().st_size for path in paths if path.name != MANIFEST)
