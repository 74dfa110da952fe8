"""A comparison of networks that Lightning's loop trains: its specification, and how it is run."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from torch import Tensor, nn

from scripts.benchmarks import machine, timing
from scripts.experiments import runs
from scripts.experiments.pages import as_png, fill, write_page
from scripts.experiments.ranges import Row, summarize
from scripts.experiments.runs import TrainingRun

REPEATS = 7  # training steps timed of every network

Batch = tuple[Sequence[Any], Tensor]
Place = tuple[str, int | None]  # name and setting of a contender


@dataclass(frozen=True)
class Contender:
    """A row of a table: a network, and what it is there for.

    Args:
        name: Of the row and of its runs.
        note: What it is there for; begins with ``control`` or ``MGIC`` where it is one.
        model: Name in the registry, by default that of the row.
        options: Of the model.
        settings: Of the training, where they are its own.
    """

    name: str
    note: str
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Networks trained alike with several seeds.

    Args:
        name: Of the command, of the folder in ``runs`` and of the page.
        title: Of the page.
        script: Training script.
        config: Configuration of all runs.
        contenders: Who takes part.
        questions: Pairs of contenders, and what their comparison tells.
        create: ``(name, num_classes, **options)`` to the network.
        num_classes: Classes to tell apart.
        costs: From a network and the configuration to its costs, ``weights`` among them.
        draw: From rows, and runs of the first seed, to the figure.
        keys: Results in the table.
        splits: What is tested.
        make_batch: From the configuration to a batch for timing, if training steps are timed.
        fuse: Prepares a network for inference, if that is timed too.
        timed: Column of the time of training, and from the configuration how many batches it is of.
        measure: As :class:`TrainingRun` has it.
        settings: What contenders are trained with one after the other, by number of images.
        rates: Learning rates; every contender, and every setting of it, gets the one whose run of
            the first seed is best on the training data that are held out.
    """

    name: str
    title: str
    script: str
    config: Path
    contenders: Sequence[Contender]
    questions: Sequence[tuple[str, str, str]]
    create: Callable[..., nn.Module]
    num_classes: int
    costs: Callable[[nn.Module, dict[str, Any]], Row]
    draw: Callable[[list[Row], Sequence[TrainingRun]], Figure]
    keys: Sequence[str]
    splits: Sequence[str] = ("test",)
    make_batch: Callable[[dict[str, Any]], Batch] | None = None
    fuse: Callable[[nn.Module], nn.Module] | None = None
    timed: tuple[str, Callable[[dict[str, Any]], float]] | None = None
    measure: Callable[[str, dict[str, Any]], dict[str, float]] = TrainingRun.measure
    settings: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    rates: Sequence[float] = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""
        runs.add_arguments(parser, f"runs/{self.name}", jobs=2)
        parser.epilog = (
            f"Further options go to scripts.{self.script}, such as --trainer.max_epochs 1: "
            "all contenders are trained with them."
        )
        if self.settings:
            known = list(self.settings)
            parser.add_argument("--images", type=int, nargs="+", choices=known, default=known)

    def run(self, options: argparse.Namespace, changes: Mapping[str, Any]) -> Path:
        """Run what is missing and write the page.

        Raises:
            ValueError: It needs a folder of data, and none is named.
        """
        data = read_config(self.config, changes)["data"]
        if data.get("name") == "folder" and not data.get("root"):
            raise ValueError(f"{self.name} trains on a folder of yours: give --data.root FOLDER")
        contenders = {
            (contender.name, setting): contender
            for setting in (options.images if self.settings else [None])
            for contender in self.contenders
        }

        def make_run(place: Place, rate: float | None, seed: int = 0) -> TrainingRun:
            return self.make_run(contenders[place], place[1], seed, options.runs, changes, rate)

        rates: dict[Place, float | None] = dict.fromkeys(contenders)
        if self.rates:
            rates = runs.choose_rates(contenders, self.rates, make_run, options)
        pieces = {
            (*place, rate, seed): make_run(place, rate, seed)
            for seed in range(options.seeds)  # those of the first one are a table already
            for place, rate in rates.items()
        }
        found = runs.finish(pieces, options)
        rows = []
        seconds = step_seconds(self, changes) if self.make_batch else {}
        inference = inference_seconds(self, changes) if self.fuse else {}
        for (name, setting), contender in contenders.items():
            config = read_config(self.config, {**self._settings(setting), **changes})
            rate = rates.get((name, setting))
            results = runs.over_seeds(found, name, setting, rate)
            row: Row = {"model": name, "note": contender.note}
            row |= {"rate": rate} if self.rates else {}
            row |= {} if setting is None else {"num_train": setting}
            row |= self.costs(self.make_network(contender, config), config)
            row |= {"epochs": config["trainer"]["max_epochs"], "runs": len(results)}
            if self.timed:
                column, batches = self.timed
                row |= {column: batches(config) * seconds[name]}
            if self.fuse:
                row |= {"step_ms": 1000 * seconds[name]}
                row |= {"inference_ms": 1000 * inference[name]}
            rows.append(row | summarize(results.values(), self.keys))
        text = fill(
            f"{self.name}.md",
            rows=rows,
            by_model=[[r for r in rows if r["model"] == c.name] for c in self.contenders],
            config=config,
            comparison=self,
            seeds=options.seeds,
            jobs=options.jobs,
            cores=os.cpu_count(),
            missing=options.seeds * len(contenders) - len(found),
        )
        first = [piece for key, piece in pieces.items() if key in found and key[-1] == 0]
        with_folder = [piece for piece in first if piece.path.exists()]
        pictures = {"": as_png(self.draw, rows, with_folder)} if first else {}
        return write_page(options.docs, self.name, text, rows, pictures)

    def make_run(
        self,
        contender: Contender,
        setting: int | None,
        seed: int,
        folder: Path,
        changes: Mapping[str, Any],
        rate: float | None = None,
    ) -> TrainingRun:
        """Return the run of one contender with one seed, and with a rate where those are chosen."""
        parts = (contender.name, setting, rate, seed)
        name = "-".join(str(part) for part in parts if part is not None)
        settings = {"model.name": contender.model or contender.name}
        settings |= {f"model.options.{key}": value for key, value in contender.options.items()}
        settings |= contender.settings
        settings |= {} if rate is None else {"model.optimizer.lr": rate}
        settings |= self._settings(setting) | changes
        return TrainingRun(
            folder / name, self.script, self.config, settings, seed, self.splits, self.measure
        )

    def make_network(self, contender: Contender, config: dict[str, Any]) -> nn.Module:
        """Build a contender, with the options of the command."""
        options = {**contender.options, **config["model"].get("options", {})}
        return self.create(contender.model or contender.name, self.num_classes, **options)

    def _settings(self, setting: int | None) -> dict[str, Any]:
        return {} if setting is None else {"data.num_train": setting, **self.settings[setting]}


