"""Write a network in a form that runs without this project, compared with the network itself.

``python -m scripts.export mgic_diffgcn --checkpoint runs/demo --to onnx,pt2,safetensors`` writes
``exported/mgic_diffgcn.onnx`` and so on. Every file is read back and run on batches of 1, 3 and 8;
one that differs from the network by more than the tolerance is not written.

The number of images or clouds varies, and the number of points of a cloud. Networks for points have
their neighbor search inside and take ``(B, N, 3)``, see ``mgic_geo.DensePointCloud`` for what that
leaves out: ragged batches, and the exact order of neighbors that tie.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from scripts.exporting.formats import FORMATS
from scripts.exporting.subject import Subject, make_subject
from scripts.training.errors import TrainingError
from scripts.training.files import write_whole
from scripts.training.networks import load_network, make_network
from scripts.training.weights import Weights, fresh_weights, read_weights

BATCHES = (1, 3, 8)
TOLERANCE = 1e-4


def main(args: Sequence[str] | None = None) -> int:
    """Export; 0: done, 1: an error or a difference, told in one message."""
    options = make_parser().parse_args(args)
    try:
        weights = find_weights(options)
        subject = make_subject(load_network(weights), weights.info, fused=options.fuse)
        for name in options.to:
            path = options.folder / FORMATS[name].file_name(weights.info["name"])
            if path.exists() and not options.overwrite:
                raise TrainingError(f"{path} is there already: use --overwrite to replace it")
        for name in options.to:
            export(subject, weights, name, options.folder, options.tolerance)
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.export", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("model", help="network, by its name in mgic_geo or mgic_vision")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="folder of a run, or its model.safetensors or a .ckpt; without, weights are fresh",
    )
    parser.add_argument(
        "--to", type=formats, default=list(FORMATS), help=f"of {','.join(FORMATS)} (default: all)"
    )
    parser.add_argument("--folder", type=Path, default=Path("exported"))
    parser.add_argument("--fuse", action="store_true", help="fold norms into what stands beside")
    parser.add_argument("--options", type=yaml.safe_load, default={}, metavar="{k: 20}")
    parser.add_argument("--num_classes", type=int, help="of a network with fresh weights")
    parser.add_argument("--seed", type=int, default=0, help="of fresh weights")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    return parser


def formats(text: str) -> list[str]:
    """Read a list of formats.

    Example:
        >>> formats("pt2,onnx")
        ['pt2', 'onnx']
    """
    names = text.split(",")
    if unknown := [name for name in names if name not in FORMATS]:
        raise argparse.ArgumentTypeError(
            f"no format {', '.join(unknown)}; there are {', '.join(FORMATS)}"
        )
    return names


def find_weights(options: argparse.Namespace) -> Weights:
    """Read the weights that were asked for, or draw fresh ones.

    Raises:
        TrainingError: They are missing, of another network, or there is no such network.
    """
    if options.checkpoint is None:
        torch.manual_seed(options.seed)
        network = make_network(options.model, options.num_classes, options.options)
        print(f"fresh weights, seed {options.seed}: no --checkpoint was given")
        return fresh_weights(options.model, network, options.options)
    weights = read_weights(options.checkpoint)
    if weights.info["name"] != options.model:
        raise TrainingError(f"{weights.path} holds {weights.info['name']}, not {options.model}")
    if options.options or options.num_classes is not None:
        raise TrainingError("options and classes come from the checkpoint; leave them out")
    return weights


def export(subject: Subject, weights: Weights, name: str, folder: Path, tolerance: float) -> None:
    """Write one format, if what is read back gives what the network gives.

    Raises:
        TrainingError: It differs by more than the tolerance.
    """
    form = FORMATS[name]
    content = form.write(subject, weights)
    run, worst, largest = form.read(content, weights), 0.0, 0.0
    for x in (x for batch in BATCHES for x in subject.inputs(batch)):
        expected = subject.reference(x)
        worst = max(worst, float((run(x) - expected).abs().max()))
        largest = max(largest, float(expected.abs().max()))
    path = folder / form.file_name(weights.info["name"])
    if not worst <= tolerance:
        raise TrainingError(f"{path} would differ by {worst:.2e} from the network: not written")
    for suffix, part in content.items():
        write_whole(path.with_suffix(suffix), part)
    size = sum(map(len, content.values())) / 1e6
    batches = ", ".join(map(str, BATCHES))
    print(
        f"{path}: {size:.2f} MB, at most {worst:.1e} from the network's scores (up to "
        f"{largest:.3g}) on batches of {batches}"
    )


if __name__ == "__main__":
    sys.exit(main())
