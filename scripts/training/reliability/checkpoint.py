"""Checkpoint files that carry their own SHA-256 and are read without executing anything."""

import hashlib
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from scripts.training.reliability.errors import CheckpointError, TrainingWarning
from scripts.training.reliability.files import write_whole

BEST = "best.ckpt"
MARK = b"\nsha256 "
SEAL_BYTES = len(MARK) + 64 + 1


def seal(content: bytes) -> bytes:
    """Append the SHA-256 of the content as a line of text.

    The hash travels in the file, so the two cannot come apart, and one rename replaces both. What
    ``torch.save`` writes is a zip archive, whose readers do not mind what follows it.

    Example:
        >>> unseal(seal(b"weights"))
        b'weights'
    """
    return content + MARK + hashlib.sha256(content).hexdigest().encode() + b"\n"


def unseal(sealed: bytes) -> bytes:
    """Return the content if its hash agrees.

    Raises:
        ValueError: The hash is missing or belongs to other content.
    """
    content, tail = sealed[:-SEAL_BYTES], sealed[-SEAL_BYTES:]
    if not (tail.startswith(MARK) and tail.endswith(b"\n")):
        raise ValueError(
            "it does not end in its SHA-256: cut short, or not written by this program"
        )
    if hashlib.sha256(content).hexdigest().encode() != tail[len(MARK) : -1]:
        raise ValueError("its content does not have the SHA-256 written at its end")
    return content


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a sealed checkpoint onto the CPU: tensors and plain values only, no pickled code.

    Raises:
        CheckpointError: It cannot be read, is damaged, or holds anything but tensors and values.
    """
    try:
        content = unseal(path.read_bytes())
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"cannot use checkpoint {path}: {reason}") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "run"} <= checkpoint.keys():
        raise CheckpointError(f"cannot use checkpoint {path}: it is of another program")
    return checkpoint


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the newest undamaged ``step-*.ckpt``; each damaged one on the way is warned about.

    Raises:
        CheckpointError: There are checkpoints, but none that can be used.
    """
    paths = sorted(folder.glob("step-*.ckpt"), reverse=True)
    reasons = []
    for path in paths:
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            warnings.warn(f"{reason}; falling back to {path.name}", TrainingWarning, stacklevel=2)
        return path
    if paths:
        raise CheckpointError("no usable checkpoint left: " + "; ".join(reasons))
    return None


class SealedCheckpointIO(CheckpointIO):
    """How Lightning writes and reads checkpoints here.

    A disk that is full or read-only does not end a run that is otherwise fine: the failure is
    warned about and counted, the old checkpoints stay, and the program ends with exit code 3.
    """

    def __init__(self) -> None:
        self.failures = 0

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Seal the checkpoint and write it whole, or warn and leave everything as it was."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            write_whole(Path(path), seal(content.getvalue()))
        except OSError as error:
            self.failures += 1
            warnings.warn(f"{path} was not written: {error}", TrainingWarning, stacklevel=2)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; whatever the caller asks for, nothing in it is executed."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file that may already be gone."""
        Path(path).unlink(missing_ok=True)
