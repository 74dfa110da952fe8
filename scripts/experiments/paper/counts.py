"""Tables of weights and multiply-adds: the networks of ``tables.yaml`` beside the paper's rows."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
import yaml
from torch import nn

import mgic_geo
import mgic_vision
from mgic_geo import MGICBlock, multiply_adds, num_weights
from scripts.experiments.pages import read_rows
from scripts.experiments.paper.item import Item, Page, number, published, rounding
from scripts.training.networks import make_network

TOLERANCE = 0.02  # above this, a row has to say why it differs from the paper's
POINTS = 1024
TABLES = yaml.safe_load(Path(__file__).with_name("tables.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Counts:
    """Weights and multiply-adds of a network, all of them and those of R and P."""

    weights: int
    multiply_adds: int
    transfer_weights: int = 0
    transfer_multiply_adds: int = 0


@dataclass(frozen=True)
class Ours:
    """The network that stands beside a row of the paper.

    Args:
        model: Name in :func:`mgic_vision.list_models` or :func:`mgic_geo.list_models`, or of a
            network of ``torchvision:`` or ``timm:``.
        options: Its options.
        reason: Why it differs from the paper's, where it does.
        results: Columns of the results that name the row that it was trained as here.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    results: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """Accuracies that another script measured here.

    Args:
        file: In ``docs``.
        column: Of the mean; ``_std`` in place of ``_mean`` is its deviation.
        heading: What they are of, always beginning with ``ours``.
    """

    file: str
    column: str
    heading: str


def networks_of(table: str) -> dict[str, Ours]:
    """The networks of a table by the paper's names of its rows."""
    return {name: Ours(**row) for name, row in TABLES[table]["ours"].items()}


def build(ours: Ours, device: str = "meta") -> nn.Module:
    """Build the network, by default without values where it is one for images."""
    if ours.model in mgic_geo.list_models():
        device = "cpu"
    source, _, name = ours.model.rpartition(":")
    with torch.device(device):
        if source == "torchvision":
            return torchvision.models.get_model(name, weights=None, **ours.options)
        if source == "timm":
            return timm.create_model(name, pretrained=False, **ours.options)
        return make_network(name, None, dict(ours.options))


def count(ours: Ours) -> Counts:
    """Count with the packages' own counters, at the input size of the paper."""
    model = build(ours)
    if isinstance(model, mgic_geo.PointCloudClassifier):
        return count_points(model)
    report = mgic_vision.summary(model, None if hasattr(model, "input_size") else (3, 224, 224))
    total, transfers = report.total, report.transfers
    return Counts(total.weights, total.multiply_adds, transfers.weights, transfers.multiply_adds)


def count_points(model: mgic_geo.PointCloudClassifier, points: int = POINTS) -> Counts:
    """Count for one cloud; what it costs does not depend on where its points are."""
    torch.manual_seed(0)
    transfers = [
        transfer
        for block in model.modules()
        if isinstance(block, MGICBlock)
        for transfer in (*block.restrict, *block.prolong)
        if isinstance(transfer, mgic_geo.GroupedLinear)
    ]
    return Counts(
        num_weights(model),
        multiply_adds(model, torch.rand(points, 3)),
        sum(map(num_weights, transfers)),
        sum(multiply_adds(t, torch.ones(points, t.in_channels)) for t in transfers),
    )


def compare(
    table: str, ours: Mapping[str, Ours], docs: Path, measured: Measured | None = None
) -> list[dict[str, Any]]:
    """Put the paper's rows and ours side by side, by the paper's names.

    Names that the paper has not are rows of ours alone, at the end.
    """
    rows = published(table)["rows"]
    extra = [{"model": name} for name in ours if name not in {row["model"] for row in rows}]
    counted: dict[str, Counts] = {name: count(network) for name, network in ours.items()}
    return [
        _row(table, row, ours.get(row["model"]), counted.get(row["model"]), docs, measured)
        for row in [*rows, *extra]
    ]


def _row(
    table: str,
    row: dict[str, Any],
    ours: Ours | None,
    counts: Counts | None,
    docs: Path,
    measured: Measured | None,
) -> dict[str, Any]:
    """One line: model, both quantities on both sides, accuracies, why they differ."""
    line: dict[str, Any] = {"model": row["model"]}
    reasons = []
    for key in ("weights", "multiply_adds"):
        label, paper = key.replace("_", "-"), number(table, row, key)
        mine = getattr(counts, key) if counts else None
        line[f"paper {label}"] = None if paper is None else round(paper)
        line[f"ours {label}"] = mine
        transfers = getattr(counts, f"transfer_{key}") if counts else 0
        line[f"ours {label} without R and P"] = None if mine is None else mine - transfers
        known = mine is not None and paper
        off = round(100 * (mine / paper - 1), 1) if known else None
        line[f"difference of {label}, %"] = off
        if off is None or abs(off) <= 100 * TOLERANCE:
            continue
        if abs(mine - paper) <= rounding(table, row, key):
            reasons.append(f"{label}: within the rounding of the printed {row[key]}")
        elif ours:
            reasons.append(ours.reason)
    for key, label in published(table)["accuracy"].items():
        line[f"paper {label}"] = float(row[key]) if key in row else None
    if measured:
        line[measured.heading] = find_measured(docs, measured, ours.results if ours else {})
    return line | {"why they differ": "; ".join(dict.fromkeys(reasons))}


def find_measured(docs: Path, measured: Measured, results: Mapping[str, str]) -> str | None:
    """Mean and deviation over the seeds, as a script here has measured them, if it has."""
    for row in read_rows(docs / measured.file) if results else ():
        if row[measured.column] and results.items() <= row.items():
            deviation = row.get(measured.column.replace("_mean", "_std"))
            mean = f"{float(row[measured.column]):.1f}"
            return f"{mean} ± {float(deviation):.1f}" if deviation else mean
    return None


def make(table: str, arguments: argparse.Namespace) -> Page:
    """Count the networks of a table."""
    entry = TABLES[table]
    measured = Measured(**entry["measured"]) if "measured" in entry else None
    rows = compare(table, networks_of(table), arguments.docs, measured)
    seeds = {"seeds": entry["seeds"]} if "seeds" in entry else {}
    return Page(rows, "\n\n".join(entry["notes"]), **seeds)


ITEMS = {
    table: Item(table, entry["title"], entry["cost"], entry["offline"], partial(make, table))
    for table, entry in TABLES.items()
}
