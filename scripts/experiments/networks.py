"""Comparisons of the packages' networks: point clouds, their parts, images, segmentation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import mgic_geo
import mgic_vision
from datasets.digit_scenes import CLASSES
from datasets.shapes10_parts import PARTS
from mgic_geo import multiply_adds, num_weights
from scripts.benchmarks.points import make_batches
from scripts.experiments.comparison import Batch, Comparison, Contender
from scripts.experiments.figures import Panel, dot_rows, with_pictures
from scripts.experiments.ranges import Row
from scripts.experiments.runs import TrainingRun
from scripts.training.reports.masks import draw_picture, mask_legend, paint
from scripts.training.reports.parts import draw_colored, part_colors, part_legend

CONFIGS = Path("scripts/configs")
HARD = ("test", "test-hard")
NUM_PICTURES = 4


def _cloud_costs(network: nn.Module, config: dict[str, Any]) -> Row:
    points = torch.rand(config["data"]["num_points"], 3)
    row = {"weights": num_weights(network), "multiply_adds": multiply_adds(network, points)}
    return row | ({"hops": network.num_hops} if hasattr(network, "num_hops") else {})


def _image_costs(network: nn.Module, config: dict[str, Any]) -> Row:
    side = config["data"].get("scene_size", config["data"].get("size"))
    costs = mgic_vision.summary(network, (3, side, side))
    return {
        "weights": costs.total.weights,
        "multiply_adds": costs.total.multiply_adds,
        "multiply_adds_without_transfers": costs.without_transfers.multiply_adds,
    }


def _clouds(config: dict[str, Any]) -> Batch:
    return make_batches(config["data"]["batch_size"], config["data"]["num_points"], 1)[0]


def _images(config: dict[str, Any]) -> Batch:
    count, side = config["data"]["batch_size"], config["data"]["size"]
    images = torch.rand(count, 3, side, side).to(memory_format=torch.channels_last)
    return (images,), torch.arange(count) % 10


def _scenes(config: dict[str, Any]) -> Batch:
    count, crop = config["data"]["batch_size"], config["data"]["crop"]
    return (torch.rand(count, 3, *crop),), torch.randint(len(CLASSES), (count, *crop))


def _epoch_of_shapes(config: dict[str, Any]) -> float:
    data = config["data"]
    train = 10 * data["shapes_per_class"][0] * (1 - data["val_fraction"])
    return train // data["batch_size"]


def _measure_parts(split: str, result: dict[str, Any]) -> dict[str, float]:
    return {split: 100 * result["accuracy"], f"{split}-miou": 100 * result["miou"]}


def _measure_scenes(split: str, result: dict[str, Any]) -> dict[str, float]:
    background, *digits = (np.nan if iou is None else 100 * iou for iou in result["iou"])
    values = {"miou": 100 * result["miou"], "digits": float(np.nanmean(digits))}
    return values | {"background": background, "test": 100 * result["accuracy"]}


def read_pictures(
    found: Sequence[TrainingRun], names: Sequence[str]
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Read arrays of the predictions of runs, by the names of their contenders."""
    pictures = []
    for run in found:
        with np.load(run.path / "predictions.npz", allow_pickle=False) as file:
            pictures.append((run.path.name.rpartition("-")[0], {key: file[key] for key in names}))
    return pictures


