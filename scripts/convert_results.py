"""What conversion saves in well-known networks, in ``docs/results/convert.md``: counts only.

``python -m scripts.convert_results`` builds every network without values, converts it and counts;
it takes seconds, and nothing is downloaded or trained.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from mgic_geo import Report
from mgic_vision import convert
from scripts.training import comparison
from scripts.training.reliability.files import write_whole

GROUP_SIZE, COARSE_SIZE = 32, 64
INPUT_SIZE = (3, 224, 224)
NETWORKS = {
    "resnet50": ("torchvision", "resnet50"),
    "mobilenetv3_large_100": ("timm", "mobilenetv3_large_100"),
    "convnext_tiny": ("timm", "convnext_tiny"),
    "vit_small_patch16_224": ("timm", "vit_small_patch16_224"),
    "resnet18": ("torchvision", "resnet18"),
    "resnet152": ("timm", "resnet152"),
    "resnext50_32x4d": ("torchvision", "resnext50_32x4d"),
    "wide_resnet50_2": ("torchvision", "wide_resnet50_2"),
    "mobilenet_v2": ("torchvision", "mobilenet_v2"),
    "efficientnet_b0": ("timm", "efficientnet_b0"),
    "convnext_base": ("torchvision", "convnext_base"),
    "vit_b_16": ("torchvision", "vit_b_16"),
}
#: What the weights must at most be, as a share of the original's.
BARS = {
    "resnet50": 0.62,
    "mobilenetv3_large_100": 0.97,
    "convnext_tiny": 0.30,
    "vit_small_patch16_224": 0.55,
}


def main(args: Sequence[str] | None = None) -> int:
    """Convert all networks and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--docs", type=Path, default=Path("docs/results"))
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    options = parser.parse_args(args)
    rows = [make_row(name) for name in options.networks]
    comparison.write_csv(options.docs / "convert.csv", rows)
    write_whole(options.docs / "convert.md", page(rows).encode())
    print(f"wrote {options.docs / 'convert.md'}")
    return 0


def make(library: str, name: str) -> nn.Module:
    """Build a network of 1,000 classes."""
    if library == "timm":
        return timm.create_model(name)
    return getattr(torchvision.models, name)()


def make_row(name: str) -> dict[str, Any]:
    """Convert one network and count."""
    library, function = NETWORKS[name]
    with torch.device("meta"):
        model = make(library, function)
    sizes = {"group_size": GROUP_SIZE, "coarse_size": COARSE_SIZE}
    _, report = convert(model, **sizes, input_size=INPUT_SIZE)
    return {
        "network": name,
        "library": library,
        "changed": len(report.changed),
        "left": len(report.left),
        "weights_before": report.weights_before,
        "weights_after": report.weights_after,
        "multiply_adds_before": report.multiply_adds_before,
        "multiply_adds_after": report.multiply_adds_after,
        "why_left": why_left(report),
        "unknown_weights": report.unknown_weights,
    }


def why_left(report: Report) -> str:
    """The reasons, each with the number of blocks."""
    counts: dict[str, int] = {}
    for row in report.left:
        counts[row.reason] = counts.get(row.reason, 0) + 1
    return "; ".join(f"{count}: {reason}" for reason, count in counts.items())


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The page in Markdown."""
    lines = [
        "# Well-known networks, converted",
        "",
        "Made by `python -m scripts.convert_results`: counts, nothing is trained. Each network is "
        "rewritten by",
        f"`mgic_vision.convert(model, group_size={GROUP_SIZE}, coarse_size={COARSE_SIZE})`; "
        "multiply-adds are for one image of 3x224x224,",
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm "
        f"{timm.__version__}. Blocks that change width or resolution are left, and what is",
        "in no block that is known (stem, head, attention, downsampling) is the last column.",
        "",
        "| network | of | blocks changed | weights | after | | multiply-adds | after | | left, and "
        "why | weights in no such block |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in rows:
        before, after = row["weights_before"], row["weights_after"]
        work, less = row["multiply_adds_before"], row["multiply_adds_after"]
        cells = [f"`{row['network']}`", row["library"], str(row["changed"])]
        cells += [f"{before / 1e6:.2f} M", f"{after / 1e6:.2f} M", f"{after / before:.1%}"]
        cells += [f"{work / 1e9:.2f} G", f"{less / 1e9:.2f} G", f"{less / work:.1%}"]
        cells += [row["why_left"] or "-", f"{row['unknown_weights'] / 1e6:.2f} M"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
