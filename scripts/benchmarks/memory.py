"""Memory of one block: MGIC beside the dense block of a convolutional network."""

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor, nn

from mgic_geo.levels import Level
from mgic_vision import bottleneck, dense_level, fuse, inverted_residual, mgic_unit
from mgic_vision.ops.kernel import cycle_bytes
from scripts.benchmarks.tensor_memory import MemoryCounter, kept_bytes
from scripts.benchmarks.timing import Bytes, Pair

SUMMARY = "memory of one block: the peak of inference, and what training keeps"
GROUP_SIZE = COARSE_SIZE = 16
COUNTED = "tensors, and what our kernels keep; scratch memory inside torch's is not seen"

# name -> block, channels, inner channels, side of an image of 224 pixels there
BLOCKS: dict[str, tuple[Callable[[Level], nn.Module], int, int, int]] = {
    "bottleneck": (bottleneck, 512, 128, 28),
    "inverted residual": (partial(inverted_residual, squeeze="finest"), 80, 240, 14),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark alone."""
    parser.add_argument("--blocks-images", type=int, default=4, help="images in a block's input")


def make_suites(arguments: argparse.Namespace) -> Iterator[Bytes]:
    """Count every block once in inference and once in training."""
    images = arguments.blocks_images
    if images < 1:
        raise ValueError(f"--blocks-images must be at least 1, got {images}")
    for title, count in (
        ("peak of inference, fused, beside the input", inference_peak),
        ("kept between the forward and backward pass of training", training_kept),
    ):
        amounts, pairs = {}, []
        for name, (make_layer, channels, inner, side) in BLOCKS.items():
            ours, theirs = f"MGIC {name}", f"dense {name}"
            x = torch.rand(images, channels, side, side)
            x = x.contiguous(memory_format=torch.channels_last)
            unit = mgic_unit(
                *(channels, channels, make_layer),
                inner=inner,
                group_size=GROUP_SIZE,
                coarse_size=COARSE_SIZE,
            )
            amounts[ours] = count(unit, x)
            amounts[theirs] = count(make_layer(dense_level(channels, inner)), x)
            pairs.append(Pair(ours, theirs))
        yield Bytes(
            f"{title}: one block, {images} images, s_g = s_c = {GROUP_SIZE}",
            *(amounts, pairs),
            notes=(COUNTED,),
        )


def inference_peak(block: nn.Module, x: Tensor) -> int:
    """Most bytes alive at once in a forward pass, the result among them, the input not."""
    block = fuse(block)

    def run() -> int:
        with torch.inference_mode(), MemoryCounter() as memory:
            block(x)
        return memory.peak + cycle_bytes()

    with ThreadPoolExecutor(1) as pool:  # in which no cycle has run yet
        return pool.submit(run).result()


def training_kept(block: nn.Module, x: Tensor) -> int:
    """Bytes alive between the forward and the backward pass, the result among them."""
    block = block.train().to(memory_format=torch.channels_last)
    return kept_bytes(lambda: block(x.requires_grad_()))
