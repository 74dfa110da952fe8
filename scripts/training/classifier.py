"""The Lightning module for classification, whatever it is that is classified: also pixels."""

import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from mgic_geo.ops.csrc import build
from scripts.training.evaluation import NOTHING, Evaluation
from scripts.training.optimizer import DEFAULT_OPTIMIZER, OptimizerSettings
from scripts.training.predictions import Prediction
from scripts.training.reliability.checks import check_labels, check_losses, check_weights
from scripts.training.reliability.distributed import gather, sync_buffers
from scripts.training.reliability.errors import NonFiniteError, TrainingError, TrainingWarning
from scripts.training.reliability.recovery import count_in_pieces
from scripts.training.reliability.seeds import derive_seed
from scripts.training.results import choose_rows, collect_predictions, show_rows
from scripts.training.weights import Weights


class Scores(NamedTuple):
    """What a network says of a batch.

    Args:
        logits: ``(B, num_classes, ...)``.
        draws: Probabilities of every draw of each sample, ``(B, votes, num_classes)``, whose mean
            the logits are of; None for samples that are not drawn.
    """

    logits: Tensor
    draws: Tensor | None = None


class Classifier(LightningModule):
    """Trains a network that scores classes; subclasses know the network and the batches.

    A sample has one class, or one at each of its pixels.

    The network is built when the data are known, from the seed alone. Before each batch the
    generators are seeded from (seed, epoch, batch, rank), so that a run that continues from a
    checkpoint draws the numbers it would have drawn.

    Args:
        name: Network, by its name in the registry.
        options: Options of the network.
        optimizer: How it is trained.
        label_smoothing: Share of the target that is spread over all classes, in training only.
        seed: All randomness follows from it.

    Raises:
        ValueError: A label smoothing that is not from 0 to below 1.
    """

    create: Callable[..., nn.Module]  # of name, number of classes and options
    evaluation_type: type[Evaluation] = Evaluation  # what counts the predictions
    ignored = NOTHING  # a label that neither trains nor counts
    pieces = 1  # of each batch, one after another
    together = False  # whether all processes stop where one has a loss that is not finite
    ema_decay: float | None = None  # of the average of the weights that is evaluated, if any
    kernels = build.GRAPHS  # what is compiled before the training on a processor

    def __init__(
        self,
        name: str,
        options: dict[str, Any] | None = None,
        optimizer: OptimizerSettings = DEFAULT_OPTIMIZER,
        label_smoothing: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be from 0 to below 1, got {label_smoothing}")
        self.name, self.options = name, dict(options or {})
        self.optimizer_settings = optimizer
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.network: nn.Module | None = None
        self.weights: dict[str, Tensor] | None = None  # loaded over those of a fresh network
        self.classes: list[str] = []
        self.class_weights: Tensor | None = None  # of the loss, where classes do not count alike
        self.train_sums = [0.0, 0.0, 0.0]  # loss, right ones, labels of this rank and epoch
        self.lr = self.optimizer_settings.lr
        self.val_metrics: dict[str, float] = {}
        self.test_metrics: dict[str, float] = {}
        self.test_outputs: list[dict[str, Any]] = []

    def make_network(self, num_classes: int) -> nn.Module:
        """Build the network."""
        return self.create(self.name, num_classes, **self.options)

    @abstractmethod
    def forward(self, batch: Any) -> Tensor:
        """Score the classes, ``(B, num_classes, ...)``."""

    def score(self, batch: Any) -> Scores:
        """Score the classes for evaluation, in float32."""
        return Scores(self(batch).float())

    def sample_info(self, batch: Any) -> tuple[Tensor, list[int], list[str]]:
        """Return the classes ``(B, ...)``, indices in the data set, and names of the samples."""
        return batch.targets, batch.indices, batch.names

    def bad_samples(self, batch: Any) -> list[str]:
        """Name the samples with an input that is not finite: here, images."""
        finite = batch.images.isfinite().flatten(1).all(dim=1).tolist()
        return [name for name, fine in zip(batch.names, finite, strict=True) if not fine]

    def mix(self, batch: Any, targets: Tensor) -> tuple[Any, Tensor]:
        """Mix the samples of a training batch, if at all; targets may become shares of classes."""
        return batch, targets

    def configure_model(self) -> None:
        """Build the network once the classes are known, and load weights if there are any."""
        if self.network is None:
            if not self.classes:
                self.classes = list(self.trainer.datamodule.classes)
                self.options |= self.trainer.datamodule.network_options()
            torch.manual_seed(derive_seed(self.seed, "weights"))
            try:
                self.network = self.make_network(len(self.classes))
            except (TypeError, ValueError) as error:
                raise TrainingError(
                    f"model {self.name} cannot be built with options {self.options}: {error}"
                ) from error
            self.evaluation = self.evaluation_type(len(self.classes))
        if self.weights is not None:
            self.load_state_dict({f"network.{key}": value for key, value in self.weights.items()})

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights; where they do not fit, say so with the names of those that do not."""
        try:
            return super().load_state_dict(*args, **kwargs)
        except RuntimeError as error:
            raise TrainingError(
                f"the weights do not fit {self.name} with options {self.options}: {error}"
            ) from error

    def adopt(self, weights: Weights) -> None:
        """Become the network that these weights belong to, whatever was configured."""
        self.name, self.options = weights.info["name"], weights.info["options"]
        self.classes, self.weights = weights.info["classes"], weights.tensors

    def configure_optimizers(self) -> dict[str, Any]:
        """Set up optimizer and schedule; the schedule advances with every step."""
        optimizer = self.optimizer_settings.make_optimizer(self.network)
        # not trainer.estimated_stepping_batches: that sets up the loader before the checkpoint
        # is read, and the loader's state would never be restored
        limit, batches = self.trainer.limit_train_batches, self.trainer.datamodule.num_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        steps = -(-batches // self.trainer.accumulate_grad_batches)
        factor = self.optimizer_settings.make_factor(max(1, steps), self.trainer.max_epochs)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_epoch_start(self) -> None:
        """Forget the validation of the epoch before; this one may have none."""
        self.val_metrics = {}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the batch; forget the sums of the epoch before."""
        self._seed("train", self.current_epoch, batch_idx, self.global_rank)
        if batch_idx == 0:
            self.train_sums = [0.0, 0.0, 0.0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the loss, and stop at input or loss that is not finite."""
        self._check_input(batch)
        targets, _, names = self.sample_info(batch)
        check_labels(targets, names, len(self.classes), self.ignored)
        count = (targets != self.ignored).sum()
        batch, targets = self.mix(batch, targets)
        logits = self(batch).float()
        loss = F.cross_entropy(
            logits,
            targets,
            reduction="sum",  # the mean over no labels would be nan
            ignore_index=self.ignored,
            label_smoothing=self.label_smoothing,
            weight=self.class_weights,
        ) / self._total_weight(targets, count)
        if targets.is_floating_point():
            targets = targets.argmax(dim=1)  # of a mixture, what it has most of
        right = (logits.argmax(dim=1) == targets).sum()
        value, num_right, num = torch.stack([loss.detach(), right.float(), count.float()]).tolist()
        self.lr = self.optimizers().param_groups[0]["lr"]
        losses = gather((value, names)) if self.together else [(value, names)]
        check_losses(losses, self.global_step + 1, (self.current_epoch, batch_idx), self.lr)
        for i, term in enumerate((value * num, num_right, num)):
            self.train_sums[i] += term
        self.log("train_loss", value, prog_bar=True, batch_size=len(names))
        self.log("lr", self.lr, batch_size=len(names))
        return loss

    def _total_weight(self, targets: Tensor, count: Tensor) -> Tensor:
        """Return what the loss is divided by, so that it is a mean."""
        if self.class_weights is None:
            return count.clamp(min=1)
        return self.class_weights[targets[targets != self.ignored]].sum().clamp(min=1e-12)

    def train_metrics(self) -> dict[str, float]:
        """Average loss and accuracy over the epoch so far and over all processes."""
        loss, right, labels = map(sum, zip(*gather(self.train_sums), strict=True))
        return {"train_loss": loss / max(labels, 1), "train_accuracy": right / max(labels, 1)}

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        sync_buffers(self)
        self.on_test_epoch_start()

    def on_test_epoch_start(self) -> None:
        """Start counting, of classes that the network knows."""
        if self.trainer.datamodule.classes != self.classes:
            raise TrainingError(
                f"the network knows the classes {', '.join(self.classes)}, the data hold "
                f"{', '.join(self.trainer.datamodule.classes)}"
            )
        self.evaluation.reset()
        self.test_outputs = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count a batch."""
        self._evaluate(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Count a batch and keep what was predicted for it."""
        self.test_outputs.append(self._evaluate(batch, batch_idx))

    def on_validation_epoch_end(self) -> None:
        """Log what was counted."""
        metrics = self.evaluation.compute()
        self.val_metrics = {f"val_{key}": metrics[key] for key in self.evaluation.logged}
        for key, value in self.val_metrics.items():
            shown = key == f"val_{self.evaluation.best}"
            self.log(key, value, prog_bar=shown, sync_dist=True, batch_size=1)

    def on_test_epoch_end(self) -> None:
        """Keep the metrics for whoever runs the test."""
        self.test_metrics = self.evaluation.compute()

    def keep(self, scores: Scores, targets: Tensor) -> dict[str, Tensor]:
        """Return what the results have of each sample of a batch."""
        kept = {"probabilities": scores.logits.softmax(dim=1).cpu(), "labels": targets.cpu()}
        if scores.draws is not None:
            kept["draws"] = scores.draws.argmax(dim=2).cpu()  # the class of every single draw
        return kept

    def test_arrays(self) -> dict[str, np.ndarray]:
        """Return what the report needs of the test that has just run."""
        arrays = collect_predictions(self.test_outputs)
        rows = choose_rows(arrays["probabilities"], arrays["labels"])
        return arrays | show_rows(self.trainer.datamodule, arrays["indices"], rows)

    def predict_step(self, batch: Any, batch_idx: int) -> Prediction:
        """Return class probabilities, ``(B, num_classes)``, and their spread among draws."""
        self._check_input(batch)
        self._seed("evaluation", batch_idx)
        scores = self.score(batch)
        spread = None
        if scores.draws is not None and scores.draws.size(1) > 1:
            spread = scores.draws.std(dim=1)
        return Prediction(scores.logits.softmax(dim=1), spread)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a continued run, or a reader of the weights, must know."""
        sums = [sum(column) for column in zip(*gather(self.train_sums), strict=True)]
        checkpoint["run"] = {
            "name": self.name,
            "options": self.options,
            "classes": self.classes,
            "data": self.trainer.datamodule.describe(),
            "threads": torch.get_num_threads(),
            "world_size": self.trainer.world_size,
            "pieces": self.pieces,
            "train_sums": sums,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the sums of the epoch; the first process holds those of all."""
        run = checkpoint["run"]
        if run["classes"] != self.classes:
            raise TrainingError(f"the run has classes {run['classes']}, the data {self.classes}")
        now = {"threads": torch.get_num_threads(), "world_size": self.trainer.world_size}
        for key, value in now.items():
            if run[key] != value:
                warnings.warn(
                    f"the run had {run[key]} {key.replace('_', ' ')} and continues with {value}: "
                    "it will not end in the same bits as without the interruption",
                    TrainingWarning,
                    stacklevel=2,
                )
        if self.global_rank == 0:
            self.train_sums = list(run["train_sums"])
        if self.pieces != run["pieces"]:
            count_in_pieces(checkpoint, self.pieces // run["pieces"])
            run["pieces"] = self.pieces

    def check_weights(self) -> None:
        """Refuse to keep weights that are not finite.

        Raises:
            NonFiniteError: Some are not.
        """
        place = self.current_epoch, self.trainer.fit_loop.epoch_loop.batch_idx
        check_weights(self.network, self.global_step, place, self.lr)

    def _seed(self, *place: int | str) -> None:
        torch.manual_seed(derive_seed(self.seed, *place))

    def _check_input(self, batch: Any) -> None:
        if bad := self.bad_samples(batch):
            raise NonFiniteError(f"the input holds values that are not finite: {', '.join(bad)}")

    def _evaluate(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        self._check_input(batch)
        # the number that the batch has in a single process
        self._seed("evaluation", batch_idx * self.trainer.world_size + self.global_rank)
        targets, indices, names = self.sample_info(batch)
        check_labels(targets, names, len(self.classes), self.ignored)
        scores = self.score(batch)
        self.evaluation.update(scores.logits, targets)
        return {"indices": indices, "names": names, **self.keep(scores, targets)}
