"""``metrics.csv``: one row for each finished epoch, whatever happened in between."""

import time
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from scripts.training.classifier import Classifier
from scripts.training.reliability.errors import TrainingWarning
from scripts.training.reliability.files import write_whole

TRAINING = ("epoch", "step", "lr", "train_loss", "train_accuracy")


class MetricsLog(Callback):
    """Adds a row when an epoch has been validated, and prints it; the first epoch is number 1.

    The rows are part of the checkpoints: a run that continues from one first cuts the file back to
    the epochs that the checkpoint knows, so that no epoch is there twice or missing.
    """

    def __init__(self, path: Path):
        self.path = path
        self.columns: tuple[str, ...] = ()
        self.rows: list[str] = []
        self.failures = 0
        self.seconds = 0.0  # of this epoch, before the run was last started
        self._started = time.monotonic()

    @property
    def total_seconds(self) -> float:
        """Time of all finished epochs."""
        return sum(float(row.rsplit(",", 1)[1]) for row in self.rows)

    def on_train_start(self, trainer: Trainer, pl_module: Classifier) -> None:
        """Write the rows of the checkpoint, or only the header."""
        self._started = time.monotonic()
        validation = (f"val_{name}" for name in pl_module.evaluation.logged)
        self.columns = (*TRAINING, *validation, "seconds")
        if trainer.is_global_zero:
            self._write()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Classifier) -> None:
        """Start the clock of a new epoch."""
        self.seconds, self._started = 0.0, time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Classifier) -> None:
        """Add the row; Lightning calls this after validation and before checkpoints are written."""
        values: dict[str, Any] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": pl_module.lr,
            **pl_module.train_metrics(),
            **pl_module.val_metrics,
            "seconds": round(self._elapsed(), 3),
        }
        self.rows.append(",".join(_text(values.get(column)) for column in self.columns))
        if trainer.is_global_zero:
            self._write()
            pl_module.print(_line(values, trainer.max_epochs, pl_module.evaluation.best))

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far and the time spent on the epoch that is under way."""
        return {"rows": list(self.rows), "seconds": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the rows of a checkpoint."""
        self.rows, self.seconds = list(state_dict["rows"]), state_dict["seconds"]

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self._started

    def _write(self) -> None:
        """Write, or warn where the disk refuses."""
        lines = (",".join(self.columns), *self.rows)
        try:
            write_whole(self.path, "".join(line + "\n" for line in lines).encode())
        except OSError as error:
            self.failures += 1
            warnings.warn(f"{self.path} was not written: {error}", TrainingWarning, stacklevel=2)


def _text(value: float | int | None) -> str:
    """Format a number so that it reads back as the same one."""
    return "" if value is None else repr(value)


def _line(values: dict[str, Any], num_epochs: int | None, best: str) -> str:
    """Say an epoch in less than 80 columns."""
    line = (
        f"epoch {values['epoch']}/{num_epochs}  loss {values['train_loss']:.3f}  "
        f"acc {values['train_accuracy']:.3f}"
    )
    if f"val_{best}" in values:
        name = {"accuracy": "acc"}.get(best, best)
        line += f"  val loss {values['val_loss']:.3f}  {name} {values[f'val_{best}']:.3f}"
    return f"{line}  {values['seconds']:.1f} s"