def draw_parts(rows: list[Row], found: Sequence[TrainingRun]) -> Figure:
    """Draw mIoU against weights, and some test clouds as the first runs saw them."""
    pictures, colors = read_pictures(found, ("clouds", "truths", "parts")), part_colors(len(PARTS))
    arrays = pictures[0][1]
    step = max(1, len(arrays["clouds"]) // NUM_PICTURES)
    some = slice(0, step * NUM_PICTURES, step)
    columns = {"truth": arrays["truths"], **{name: each["parts"] for name, each in pictures}}
    columns = {
        name: list(zip(arrays["clouds"][some], colors[parts[some]], strict=True))
        for name, parts in columns.items()
    }
    legend = part_legend(PARTS, np.unique(arrays["truths"][some]))
    return with_pictures(rows, "test-miou", "test mIoU, %", columns, draw_colored, legend)


def draw_scenes(rows: list[Row], found: Sequence[TrainingRun]) -> Figure:
    """Draw mIoU against weights, and the same test scenes as the first runs saw them."""
    pictures = read_pictures(found, ("scenes", "truths", "masks", "colors"))
    arrays = pictures[0][1]
    columns = {"image": arrays["scenes"], "truth": paint(arrays["truths"], arrays["colors"])}
    for name, each in pictures:
        columns[name.removeprefix("lraspp_")] = paint(each["masks"], each["colors"])
    columns = {name: each[:NUM_PICTURES] for name, each in columns.items()}
    legend = mask_legend(CLASSES, arrays["colors"])
    return with_pictures(rows, "miou", "test mIoU, %", columns, draw_picture, legend)


def _draw_sizes(rows: list[Row], found: Sequence[TrainingRun]) -> Figure:
    sizes = dict.fromkeys(int(row["num_train"]) for row in rows)
    return dot_rows(
        [
            Panel(
                f"{size:,} training images",
                [row for row in rows if int(row["num_train"]) == size],
                "test",
                "test accuracy, %",
            )
            for size in sizes
        ]
    )


POINTS = Comparison(
    "points",
    "Point clouds: every model on shapes10",
    script="train_modelnet10",
    config=CONFIGS / "points.yaml",
    contenders=(
        Contender("pointnet", "control: no neighbors"),
        Contender("random_graph", "control: random neighbors"),
        Contender("dgcnn", "dense, dynamic graph"),
        Contender("mgic_dgcnn", "MGIC, dynamic graph"),
        Contender("diffgcn", "dense, static graph"),
        # the first G-conv of mgic_diffgcn reaches five hops, the others four
        Contender(
            "diffgcn-hops",
            "control: dense, as many hops as MGIC",
            "diffgcn",
            {"layers": [5, 4, 4, 4, 4, 4]},
        ),
        Contender("mgic_diffgcn", "MGIC, static graph"),
    ),
    questions=(
        ("mgic_diffgcn", "pointnet", "neighborhoods"),
        ("mgic_diffgcn", "random_graph", "real against random neighbors"),
        ("dgcnn", "random_graph", "real against random neighbors, same weights"),
        ("diffgcn", "pointnet", "neighborhoods, dense"),
        ("dgcnn", "pointnet", "neighborhoods, dynamic graph"),
        ("mgic_diffgcn", "diffgcn", "MGIC against its dense twin"),
        ("mgic_diffgcn", "diffgcn-hops", "MGIC against dense with as many hops"),
        ("mgic_dgcnn", "dgcnn", "MGIC against its dense twin"),
    ),
    create=mgic_geo.create_model,
    num_classes=10,
    costs=_cloud_costs,
    make_batch=_clouds,
    timed=("epoch_seconds", _epoch_of_shapes),
    draw=lambda rows, found: dot_rows([Panel(split, rows, split, "accuracy, %") for split in HARD]),
    keys=("test", "test-class", "test-hard", "test-hard-class"),
    splits=HARD,
)
PARTS_OF_POINTS = Comparison(
    "parts",
    "Parts of point clouds: every backbone on shapes10",
    script="train_parts",
    config=CONFIGS / "parts.yaml",
    contenders=(
        Contender("pointnet", "control: no neighbors"),
        Contender("dgcnn", "dense, dynamic graph"),
        Contender("mgic_dgcnn", "MGIC, dynamic graph"),
        Contender("diffgcn", "dense, static graph"),
        Contender("mgic_diffgcn", "MGIC, static graph"),
    ),
    questions=(
        ("mgic_diffgcn", "diffgcn", "MGIC against its dense twin"),
        ("mgic_dgcnn", "dgcnn", "MGIC against its dense twin"),
        ("mgic_diffgcn", "pointnet", "neighborhoods"),
        ("mgic_diffgcn", "mgic_dgcnn", "static against dynamic graph"),
    ),
    create=mgic_geo.create_segmenter,
    num_classes=len(PARTS),
    costs=_cloud_costs,
    draw=draw_parts,
    keys=("test-miou", "test", "test-hard-miou", "test-hard"),
    splits=HARD,
    measure=_measure_parts,
)
IMAGES = Comparison(
    "images",
    "Images: few real digits",
    script="train_image",
    config=CONFIGS / "images.yaml",
    contenders=(
        Contender("resnet56", "dense"),
        Contender(
            "mgic_resnet56", "MGIC", options={"group_size": 8, "coarse_size": 16, "depth": 56}
        ),
        # at depth 56 no width is as close to the weights of MGIC as these are at depth 50
        Contender(
            "resnet-narrow",
            "control: dense, as many weights",
            "resnet56",
            {"width": 10, "depth": 50},
        ),
        Contender(
            "ghost-narrow",
            "ghost modules, as many weights",
            "ghost_resnet56",
            {"width": 14, "depth": 50},
        ),
    ),
    questions=(
        ("mgic_resnet56", "resnet56", "MGIC against the dense network"),
        ("mgic_resnet56", "resnet-narrow", "MGIC against dense with as many weights"),
        ("mgic_resnet56", "ghost-narrow", "MGIC against ghost modules with as many weights"),
    ),
    create=mgic_vision.create_model,
    num_classes=10,
    costs=_image_costs,
    make_batch=_images,
    timed=("seconds_per_1000", lambda config: 1000 / config["data"]["batch_size"]),
    draw=_draw_sizes,
    keys=("test",),
    # epochs to fit an hour
    settings={
        size: {"trainer.max_epochs": epochs} for size, epochs in ((200, 50), (1000, 16), (4000, 4))
    },
)
SEGMENTATION = Comparison(
    "segmentation",
    "Segmentation: scenes of digits",
    script="train_segmentation",
    config=CONFIGS / "digit_scenes.yaml",
    contenders=(
        Contender("lraspp_mobilenet_v3_large", "dense, torchvision's MobileNetV3"),
        Contender("lraspp_mgic_large", "MGIC"),
        Contender("lraspp_mgic_small", "MGIC, small"),
    ),
    questions=(
        ("lraspp_mgic_large", "lraspp_mobilenet_v3_large", "MGIC against MobileNetV3"),
        ("lraspp_mgic_small", "lraspp_mobilenet_v3_large", "small MGIC against MobileNetV3"),
        ("lraspp_mgic_small", "lraspp_mgic_large", "small against large MGIC"),
    ),
    create=mgic_vision.create_model,
    num_classes=len(CLASSES),
    costs=_image_costs,
    make_batch=_scenes,
    timed=(
        "epoch_seconds",
        lambda config: config["data"]["scenes"][0] / config["data"]["batch_size"],
    ),
    draw=draw_scenes,
    keys=("miou", "digits", "background", "test"),
    measure=_measure_scenes,
)
