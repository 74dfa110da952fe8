"""How far an epoch or a test is, in a log and wherever there is no progress bar."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import RunningStage

from datasets.progress import FIRST, LOGGED, Counting
from scripts.training.classifier import Classifier


class ProgressLog(Callback):
    """Counts batches on standard error, a line every few seconds; none for a quick epoch."""

    def __init__(self) -> None:
        self._counts: dict[RunningStage | None, Counting] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Classifier) -> None:
        """Begin to count, also in the middle of an epoch, which Lightning then does not start."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Classifier) -> None:
        """Begin to count an epoch's batches."""
        what = f"epoch {trainer.current_epoch + 1}: batches trained"
        self._count(trainer, int(trainer.num_training_batches), what, LOGGED)

    def on_validation_start(self, trainer: Trainer, pl_module: Classifier) -> None:
        """Begin to count those of the validation."""
        checking = trainer.sanity_checking
        batches = trainer.num_sanity_val_batches if checking else trainer.num_val_batches
        self._count(trainer, int(batches[0]), "batches validated", LOGGED)

    def on_test_start(self, trainer: Trainer, pl_module: Classifier) -> None:
        """Begin to count those of a split."""
        batches, split = trainer.num_test_batches, trainer.datamodule.split
        self._count(trainer, int(batches[0]), f"{split}: batches tested", FIRST)

    def _count(self, trainer: Trainer, total: int, what: str, first: float) -> None:
        self._counts[trainer.state.stage] = Counting(total, what, first)

    def _show(self, trainer: Trainer, module: Classifier, batch: Any, done: int, *_: Any) -> None:
        if trainer.is_global_zero and trainer.progress_bar_callback is None:
            self._counts[trainer.state.stage].show(done)

    on_train_batch_start = on_validation_batch_start = on_test_batch_start = _show
