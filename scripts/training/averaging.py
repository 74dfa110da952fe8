"""The moving average of the weights, which is what is validated, kept and tested."""

import warnings

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class MovingAverage(EMAWeightAveraging):
    """Lightning's average of weights and buffers, updated after every step.

    A checkpoint has the average as its ``state_dict``, so that whoever reads it gets what was
    validated, and beside it what a run needs to continue exactly.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the average when training begins."""
        with warnings.catch_warnings():
            # about models that configure_model would shard: ours does not
            warnings.filterwarnings("ignore", message=".*overrides the configure_model")
            super().setup(trainer, pl_module, stage)