def read_config(path: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Read a configuration and change some settings, given by their dotted names."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        *groups, last = name.split(".")
        place = config
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return config


def step_seconds(comparison: Comparison, changes: Mapping[str, Any]) -> dict[str, float]:
    """Time a training step of every network on one thread, side by side.

    What the runs themselves took depends on what else the machine did meanwhile.

    Returns:
        The median, by the name of the contender.
    """
    return _race(comparison, changes, lambda net, batch: timing.training_step(net, [batch]))


def inference_seconds(comparison: Comparison, changes: Mapping[str, Any]) -> dict[str, float]:
    """Time every network, fused, on one batch and one thread, side by side, as training steps."""
    fuse = comparison.fuse
    assert fuse is not None
    return _race(
        comparison, changes, lambda net, batch: timing.inference(fuse(net.eval()), batch[0])
    )


def _race(
    comparison: Comparison,
    changes: Mapping[str, Any],
    make_racer: Callable[[nn.Module, Batch], timing.Run],
) -> dict[str, float]:
    config = read_config(comparison.config, changes)
    with machine.threads(1):
        assert comparison.make_batch is not None
        batch = comparison.make_batch(config)
        racers = {
            contender.name: make_racer(comparison.make_network(contender, config), batch)
            for contender in comparison.contenders
        }
        samples = timing.race(racers, repeats=REPEATS)
    return {name: timing.spread(times).median for name, times in samples.items()}
