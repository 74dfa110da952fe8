"""What a run does about numbers that are not finite and about too little memory, if it may."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.training.reliability.errors import NonFiniteError, RunFolderError, TrainingError
from scripts.training.reliability.files import read_json, write_json

RECOVERY = "recovery.json"
MOST_ROLLBACKS = 10
SMALLEST_PIECE = 2  # batch norm needs two values to have a variance


@dataclass
class Recovery:
    """What has been changed about a run since it was started, kept in its folder.

    Every process of the run reads it when it starts, so that all of them do the same, and a run
    that is killed and resumed does what the uninterrupted one would have done.

    Args:
        pieces: In how many pieces each batch is loaded and trained on.
        replaced: Pairs of epoch and batch, from 0, that are trained on no more: the next batch of
            the epoch takes the place of each.
        events: What happened, the oldest first.
    """

    pieces: int = 1
    replaced: list[tuple[int, int]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Recovery":
        """Read what the folder of a run holds, if it holds any.

        Raises:
            RunFolderError: The file is damaged.
        """
        path = folder / RECOVERY
        try:
            fields = read_json(path)
            replaced = [(int(epoch), int(batch)) for epoch, batch in fields["replaced"]]
            return cls(int(fields["pieces"]), replaced, list(fields["events"]))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"cannot use {path}: {error!r}") from error

    def write(self, folder: Path) -> None:
        """Write it whole."""
        write_json(folder / RECOVERY, asdict(self))

    def roll_back(self, error: NonFiniteError) -> str:
        """Replace the batch to blame and say so.

        Where that batch had been replaced before, the one before it is to blame: it has left
        weights behind that are finite, and with which the next loss is not.

        Raises:
            NonFiniteError: It has happened too often, or no batch is to blame.
        """
        if error.place is None:
            raise error
        rollbacks = [event for event in self.events if event["kind"] == "rollback"]
        if len(rollbacks) >= MOST_ROLLBACKS:
            raise NonFiniteError(f"{error}; gave up after {MOST_ROLLBACKS} rollbacks") from error
        epoch, batch = error.place
        while (epoch, batch) in self.replaced and batch:
            batch -= 1
        if (epoch, batch) in self.replaced:
            raise error
        self.replaced.append((epoch, batch))
        self.events.append({"kind": "rollback", "why": str(error)})
        return (
            f"{error}; going back to the last checkpoint, batch {batch + 1} of epoch {epoch + 1} "
            f"is replaced by the one after it (rollback {len(rollbacks) + 1} of at most "
            f"{MOST_ROLLBACKS})"
        )

    def cut_batches(self, batch_size: int, error: TrainingError) -> str:
        """Halve what is in memory at a time, or divide it by the next number that leaves no rest.

        Raises:
            TrainingError: The pieces cannot be made smaller.
        """
        parts = (n for n in range(2, batch_size // SMALLEST_PIECE + 1) if batch_size % n == 0)
        factor = next(parts, None)
        if factor is None:
            raise TrainingError(f"{error}; pieces of {batch_size} cannot be cut") from error
        self.pieces *= factor
        self.replaced = [
            (epoch, factor * batch + part)
            for epoch, batch in self.replaced
            for part in range(factor)
        ]
        self.events.append({"kind": "out of memory", "why": str(error)})
        return (
            f"out of memory with batches of {batch_size}: continuing with {factor} times as many "
            f"of {batch_size // factor}, whose gradients add up"
        )


def count_in_pieces(checkpoint: Mapping[str, Any], factor: int) -> None:
    """Let a checkpoint that counts batches count ``factor`` times as many pieces of them.

    At the end of a batch, Lightning's count of completed ones is one behind that of those begun.

    Example:
        >>> progress = {"current": {"ready": 3, "completed": 2}, "total": {"ready": 8}}
        >>> state = {"epoch_loop.batch_progress": progress}
        >>> state |= {"state_dict": {"combined_loader": [{"delivered": 3}]}}
        >>> count_in_pieces({"loops": {"fit_loop": state}}, 2)
        >>> progress["current"], state["state_dict"]
        ({'ready': 6, 'completed': 5}, {'combined_loader': [{'delivered': 6}]})
    """
    loop = checkpoint["loops"]["fit_loop"]
    for key in ("current", "total"):
        counter = loop["epoch_loop.batch_progress"][key]
        more = (factor - 1) * counter["ready"]
        counter.update({name: count + more for name, count in counter.items()})
    for loader in loop["state_dict"]["combined_loader"]:
        loader["delivered"] *= factor
