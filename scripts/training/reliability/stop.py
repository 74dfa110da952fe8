"""Stopping on SIGTERM and Ctrl-C without losing the work since the last checkpoint."""

import os
import signal
import sys
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, Trainer

from scripts.training.classifier import Classifier
from scripts.training.reliability.errors import Interrupted
from scripts.training.reliability.run_checkpoint import RunCheckpoint

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}  # 75: try again; 130: as shells report Ctrl-C


class StopSignals(Callback):
    """Saves a checkpoint at the end of the batch and raises :class:`Interrupted`.

    After an epoch's last batch, and in validation, what is left of the epoch is done first. A
    second signal leaves at once.
    """

    def __init__(self, checkpoint: RunCheckpoint):
        self.checkpoint = checkpoint
        self.received: signal.Signals | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Classifier) -> None:
        """Take over from Lightning, whose handler talks to the other ranks from within a signal.

        When the Trainer is done, it restores the handlers from before.
        """
        for number in EXIT_CODES:
            signal.signal(number, self._receive)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Classifier, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop if the run can continue exactly from here."""
        if self._agreed(trainer) and self.checkpoint.save_within_epoch(trainer):
            self.stop(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Classifier) -> None:
        """Stop between two epochs, where the checkpoint has just been written."""
        if self._agreed(trainer):
            self.stop(trainer)

    def stop(self, trainer: Trainer) -> None:
        """End the program with the exit code of the signal."""
        number = self.received or signal.SIGTERM  # another rank may have got it
        raise Interrupted(
            f"stopped by {number.name} after step {trainer.global_step}, continue with --resume",
            EXIT_CODES[number],
        )

    def _agreed(self, trainer: Trainer) -> bool:
        """Tell whether any rank got a signal; then all of them stop at the same batch."""
        received = self.received is not None
        if trainer.world_size > 1:
            return trainer.strategy.reduce_boolean_decision(received, all=False)
        return received

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(EXIT_CODES[signal.Signals(number)])
        self.received = signal.Signals(number)
        message = f"\n{self.received.name}: saving at the end of this batch; again to leave at once"
        print(message, file=sys.stderr, flush=True)
