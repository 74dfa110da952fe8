"""When a run writes checkpoints, and which of them it keeps."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from scripts.training.classifier import Classifier
from scripts.training.reliability.checkpoint import BEST

KEPT = 2  # of ``step-*.ckpt``, the newest ones


class RunCheckpoint(Checkpoint):
    """Writes ``step-*.ckpt`` within epochs and after each, and ``best.ckpt``.

    Lightning's ``ModelCheckpoint`` keeps absolute paths in its state, overwrites its last file
    without keeping the one before, and also saves at an epoch's last batch, from where a run
    cannot continue exactly: validation is yet to come. Weights that are not finite are never saved,
    as no run could go back to them.

    The best epoch has the highest validation accuracy, or what else the task goes by, among equals
    the lowest validation loss. Without validation it is the last one.

    Args:
        folder: Where the files go.
        every: Batches between two checkpoints within an epoch; 0 for none.

    Raises:
        ValueError: A negative ``every``.
    """

    def __init__(self, folder: Path, *, every: int):
        if every < 0:
            raise ValueError(f"checkpoint_every must be 0 or more, got {every}")
        self.folder, self.every = folder, every
        self.best_score: list[float] | None = None
        self.best_epoch = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Classifier, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within the epoch, where the weights have just been updated."""
        if self.every and (batch_idx + 1) % self.every == 0:
            self.save_within_epoch(trainer)

    def save_within_epoch(self, trainer: Trainer) -> bool:
        """Save unless a run could not continue exactly from here; return whether it was saved."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        accumulating = progress.current.ready % trainer.accumulate_grad_batches != 0
        if progress.is_last_batch or accumulating:
            return False
        trainer.lightning_module.check_weights()
        self._save_step(trainer)
        return True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Classifier) -> None:
        """Save the best and the newest; the best first, as the newest will claim it is there."""
        pl_module.check_weights()
        validation, best = pl_module.val_metrics, f"val_{pl_module.evaluation.best}"
        score = [validation[best], -validation["val_loss"]] if validation else None
        if self.best_score is None or (score is not None and score > self.best_score):
            self.best_score, self.best_epoch = score, trainer.current_epoch
            trainer.save_checkpoint(self.folder / BEST)
        self._save_step(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return what the best epoch was."""
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue to compare with the best epoch before."""
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]

    def _save_step(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step:09d}.ckpt")
        if trainer.is_global_zero:
            for old in sorted(self.folder.glob("step-*.ckpt"))[:-KEPT]:
                old.unlink(missing_ok=True)
