"""The command line of every training script, on Lightning's."""

import gc
import logging
import os
import shlex
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from scripts.training.arguments import (
    CONTROL,
    add_options,
    refuse_callbacks,
    refuse_inexact,
    with_saved_config,
)
from scripts.training.averaging import MovingAverage
from scripts.training.classifier import Classifier
from scripts.training.data import ClassificationData, as_options
from scripts.training.parser import Parser
from scripts.training.reliability.checkpoint import SealedCheckpointIO, newest_checkpoint
from scripts.training.reliability.claim import claim, launch_rank, restarted
from scripts.training.reliability.distributed import SameEverywhere, rejoin
from scripts.training.reliability.errors import (
    Interrupted,
    RunFolderError,
    StartAgain,
    TrainingError,
    TrainingWarning,
)
from scripts.training.reliability.recovery import Recovery
from scripts.training.reliability.run_checkpoint import RunCheckpoint
from scripts.training.reliability.run_folder import open_run, spell
from scripts.training.reliability.stop import EXIT_CODES, StopSignals
from scripts.training.reports.metrics_log import MetricsLog
from scripts.training.reports.progress_log import ProgressLog
from scripts.training.reports.tensorboard_log import make_tensorboard
from scripts.training.stages import Stages
from scripts.training.weights import run_folder_of

TRAINER_DEFAULTS = {
    "max_epochs": 20,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # the data module deals the batches out
    "enable_model_summary": False,
    "log_every_n_steps": 1,
    "callbacks": [ProgressLog()],
}


