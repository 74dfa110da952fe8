"""Comparisons of both cycles with every control, each network at a learning rate of its own.

The controls have MGIC's weights: a narrow dense network, one that is narrow and deep, with as many
convolutions in a row as the paper's cycle has, and on images one of ghost modules.
"""

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.figure import Figure

import mgic_geo
import mgic_vision
from scripts.experiments.comparison import Comparison, Contender
from scripts.experiments.figures import Panel, dot_rows
from scripts.experiments.networks import CONFIGS, IMAGES, POINTS
from scripts.experiments.ranges import Row
from scripts.experiments.runs import TrainingRun

POINTNET = Contender("pointnet", "control: no neighbors")


def _draw_classes(rows: list[Row], found: Sequence[TrainingRun]) -> Figure:
    titles = {"of shapes": "test", "of classes": "test-class"}
    return dot_rows([Panel(title, rows, key, "accuracy, %") for title, key in titles.items()])


def _cycles(name: str, title: str, dense: str, *, narrow: int, deep: int) -> Comparison:
    """Compare a dense network of points with both cycles, and with dense ones of two widths."""
    mgic = f"mgic_{dense}"
    additive, thin, long = f"{mgic}-additive", f"{dense}-narrow", f"{dense}-deep"
    hops = {"layers": [5, 4, 4, 4, 4, 4]}  # those of the paper's cycle
    return replace(
        POINTS,
        name=name,
        title=f"{title}: both cycles and their controls",
        contenders=(
            Contender(dense, "dense"),
            Contender(thin, "control: narrow", dense, {"width": narrow}),
            Contender(long, "control: narrow and deep", dense, {"width": deep} | hops),
            Contender(mgic, "MGIC, the paper's cycle"),
            Contender(additive, "MGIC, additive", mgic, {"cycle": "additive"}),
        ),
        questions=(
            (additive, mgic, "additive against the paper's cycle"),
            (additive, dense, "additive against the dense twin"),
            (additive, thin, "additive against narrow"),
            (additive, long, "additive against narrow and deep"),
            (mgic, dense, "the paper's cycle against the dense twin"),
            (mgic, thin, "the paper's cycle against narrow"),
            (mgic, long, "the paper's cycle against narrow and deep"),
        ),
        fuse=mgic_geo.fuse,
        rates=(0.002, 0.005, 0.01),
    )


EDGE_CYCLES = _cycles("edge_cycles", "Edge convolutions", "dgcnn", narrow=52, deep=28)
DIFFERENTIAL_CYCLES = _cycles(
    "differential_cycles", "Differential convolutions", "diffgcn", narrow=42, deep=20
)


def _on_cad(comparison: Comparison, title: str) -> Comparison:
    """Make the comparison on real CAD models, a folder that the user has (`--data.root`)."""
    dense = comparison.contenders[0].name
    return replace(
        comparison,
        name=f"{comparison.name.partition('_')[0]}_cad",
        title=f"{title} on CAD models: both cycles and their controls",
        config=CONFIGS / "cad.yaml",
        contenders=(*comparison.contenders, POINTNET),
        questions=(*comparison.questions, (dense, POINTNET.name, "dense against no neighbors")),
        draw=_draw_classes,
        keys=("test", "test-class"),
        splits=("test",),
        timed=None,
    )


EDGE_CAD = _on_cad(EDGE_CYCLES, "Edge convolutions")
DIFFERENTIAL_CAD = _on_cad(DIFFERENTIAL_CYCLES, "Differential convolutions")
PROTOCOL = replace(
    POINTS,
    name="protocol",
    title="How much of a difference is protocol: one dgcnn, trained and tested in other ways",
    contenders=(
        Contender("base", "as on the page of points", "dgcnn"),
        Contender(
            "no-smoothing",
            "without label smoothing",
            "dgcnn",
            settings={"model.label_smoothing": 0.0},
        ),
        Contender(
            "last-epoch",
            "nothing held out, the last epoch",
            "dgcnn",
            settings={"data.val_fraction": 0.0},
        ),
        Contender("ten-votes", "ten draws of each shape", "dgcnn", settings={"data.votes": 10}),
    ),
    questions=(
        ("no-smoothing", "base", "label smoothing"),
        ("last-epoch", "base", "choice of the epoch"),
        ("ten-votes", "base", "draws of the test"),
    ),
    make_batch=None,
    timed=None,
)


def _on_fashion(
    name: str, title: str, layers: dict[str, int], cycle: dict[str, int], **controls: dict[str, int]
) -> Comparison:
    """Compare a dense network of images with both cycles, and with its controls.

    Args:
        name: Of the comparison.
        title: Of the page.
        layers: Depth of the dense network and of MGIC, and the width where it is not 16.
        cycle: Options of MGIC.
        controls: Depth and width of those of MGIC's weights, ``narrow``, ``deep`` and ``ghost``.
    """
    dense = f"resnet{layers['depth']}"
    mgic, additive = f"mgic_{dense}", f"mgic_{dense}-additive"
    thin, long, ghost = f"{dense}-narrow", "resnet-deep", "ghost-narrow"
    others = {
        dense: "the dense network",
        thin: "narrow",
        long: "narrow and deep",
        ghost: "ghost modules",
    }
    options = layers | cycle
    return replace(
        IMAGES,
        name=name,
        title=f"{title}: both cycles and their controls",
        config=CONFIGS / "fashion.yaml",
        contenders=(
            Contender(dense, "dense", "resnet56", layers),
            Contender(thin, "control: narrow", "resnet56", controls["narrow"]),
            Contender(long, "control: narrow and deep", "resnet56", controls["deep"]),
            Contender(ghost, "control: ghost modules", "ghost_resnet56", controls["ghost"]),
            Contender(mgic, "MGIC, the paper's cycle", "mgic_resnet56", options),
            Contender(additive, "MGIC, additive", "mgic_resnet56", options | {"cycle": "additive"}),
        ),
        questions=tuple(
            (own, other, f"{form} against {control}")
            for own, form in ((mgic, "the paper's cycle"), (additive, "additive"))
            for other, control in others.items()
        ),
        fuse=mgic_vision.fuse,
        # images that are trained with; a fifth or a tenth more is held out
        settings={
            images: {
                "data.num_train": num_train,
                "data.val_fraction": held_out,
                "data.batch_size": batch_size,
                "trainer.max_epochs": epochs,
            }
            for images, num_train, held_out, batch_size, epochs in (
                (1_000, 1_250, 0.2, 32, 30),
                (10_000, 11_112, 0.1, 64, 8),
                (54_000, 60_000, 0.1, 128, 6),
            )
        },
        rates=(0.001, 0.003, 0.01),
    )


# as many convolutions in a row as the paper's cycle has: depth 38, and 20 in the wide one
FASHION = _on_fashion(
    "fashion",
    "Fashion-MNIST",
    {"depth": 20},
    {"group_size": 8, "coarse_size": 16},
    narrow={"depth": 20, "width": 10},
    deep={"depth": 38, "width": 7},
    ghost={"depth": 20, "width": 14},
)
FASHION_WIDE = _on_fashion(
    "fashion_wide",
    "Fashion-MNIST, wide networks",
    {"depth": 8, "width": 64},
    {"group_size": 16, "coarse_size": 32},
    narrow={"depth": 8, "width": 31},
    deep={"depth": 20, "width": 16},
    ghost={"depth": 8, "width": 44},
)
