"""TensorBoard curves that do not end a run when the disk is full."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from datasets.off import shown
from scripts.training.reliability.errors import TrainingWarning


def make_tensorboard(folder: Path) -> "ForgivingTensorBoard | bool":
    """Return the logger of a run folder, or False where TensorBoard cannot spell its path."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        message = f"no TensorBoard curves: it writes to paths in UTF-8 only, not to {shown(folder)}"
        warnings.warn(message, TrainingWarning, stacklevel=2)
        return False
    return ForgivingTensorBoard(folder, name="tensorboard", version="", default_hp_metric=False)


class ForgivingTensorBoard(TensorBoardLogger):
    """Lightning's logger; after a failed write it warns once and logs nothing more.

    Nothing is lost by that: ``metrics.csv`` has the numbers of all epochs, and ``config.yaml`` the
    settings, which are not logged here.
    """

    failures = 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log numbers."""
        self._attempt(super().log_metrics, metrics, step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Log nothing."""

    def save(self) -> None:
        """Flush."""
        self._attempt(self.experiment.flush)

    def finalize(self, status: str) -> None:
        """Flush and close."""
        self._attempt(super().finalize, status)

    def _attempt(self, write: Callable[..., Any], *args: Any) -> None:
        if self.failures:
            return
        try:
            write(*args)
        except OSError as error:
            self.failures += 1
            warnings.warn(f"no more TensorBoard curves: {error}", TrainingWarning, stacklevel=2)
