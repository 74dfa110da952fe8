"""Table 13: coarsest width s_c and group size s_g of MGIC-MobileNetV3 on ImageNet."""

import argparse

from scripts.paper_tables.counts import Ours, compare
from scripts.paper_tables.item import Item, Page
from scripts.paper_tables.published import published

REASON = "Tables 6 and 13 cannot both hold, see below"
WHY = (
    "Head, last convolution and squeeze-excites of Table 6 have 4.17 M weights, so that the "
    "paper's 4.2 M at s_g = 2 leave 0.03 M for 16 blocks, whose depthwise kernels alone have "
    "0.25 M here: Tables 6 and 13 cannot both hold. In every row ours has from 0.3 to 0.6 M more."
)


def make(arguments: argparse.Namespace) -> Page:
    """Count."""
    ours = {
        row["model"]: Ours(
            "mgic_mobilenetv3", {"group_size": row["s_g"], "coarse_size": row["s_c"]}, REASON
        )
        for row in published("table13")["rows"]
    }
    return Page(
        compare("table13", ours, arguments.docs),
        (
            WHY,
            "The paper's accuracies are on ImageNet, which was not trained here; it prints no "
            "multiply-adds for these rows.",
        ),
    )


ITEM = Item(
    "table13",
    "s_c and s_g of MGIC-MobileNetV3 on ImageNet",
    needs="nothing",
    cost="under a minute, counts only",
    offline="counts; accuracies need ImageNet and many GPU days",
    make=make,
)
