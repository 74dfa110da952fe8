"""Table 7: light networks on ImageNet."""

import argparse

from scripts.paper_tables.counts import Ours, compare
from scripts.paper_tables.item import Item, Page

BLOCKS = (
    "weights: of the printed {printed} M, Table 6's head, last convolution and squeeze-excites "
    "({floor} M) leave {left} M for stem and cycles, which have {ours} M here; multiply-adds: "
    "{without} M without R and P, {bare} M also without coarser levels at widths up to s_c: "
    "{verdict}"
)
UNEXPLAINED = "the rest is not explained"
BETWEEN = "the printed figure lies between"
SCALES = {
    "0.6x": (0.6, ("2.3", "1.82", "0.48", "0.77", "99", "84", UNEXPLAINED)),
    "1.0x": (1.0, ("5.2", "4.17", "1.03", "1.33", "179", "166", UNEXPLAINED)),
    "1.2x": (1.2, ("7.1", "5.69", "1.41", "1.92", "246", "227", BETWEEN)),
}
PARTS = ("printed", "floor", "left", "ours", "without", "bare", "verdict")


def _ours(scale: str, h_swish: bool) -> Ours:
    width, numbers = SCALES[scale]
    reason = BLOCKS.format(**dict(zip(PARTS, numbers, strict=True)))
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
