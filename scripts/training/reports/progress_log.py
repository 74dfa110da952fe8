"""How far a test is, in a log and wherever there is no progress bar."""

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, Trainer

from datasets.progress import progress
from scripts.training.classifier import Classifier


class ProgressLog(Callback):
    """Counts the batches of a test on standard error, a line every few seconds."""

    def on_test_start(self, trainer: Trainer, pl_module: Classifier) -> None:
        """Begin to count the split."""
        (batches,), split = trainer.num_test_batches, trainer.datamodule.split
        self._lines: Iterator[int] = progress(range(int(batches)), f"{split}: batches tested")

    def on_test_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Print a line if it is time for one."""
        if trainer.is_global_zero and trainer.progress_bar_callback is None:
            next(self._lines)
