"""What the stages do with a Trainer, a classifier and its data."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgic_geo import num_weights
from mgic_geo.ops.csrc import build
from scripts.training.classifier import Classifier
from scripts.training.data import ClassificationData
from scripts.training.predictions import format_predictions
from scripts.training.reliability.advice import explained
from scripts.training.reliability.checkpoint import BEST
from scripts.training.reliability.errors import (
    CheckpointError,
    Interrupted,
    LoaderError,
    MemoryShortage,
    NonFiniteError,
    StartAgain,
    TrainingError,
    TrainingWarning,
)
from scripts.training.reports.report import write_report
from scripts.training.reports.tensorboard_log import ForgivingTensorBoard
from scripts.training.results import describe_test, free_name, write_results
from scripts.training.start import telling
from scripts.training.weights import Weights, export_weights, read_weights


class Stages:
    """The stages of a run; the command line brings Trainer, folder and callbacks."""

    exit_code = 0
    is_try = False  # of a few batches, in a folder that is gone afterwards

    def fit(self, model: Classifier, datamodule: ClassificationData) -> None:
        """Train, keep the best epoch, test it, draw the report."""
        self._compile(model)
        try:
            with explained(datamodule.batch_size):
                self.trainer.fit(
                    model, datamodule=datamodule, ckpt_path=self.resume_from, weights_only=True
                )
        except NonFiniteError as error:
            self._roll_back(error)
        except LoaderError:
            if not self.stop.received:  # or the signal has reached the data-loading processes too
                raise
        except MemoryShortage as error:
            self._cut_batches(error, datamodule.batch_size)
        if self.stop.received:
            self.stop.stop(self.trainer)
        boards = [log for log in self.trainer.loggers if isinstance(log, ForgivingTensorBoard)]
        if any(writer.failures for writer in (self.checkpoint_io, self.metrics_log, *boards)):
            self.exit_code = 3
        try:
            weights = read_weights(self.run_dir / "checkpoints" / BEST)
        except CheckpointError as error:
            error.exit_code = self.exit_code or error.exit_code
            raise
        lines = [self._training_line(model, weights)]
        self._write(export_weights, weights, self.run_dir)
        if self.option("test_after_fit"):
            lines += self._test(model, datamodule, weights, own=True)
        self._finish(lines)

    def _compile(self, model: Classifier) -> None:
        """Have the kernels compiled, if they are not yet: it takes half a minute."""
        if self.trainer.strategy.root_device.type != "cpu":
            return
        try:
            with telling("compiling"):
                build.library(model.kernels)
        except (RuntimeError, ValueError) as error:  # they are required, or of no known kind
            raise TrainingError(str(error)) from error

    def test(self, model: Classifier, datamodule: ClassificationData) -> None:
        """Evaluate the test splits and draw the report."""
        self._finish(self._test(model, datamodule, self._weights(), own=False))

    def validate(self, model: Classifier, datamodule: ClassificationData) -> None:
        """Evaluate the held-out part of the training split."""
        weights = self._weights()
        model.adopt(weights)
        datamodule.adopt(weights)
        with explained(datamodule.batch_size):
            self.trainer.validate(model, datamodule=datamodule, verbose=False)
        metrics = {key.removeprefix("val_"): value for key, value in model.val_metrics.items()}
        if self.trainer.is_global_zero:
            metrics["num_samples"] = len(datamodule.val_indices)
            print(f"validation: {model.evaluation.describe(metrics)}")

    def predict(self, model: Classifier, datamodule: ClassificationData) -> None:
        """Print the most probable classes of files, and write labels of their points if asked."""
        labels = self.option("labels")
        if labels is not None:
            datamodule.check_labels(Path(labels), self.option("files"))
        weights = self._weights()
        model.adopt(weights)
        datamodule.adopt(weights)
        files, samples = [], []
        for file in self.option("files"):
            try:
                samples.append(datamodule.read_file(Path(file), weights.info))
                files.append(file)
            except TrainingError as error:  # the others are none the worse for it
                self.exit_code = error.exit_code
                print(f"error: {error}", file=sys.stderr, flush=True)
        if not samples:
            return
        with explained(datamodule.batch_size):
            outputs = self.trainer.predict(model, dataloaders=datamodule.loader_of(samples))
        if self.trainer.is_global_zero:
            print(format_predictions(self.option("format"), files, outputs, model.classes))
            if labels is not None:
                found = [row.numpy() for output in outputs for row in output.labels]
                try:
                    datamodule.write_labels(Path(labels), samples, found, model.classes)
                except OSError as error:
                    raise TrainingError(f"labels were not written: {error}") from error

    def _roll_back(self, error: NonFiniteError) -> None:
        if self.option("on_nonfinite") != "rollback":
            raise error
        message = self.recovery.roll_back(error)
        if self.trainer.is_global_zero:
            self.recovery.write(self.run_dir)
        self.trainer.strategy.barrier("recovery")
        raise StartAgain(message) from error

    def _cut_batches(self, error: MemoryShortage, batch_size: int) -> None:
        if not self.option("auto_batch"):
            raise error
        message = self.recovery.cut_batches(batch_size, error)
        self.recovery.write(self.run_dir)  # whichever process it is: the others wait in vain for it
        if self.trainer.world_size > 1:
            message += ". Start all processes again with --resume, as torchrun --max-restarts does"
            raise Interrupted(message, StartAgain.exit_code) from error
        raise StartAgain(message) from error

    def _weights(self) -> Weights:
        return read_weights(Path(self.option("checkpoint") or self.run_dir))

    def _test(
        self, model: Classifier, datamodule: ClassificationData, weights: Weights, *, own: bool
    ) -> list[str]:
        """Test all splits; ``own`` results of a run replace those that it had."""
        model.adopt(weights)
        datamodule.adopt(weights)
        lines = []
        for split in datamodule.test_splits:
            datamodule.split = split
            with explained(datamodule.batch_size):
                self.trainer.test(model, datamodule=datamodule, verbose=False)
            arrays = model.test_arrays()
            summary = summarize(split, model, weights)
            summary["tested"] = describe_test(split, datamodule, weights, arrays["names"])
            summary["name"] = split if own else free_name(self.run_dir, summary)
            self._write(write_results, self.run_dir, summary, arrays)
            line = f"{split}: {model.evaluation.describe(model.test_metrics)}"
            lines.append(line + ("" if summary["name"] == split else f" ({summary['name']}.json)"))
        return lines

    def _write(self, write: Callable[..., None], *args: Any) -> None:
        """Let the first process write; where the disk refuses, the numbers are printed still."""
        if not self.trainer.is_global_zero:
            return
        try:
            write(*args)
        except OSError as error:
            self.exit_code = 3
            warnings.warn(f"not written to {self.run_dir}: {error}", TrainingWarning, stacklevel=2)

    def _training_line(self, model: Classifier, best: Weights) -> str:
        weights, seconds = num_weights(model.network), self.metrics_log.total_seconds
        return (
            f"{model.name}: {weights:,} weights, best epoch {best.info['epoch']} of "
            f"{self.trainer.current_epoch}, {seconds:.0f} s of training"
        )

    def _finish(self, lines: list[str]) -> None:
        if not self.trainer.is_global_zero:
            return
        print("\n".join(lines))
        if self.is_try:
            print("fast_dev_run: a few batches of each stage ran, and nothing was kept")
            return
        wanted = self.option("report") and (self.run_dir / "metrics.csv").exists()
        if not wanted:
            return
        try:
            print(f"report: {write_report(self.run_dir)}")
        except (OSError, ValueError) as error:  # a run whose report fails is still a run
            warnings.warn(f"the report was not drawn: {error}", TrainingWarning, stacklevel=2)


def summarize(split: str, model: Classifier, weights: Weights) -> dict[str, Any]:
    """Return what is to be said about the test that has just run."""
    return {
        "split": split,
        **model.test_metrics,
        "classes": model.classes,
        "model": model.name,
        "options": model.options,
        "parameters": num_weights(model.network),
        "epoch": weights.info.get("epoch"),
        "step": weights.info.get("step"),
        "checkpoint": weights.path.name,
    }
