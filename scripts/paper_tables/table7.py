"""Table 7: light networks on ImageNet."""

import argparse

from scripts.paper_tables.counts import Ours, compare
from scripts.paper_tables.item import Item, Page

BLOCKS = (
    "weights: head, last convolution and squeeze-excites of Table 6 alone have {floor} M of these "
    "(see Table 13), the rest are 16 cycles. Multiply-adds: {without} M without R and P; the rest "
    "of the gap are the coarser levels, which every one of the 16 rows has here, also where the "
    "width is below s_c = 64"
)
NAMES = {"0.6x": (0.6, "1.82", "99"), "1.0x": (1.0, "4.17", "179"), "1.2x": (1.2, "5.69", "246")}


def _ours(scale: str, h_swish: bool) -> Ours:
    width, floor, without = NAMES[scale]
    reason = BLOCKS.format(floor=floor, without=without)
    if not h_swish:
        reason += "; h-swish itself costs no multiply-adds by this count"
    return Ours("mgic_mobilenetv3", {"width": width, "h_swish": h_swish}, reason)


OURS = {
    "MobileNetV2 0.35x": Ours("timm:mobilenetv2_035"),
    "ShuffleNetV2 0.5x": Ours("torchvision:shufflenet_v2_x0_5"),
    "MobileNetV3-Small 0.75x": Ours(
        "timm:mobilenetv3_small_075",
        reason="timm's port of the authors' network has fewer weights than their paper prints",
    ),
    "GhostNet 0.5x": Ours("ghostnet_050"),
    "MGIC-MobileNetV3 0.6x": _ours("0.6x", True),
    "MGIC-MobileNetV3 0.6x, no h-swish": _ours("0.6x", False),
    "MobileNetV2 0.6x": Ours(
        "torchvision:mobilenet_v2",
        {"width_mult": 0.6},
        "0.6x is none of the widths that its authors published; torchvision's rounding of widths",
    ),
    "ShuffleNetV2 1.0x": Ours("torchvision:shufflenet_v2_x1_0"),
    "MobileNetV3-Large 0.75x": Ours("timm:mobilenetv3_large_075"),
    "GhostNet 1.0x": Ours("ghostnet_100"),
    "MGIC-MobileNetV3 1.0x": _ours("1.0x", True),
    "MGIC-MobileNetV3 1.0x, no h-swish": _ours("1.0x", False),
    "MobileNetV2 1.0x": Ours("mobilenet_v2"),
    "ShuffleNetV2 1.5x": Ours("torchvision:shufflenet_v2_x1_5"),
    "MnasNet-A1": Ours("timm:semnasnet_100"),
    "MobileNetV3-Large 1.0x": Ours("mobilenet_v3_large"),
    "GhostNet 1.3x": Ours("ghostnet_130"),
    "MGIC-MobileNetV3 1.2x": _ours("1.2x", True),
    "MGIC-MobileNetV3 1.2x, no h-swish": _ours("1.2x", False),
}


def make(arguments: argparse.Namespace) -> Page:
    """Count."""
    return Page(
        compare("table7", OURS, arguments.docs),
        (
            "The paper's accuracies are on ImageNet, which was not trained here.",
            "GhostNets, MobileNetV2 and V3, ShuffleNetV2 and MnasNet-A1 are torchvision's and "
            "timm's; the other networks are in neither.",
            "The paper contradicts itself: with the head and squeeze-excites that Table 6 "
            "prescribes, Table 13's figures leave nothing for the blocks.",
        ),
    )


ITEM = Item(
    "table7",
    "light networks on ImageNet",
    needs="nothing",
    cost="under a minute, counts only",
    offline="counts; accuracies need ImageNet and many GPU days",
    make=make,
)