class TrainingCLI(Stages, LightningCLI):
    """Reads the command line, prepares the run folder, builds the Trainer and runs a stage."""

    def __init__(
        self,
        model_class: type[Classifier],
        data_class: type[ClassificationData],
        command: str,
        args: Sequence[str],
    ):
        self.command = shlex.join([*shlex.split(command), *args])
        self.stage = args[0] if args else None
        self.resume_from: Path | None = None
        super().__init__(
            model_class,
            data_class,
            save_config_callback=None,  # it raises at the second start
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={"prog": command, "description": model_class.__doc__.split("\n")[0]},
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=with_saved_config(args, data_class),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Offer Lightning's stages without the arguments of its methods."""
        more = {"ckpt_path", "weights_only", "verbose", "return_predictions"}
        return {stage: data | more for stage, data in LightningCLI.subcommands().items()}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, which model and data are linked to."""
        parser.add_argument("--seed", type=int, default=0, help="all randomness follows from it")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let one seed serve all."""
        parser.link_arguments("seed", "model.seed")
        parser.link_arguments("seed", "data.seed")

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        if self.stage in self.subcommands() and self.stage != subcommand:
            return self.init_parser(**kwargs)  # only named: options take a tenth of a second
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        add_options(parser, subcommand)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Sequence[str]) -> None:
        """Parse the arguments that were handed over, whatever ``sys.argv`` holds."""
        self.config = parser.parse_args(args)

    def _set_seed(self) -> None:
        seed_everything(self.option("seed"), verbose=False)

    def option(self, name: str) -> Any:
        """Return an option of the stage that runs."""
        return self._get(self.config, name)

    def before_instantiate_classes(self) -> None:
        """Set the threads and find the run folder."""
        if self.option("threads"):
            torch.set_num_threads(self.option("threads"))
        checkpoint = self.option("checkpoint")
        if self.option("run_dir"):
            self.run_dir = Path(self.option("run_dir"))
        elif checkpoint:
            self.run_dir = run_folder_of(Path(checkpoint))
        else:
            names = (self.option(group)["name"] for group in ("data", "model"))
            self.run_dir = Path("runs", "-".join(names))
        self._claim()

    def _claim(self) -> None:
        """Take the run folder, where the stage writes to it; a try leaves nothing anywhere."""
        if self.subcommand not in ("fit", "test"):
            return
        if self.option("trainer")["fast_dev_run"]:
            self.is_try = True
            self._folder = tempfile.TemporaryDirectory(prefix="fast_dev_run-")  # gone with us
            self.run_dir = Path(self._folder.name)
        elif launch_rank() == 0:
            try:
                claim(self.run_dir)
            except OSError as error:
                if self.subcommand == "fit":  # a test prints its numbers all the same
                    raise RunFolderError(
                        f"cannot use run folder {self.run_dir}: {error}"
                    ) from error

    def instantiate_classes(self) -> None:
        """Build data, classifier and Trainer; what cannot be built is told without a traceback."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise TrainingError(str(error)) from error

    def _resolved_config(self) -> dict[str, Any]:
        parser = self._parser(self.subcommand)
        config = yaml.safe_load(parser.dump(self.config[self.subcommand]))
        kept = {key: value for key, value in config.items() if key not in CONTROL}
        settings = kept | {"command": self.command}
        if (spelled := spell(settings)) != settings:
            message = "a path is not in UTF-8, config.yaml only shows it: give it again to continue"
            warnings.warn(message, TrainingWarning, stacklevel=2)
        return spelled

    def _open_run(self) -> None:
        mode = "resume" if self.option("resume") or restarted() else "new"
        if mode == "new" and self.option("overwrite"):
            mode = "overwrite"
        if launch_rank() == 0:
            force = self.option("force_config")
            try:
                self.resume_from = open_run(self.run_dir, self.settings, mode, force=force)
            except OSError as error:
                raise RunFolderError(f"cannot use run folder {self.run_dir}: {error}") from error
        elif mode == "resume":
            self.resume_from = newest_checkpoint(self.run_dir / "checkpoints")
        self.recovery = Recovery.read(self.run_dir) if mode == "resume" else Recovery()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what a run needs to the Trainer that was asked for."""
        asked = self._get(self.config_init, "trainer")
        self.checkpoint_io = SealedCheckpointIO()
        kwargs |= {
            "default_root_dir": self.run_dir,
            "plugins": [*_as_list(asked["plugins"]), self.checkpoint_io],
            "logger": False,
            "enable_checkpointing": self.subcommand == "fit",
        }
        if asked["enable_progress_bar"] is None:
            kwargs["enable_progress_bar"] = sys.stderr.isatty()
        if "TORCHELASTIC_RUN_ID" in os.environ and asked["devices"] == "auto":
            kwargs["devices"] = int(os.environ["LOCAL_WORLD_SIZE"])
            kwargs["num_nodes"] = int(os.environ["GROUP_WORLD_SIZE"])
        gpu = torch.cuda.is_available() and asked["accelerator"] in ("auto", "gpu", "cuda")
        rejoin("nccl" if gpu else "gloo")
        if self.subcommand == "fit":
            refuse_inexact(asked)
            refuse_callbacks(_as_list(asked["callbacks"]))
            self.settings = self._resolved_config()
            self._open_run()
            kwargs |= self._recover(asked)
            kwargs |= self._training_parts(asked)
        return super().instantiate_trainer(**kwargs)

    def _recover(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what the run has learned from what went wrong before."""
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.datamodule.recover(self.recovery)
        self.model.pieces = self.recovery.pieces
        self.model.together = world_size > 1 and self.option("on_nonfinite") == "rollback"
        parts = {"accumulate_grad_batches": asked["accumulate_grad_batches"] * self.recovery.pieces}
        if world_size > 1 and asked["strategy"] == "auto":
            timeout = timedelta(seconds=self.option("rank_timeout"))
            parts["strategy"] = DDPStrategy(timeout=timeout)
        return parts

    def _training_parts(self, asked: dict[str, Any]) -> dict[str, Any]:
        every = self.option("checkpoint_every")
        self.metrics_log = MetricsLog(self.run_dir / "metrics.csv")
        self.keeper = RunCheckpoint(self.run_dir / "checkpoints", every=every)
        self.stop = StopSignals(self.keeper)
        decay = self.model.ema_decay
        average = [] if decay is None else [MovingAverage(decay=decay)]
        parts: dict[str, Any] = {
            "callbacks": [
                *_as_list(asked["callbacks"]),
                SameEverywhere(self.settings | asdict(self.recovery)),
                *average,  # before those that save it
                self.metrics_log,
                self.stop,
                self.keeper,
            ]
        }
        usual = asked["logger"] in (None, True)
        return parts | {"logger": make_tensorboard(self.run_dir) if usual else asked["logger"]}


def main(
    model_class: type[Classifier],
    data_class: type[ClassificationData],
    command: str,
    args: Sequence[str],
) -> int:
    """Run a stage of a training script and return its exit code, unless it ends in an error."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    previous = signal.signal(signal.SIGTERM, _terminated)
    formatter, warnings.formatwarning = warnings.formatwarning, _format_warning
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 flattens batches with it, torch 2.14 deprecates it
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            return _run(lambda args: TrainingCLI(model_class, data_class, command, args), args)
    finally:
        signal.signal(signal.SIGTERM, previous)
        warnings.formatwarning = formatter


def _run(start: Callable[[Sequence[str]], TrainingCLI], args: Sequence[str]) -> int:
    """Run a stage, and again from the last checkpoint where something has been changed for that."""
    while True:
        try:
            return start(args).exit_code
        except StartAgain as error:
            warnings.warn(str(error), TrainingWarning, stacklevel=2)
        gc.collect()  # what the error had held
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        args = [*(arg for arg in args if arg not in ("--overwrite", "--resume")), "--resume"]


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Interrupted("stopped by SIGTERM outside of training", EXIT_CODES[signal.SIGTERM])


def _format_warning(message: Warning, category: type[Warning], *place: Any) -> str:
    where = "" if issubclass(category, TrainingWarning) else f" ({place[0]}:{place[1]})"
    return f"warning: {as_options(str(message))}{where}\n"


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
