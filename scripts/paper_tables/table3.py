"""Table 3: ResNet-56 on CIFAR-10, compressed."""

import argparse

from scripts.paper_tables.counts import Measured, Ours, compare
from scripts.paper_tables.item import Item, Page

HALF = (
    "the paper's figure is half of ResNet-56's: it leaves out the ghost modules' depthwise maps "
    "(2.3 M multiply-adds)"
)
TABLE_12 = (
    "weights: the paper's figure lies between ours at s_g = 8 and at 16 (0.50 M), and its rows do "
    "not grow with s_g as its equation 3.5 does (see Table 12); multiply-adds: 64.3 M without R "
    "and P, the rest is not explained"
)
OURS = {
    "ResNet-56": Ours("resnet56", results=(("model", "resnet56"), ("num_train", "4000"))),
    "Ghost-ResNet-56": Ours("ghost_resnet56", reason=HALF),
    "MGIC-ResNet-56": Ours(
        "mgic_resnet56",
        {"group_size": 8, "coarse_size": 16},
        TABLE_12,
        (("model", "mgic_resnet56"), ("num_train", "4000")),
    ),
}
MEASURED = Measured("images.csv", "test_mean", "ours mnist5k test, 4,000 images, %")


def make(arguments: argparse.Namespace) -> Page:
    """Count."""
    return Page(
        compare("table3", OURS, arguments.docs, MEASURED),
        (
            "Accuracies of the paper are on CIFAR-10, ours on 4,000 digits of mnist5k (images.md): "
            "they are not to be compared with each other. CP, l1 and AMC are methods that prune a "
            "trained network; neither torchvision nor timm has them.",
            "`ours ... without R and P` leaves out restrictions and prolongations, as Table 5's "
            "multiply-adds do.",
        ),
    )


ITEM = Item(
    "table3",
    "compressing ResNet-56 on CIFAR-10",
    needs="nothing; accuracies of ours from images.csv where it is there",
    cost="seconds, counts only",
    offline="counts; CIFAR-10 itself has to be trained with scripts/configs/cifar10.yaml",
    make=make,
)
