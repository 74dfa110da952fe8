"""A callback for those who train with Lightning; the only part of the package that needs it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mgic_geo.blending import set_blend, share_at


class BlendSchedule(Callback):
    """Train a network of ``convert(..., gradual=True)`` from the original to the converted one.

    The share of the originals falls from 1 to 0 by a cosine, see :func:`~mgic_geo.share_at`. After
    the training :func:`~mgic_geo.finish` drops them.

    Args:
        until: Share of the training after which the originals do not count any more, above 0 and
            at most 1. What is left of it trains the converted network alone.

    Raises:
        ValueError: If ``until`` is not above 0 and at most 1, or, when the training starts, if the
            network has nothing to blend or the number of steps is not known.
    """

    def __init__(self, until: float = 0.5) -> None:
        share_at(0.0, until)
        self.until = until

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the share of this step."""
        steps = trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError("the number of steps is not known: set max_steps or max_epochs")
        set_blend(pl_module, share_at(trainer.global_step / steps, self.until))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The originals do not count any more."""
        set_blend(pl_module, 0.0)
