"""TensorBoard curves that do not end a run when the disk is full."""

import warnings
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from scripts.training.errors import TrainingWarning


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
