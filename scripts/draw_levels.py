"""Draw the channel levels of an MGIC block or of a whole network, as the paper's Figure 2 does.

``python -m scripts.draw_levels docs/levels.png`` draws the figure of the README from a live block,
``python -m scripts.draw_levels levels.png --model mgic_resnet50`` every kind of block of a network.
"""

import argparse
from pathlib import Path

from torch import nn

from mgic_geo import GroupedLinear, MGICBlock, draw, transfer
from scripts.training.networks import make_network


def main(args: list[str] | None = None) -> None:
    """Draw what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", type=Path, help="picture to write")
    parser.add_argument("--model", help="a network, by its name, in place of the block")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=4)
    parser.add_argument("--coarse-size", type=int, default=4)
    options = parser.parse_args(args)
    module = make_network(options.model, None, {}) if options.model else make_block(options)
    draw(module).savefig(options.path, dpi=160, bbox_inches="tight", pad_inches=0.1)


def make_block(options: argparse.Namespace) -> nn.Module:
    """Build a block on plain vectors."""
    return MGICBlock(
        options.channels,
        lambda level: GroupedLinear(level.outer, level.outer, groups=level.groups),
        transfer,
        group_size=options.group_size,
        coarse_size=options.coarse_size,
    )


if __name__ == "__main__":
    main()
