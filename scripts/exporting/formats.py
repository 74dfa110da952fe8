"""Formats to export to: how each is written, and how it is run to be compared."""

import io
import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor

from scripts.exporting.subject import Subject, make_subject
from scripts.training.networks import load_network
from scripts.training.reliability.errors import TrainingError
from scripts.training.weights import Weights, export_weights, read_weights

Files = dict[str, bytes]  # content by suffix
SIDECAR = "model.json"


class Format(ABC):
    """One format, with the suffix of its file."""

    suffix: ClassVar[str]

    @abstractmethod
    def write(self, subject: Subject, weights: Weights) -> Files:
        """Return the content of the file, and of what goes beside it."""

    @abstractmethod
    def read(self, content: Files, weights: Weights) -> Callable[[Tensor], Any]:
        """Return a function that runs what was written: its output, or a tuple of several."""


class Pt2(Format):
    """``torch.export``: ``torch.export.load(path).module()`` runs it, with torch alone."""

    suffix = ".pt2"

    def write(self, subject: Subject, weights: Weights) -> Files:
        """Trace the network."""
        content = io.BytesIO()
        with _quiet():
            extra = {SIDECAR: json.dumps(weights.info)}
            torch.export.save(subject.trace(), content, extra_files=extra)
        return {self.suffix: content.getvalue()}

    def read(self, content: Files, weights: Weights) -> Callable[[Tensor], Any]:
        """Load the program."""
        with _quiet():
            module = torch.export.load(io.BytesIO(content[self.suffix])).module()
        return torch.no_grad()(module)


class Onnx(Format):
    """ONNX, with the input ``x`` and the output ``scores``; its metadata have ``model.json``."""

    suffix = ".onnx"

    def write(self, subject: Subject, weights: Weights) -> Files:
        """Trace the network and translate it."""
        _require("onnxscript")
        with _quiet():
            program = torch.onnx.export(
                subject.for_onnx().trace(),
                dynamo=True,
                verbose=False,
                input_names=["x"],
                output_names=["scores"],
            )
            assert program is not None
            program.model.metadata_props[SIDECAR] = json.dumps(weights.info)
            return {self.suffix: program.model_proto.SerializeToString()}

    def read(self, content: Files, weights: Weights) -> Callable[[Tensor], Any]:
        """Open a session of ONNX Runtime, on as many threads as torch has."""
        session = open_session(content[self.suffix], torch.get_num_threads())

        def run(x: Tensor) -> Any:
            outputs = tuple(map(torch.from_numpy, session.run(None, {"x": x.numpy()})))
            return outputs[0] if len(outputs) == 1 else outputs

        return run


class Safetensors(Format):
    """The weights alone, with a JSON file that says of what: for ``create_model`` of a package."""

    suffix = ".safetensors"

    def write(self, subject: Subject, weights: Weights) -> Files:
        """Write both files."""
        with TemporaryDirectory() as folder:
            export_weights(weights, Path(folder))
            return {path.suffix: path.read_bytes() for path in sorted(Path(folder).iterdir())}

    def read(self, content: Files, weights: Weights) -> Callable[[Tensor], Tensor]:
        """Build the network again from the two files."""
        with TemporaryDirectory() as folder:
            for suffix, part in content.items():
                Path(folder, "model").with_suffix(suffix).write_bytes(part)
            again = read_weights(Path(folder, "model.safetensors"))
        return make_subject(load_network(again), again.info).reference


FORMATS = {form.suffix[1:]: form for form in (Onnx(), Pt2(), Safetensors())}


def open_session(content: bytes, threads: int) -> Any:
    """Open a session of ONNX Runtime on so many threads."""
    onnxruntime = _require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _require(name: str):
    """Import an optional package.

    Raises:
        TrainingError: It is not installed.
    """
    try:
        return __import__(name)
    except ImportError as error:
        raise TrainingError(f"{name} is missing: pip install --editable '.[onnx]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch and its translator say about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            # weights in channels-last order; what is read back is compared
            warnings.filterwarnings("ignore", "No complete tensor found in the group")
            yield
    finally:
        logging.disable(before)
