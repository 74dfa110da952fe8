"""Use a trained network on image files: classes with probabilities, or a mask beside each file.

``python -m scripts.predict_image photo.jpg --run_dir runs/mnist5k`` prints the five most probable
classes; with a run of ``scripts.train_segmentation`` it writes ``photo.mask.png``, a picture of one
color for each class. What the weights say about themselves decides.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from scripts.command import command_parser, told
from scripts.training.images import input_format, read_sample
from scripts.training.networks import load_network
from scripts.training.reliability.errors import TrainingError
from scripts.training.reliability.files import write_whole
from scripts.training.scenes import read_scene
from scripts.training.weights import read_weights

MOST_PROBABLE = 5
SMALLEST_SHARE = 0.0005  # of the pixels, for a class to be named


@told
def main(args: Sequence[str] | None = None) -> int:
    """Predict; a bad file does not stop the others."""
    parser = command_parser("predict_image", __doc__)
    parser.add_argument("files", nargs="+", type=Path, help="image files")
    parser.add_argument(
        *("--run_dir", "--checkpoint"),
        dest="weights",
        type=Path,
        required=True,
        help="folder of a run, or its model.safetensors or a .ckpt",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace masks that are there")
    options = parser.parse_args(args)
    weights = read_weights(options.weights)
    input_format(weights.info)  # of images, or an error before anything is computed
    network = load_network(weights)
    if weights.info.get("task") == "segmentation":
        check_masks(options.files, overwrite=options.overwrite)
    failed = 0
    for file in options.files:
        try:
            print(predict(network, weights.info, file), flush=True)
        except (TrainingError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    return int(failed > 0)


def predict(network: nn.Module, info: dict[str, Any], file: Path) -> str:
    """Predict one file and say what came out.

    Raises:
        TrainingError: The file is no image.
        OSError: The mask cannot be written.
    """
    if info.get("task") != "segmentation":
        scores = score(network, read_sample(file, info).image)
        return "  ".join([str(file), *most_probable(scores.softmax(dim=0), info["classes"])])
    mask = score(network, read_scene(file, info).image).argmax(dim=0).numpy().astype(np.uint8)
    write_mask(mask_path(file), mask, info["colors"])
    shares = np.bincount(mask.ravel(), minlength=len(info["classes"])) / mask.size
    seen = shares >= SMALLEST_SHARE
    names = [name for name, is_seen in zip(info["classes"], seen, strict=True) if is_seen]
    named = most_probable(torch.from_numpy(shares[seen]), names)
    return "  ".join([str(mask_path(file)), *named])


@torch.inference_mode()
def score(network: nn.Module, image: Tensor) -> Tensor:
    """Score the classes of one image, or of each of its pixels."""
    return network(image[None])[0].float()


def most_probable(shares: Tensor, classes: list[str]) -> list[str]:
    """Name the classes with the largest shares, as percentages.

    Example:
        >>> most_probable(torch.tensor([0.25, 0.75, 0.0]), ["cat", "dog", "fox"])
        ['dog 75.0%', 'cat 25.0%', 'fox 0.0%']
    """
    values, places = shares.topk(min(MOST_PROBABLE, len(classes)))
    pairs = zip(values.tolist(), places.tolist(), strict=True)
    return [f"{classes[place]} {value:.1%}" for value, place in pairs]


def mask_path(file: Path) -> Path:
    """Return where the mask of a file goes.

    Example:
        >>> mask_path(Path("a/photo.jpg")).name
        'photo.mask.png'
    """
    return file.with_name(f"{file.stem}.mask.png")


def check_masks(files: Sequence[Path], *, overwrite: bool) -> None:
    """Look at where the masks go before anything is computed.

    Raises:
        TrainingError: A mask is there already, or two files have one name for it.
    """
    paths = [mask_path(file) for file in files]
    if twice := sorted({str(path) for path in paths if paths.count(path) > 1}):
        raise TrainingError(f"two files have the same mask, {', '.join(twice)}")
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        raise TrainingError(f"{', '.join(there)} would be replaced: use --overwrite to allow it")


def write_mask(path: Path, mask: np.ndarray, colors: Sequence[Sequence[int]]) -> None:
    """Write the classes ``(H, W)`` as a PNG whose palette has their colors, whole or not at all."""
    image = Image.fromarray(mask)
    image.putpalette(bytes(np.array(colors, np.uint8)))
    content = io.BytesIO()
    image.save(content, format="png")
    write_whole(path, content.getvalue())


if __name__ == "__main__":
    sys.exit(main())
