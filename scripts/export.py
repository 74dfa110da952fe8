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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from torch import Tensor

from mgic_vision.merging import BLOCK
from scripts.command import command_parser, told
from scripts.exporting.formats import FORMATS, Format
from scripts.exporting.subject import CloudSubject, Subject, make_subject
from scripts.training.networks import load_network, make_network
from scripts.training.reliability.errors import TrainingError
from scripts.training.reliability.files import write_whole
from scripts.training.weights import Weights, fresh_weights, read_weights

BATCHES = (1, 3, 8)
TOLERANCE = 1e-4


@told
def main(args: Sequence[str] | None = None) -> None:
    """Export; a file that differs from the network is an error."""
    options = make_parser().parse_args(args)
    if options.block < 1:
        raise TrainingError(f"--block must be at least 1 channel, got {options.block}")
    weights = find_weights(options)
    network = load_network(weights)
    block = options.block if options.fuse else 1
    subject = make_subject(network, weights.info, fused=options.fuse, block=block)
    for name in options.to:
        path = options.folder / (weights.info["name"] + FORMATS[name].suffix)
        if path.exists() and not options.overwrite:
            raise TrainingError(f"{path} is there already: use --overwrite to replace it")
    for name in options.to:
        export(subject, weights, name, options.folder, options.tolerance)


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = command_parser("export", __doc__)
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
    parser.add_argument(
        "--block",
        type=int,
        default=BLOCK,
        help="of channels in ONNX Runtime, for which --fuse merges groups: 16 with AVX-512, "
        "1 to leave them (default: %(default)s)",
    )
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
    found = compare(form.read(content, weights), subject, form, weights, tolerance)
    path = folder / (weights.info["name"] + form.suffix)
    if not found.worst <= tolerance:
        raise TrainingError(
            f"{path} would differ by {found.worst:.2e} from the network: not written"
        )
    for suffix, part in content.items():
        write_whole(path.with_suffix(suffix), part)
    size = sum(map(len, content.values())) / 1e6
    batches = ", ".join(map(str, BATCHES))
    print(
        f"{path}: {size:.2f} MB, at most {found.worst:.1e} from the network's scores (up to "
        f"{found.largest:.3g}) on batches of {batches}"
    )
    if found.ties:
        print(
            f"in {found.ties} of {len(found.differences)} batches neighbors tie within rounding "
            "and the file decides otherwise: compared on the file's neighbors there"
        )


@dataclass
class Comparison:
    """What came of running a file and the network on the same inputs.

    Args:
        differences: Largest difference of their scores in every batch.
        largest: Largest score of the network.
        ties: Batches where the file took other neighbors, as near within rounding.
    """

    differences: list[float] = field(default_factory=list)
    largest: float = 0.0
    ties: int = 0

    @property
    def worst(self) -> float:
        """Largest difference of all; NaN if any is, which ``max`` would lose."""
        return float(torch.tensor(self.differences, dtype=torch.float64).max())


def compare(
    run: Callable[[Tensor], Tensor],
    subject: Subject,
    form: Format,
    weights: Weights,
    tolerance: float,
) -> Comparison:
    """Run what was written beside the network.

    Where a graph is made of features, rounding decides between neighbors that tie, and the scores
    follow. A batch that differs is therefore compared on the file's neighbors as well, which
    another file with the same computation tells, if all of them are nearest ones within rounding.
    """
    found, find_neighbors = Comparison(), None
    for x in (x for batch in BATCHES for x in subject.inputs(batch)):
        scores, expected = run(x), subject.reference(x)
        can_tie = isinstance(subject, CloudSubject) and subject.network.graph == "dynamic"
        if can_tie and not difference(scores, expected) <= tolerance:
            if find_neighbors is None:
                find_neighbors = form.read(form.write(subject.with_neighbors(), weights), weights)
            again = subject.reference_on(x, find_neighbors(x)[1:])
            if again is not None and difference(scores, again) <= tolerance:
                found.ties, expected = found.ties + 1, again
        found.differences.append(difference(scores, expected))
        found.largest = max(found.largest, float(expected.abs().max()))
    return found


def difference(scores: Tensor, expected: Tensor) -> float:
    """Largest difference of two sets of scores."""
    return float((scores - expected).abs().max())


if __name__ == "__main__":
    sys.exit(main())
