"""Networks on the Hugging Face hub, or in a folder laid out as there.

Needs ``huggingface_hub`` and ``safetensors``, and is therefore not imported by the package itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from mgic_geo.models.registry import create_model
from mgic_geo.models.weights import WeightsError, pack_weights, read_weights

try:
    import safetensors  # noqa: F401
    from huggingface_hub import ModelCard, ModelCardData, PyTorchModelHubMixin, hf_hub_download
except ImportError as error:
    raise ImportError(
        "mgic_geo.models.hub needs two packages: pip install huggingface_hub safetensors"
    ) from error

WEIGHTS, SIDECAR = "model.safetensors", "model.json"
LICENSE, TAGS = "mit", ["multigrid-in-channels"]


class HubModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="mgic",
    license=LICENSE,
    tags=TAGS,
    paper_url="https://doi.org/10.1137/21M1430194",
):
    """A network by name that is saved to, and read from, a folder or the Hugging Face hub.

    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` are those of
    ``huggingface_hub.PyTorchModelHubMixin``. The folder holds ``config.json``, which has the
    arguments of this class, ``model.safetensors``, in which weights have the names that they have
    in the network itself, and ``model.json`` with the SHA-256 of the weights, so that
    ``create_model(..., checkpoint=...)`` reads them too. With a folder, nothing asks the network.
    Every weight must have its place and every place its weight, unless ``strict=False`` is given.
    Pickled weights are not read.

    Args:
        name: One of ``list_models()``.
        num_classes: As ``create_model`` has it.
        **options: As ``create_model`` has them.

    Attributes:
        network: The network itself.

    Shape:
        - Takes and returns what the network does.

    Raises:
        ValueError: As ``create_model``.
        WeightsError: In ``from_pretrained``, if weights or their hash are missing, if they do not
            belong together, or are of another network.

    Example:
        >>> import tempfile
        >>> model = HubModel("pointnet", 4, width=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = model.save_pretrained(folder)
        ...     again = HubModel.from_pretrained(folder)
        Loading weights from local directory
        >>> again.network.head[-1]
        Linear(in_features=8, out_features=4, bias=True)
    """

    _create: Callable[..., nn.Module] = staticmethod(create_model)

    def __init__(self, name: str, num_classes: int | None = None, **options: Any) -> None:
        super().__init__()
        self.name, self.num_classes, self.options = name, num_classes, options
        arguments = () if num_classes is None else (num_classes,)
        self.network = self._create(name, *arguments, **options)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        return self.network(*args, **kwargs)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Say what the network is and how it is read; ``scripts.share`` says more after training.

        Example:
            >>> print(HubModel("pointnet", 4, width=8).generate_model_card().text.split(".")[0])
            <BLANKLINE>
            # pointnet
            <BLANKLINE>
            964 weights
        """
        data = ModelCardData(library_name="mgic", license=LICENSE, tags=TAGS)
        weights = sum(parameter.numel() for parameter in self.parameters())
        options = ", ".join(f"{key}={value}" for key, value in self.options.items()) or "none"
        package = type(self).__module__
        return ModelCard(
            f"---\n{data.to_yaml()}\n---\n\n# {self.name}\n\n{weights:,} weights. "
            f"Options: {options}.\n\n```python\nfrom {package} import HubModel\n\n"
            'model = HubModel.from_pretrained("FOLDER OR OWNER/NAME")\n```\n'
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        info = {"name": self.name, "options": self.options, "num_classes": self.num_classes}
        content, sidecar = pack_weights(self.network.state_dict(), info)
        (save_directory / WEIGHTS).write_bytes(content)
        (save_directory / SIDECAR).write_bytes(sidecar)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, strict: bool = True, **options: Any) -> HubModel:
        """Read weights strictly by default; arguments as those of the mixin."""
        if not Path(model_id).is_dir():  # beside the weights that the mixin asks for
            where = ("revision", "cache_dir", "force_download", "token", "local_files_only")
            found = {key: options[key] for key in where if key in options}
            hf_hub_download(repo_id=model_id, filename=SIDECAR, **found)
        return super()._from_pretrained(model_id=model_id, strict=strict, **options)

    @classmethod
    def _load_as_safetensor(
        cls, model: HubModel, model_file: str, map_location: str, strict: bool
    ) -> HubModel:
        tensors, info = read_weights(model_file)
        if info["name"] != model.name:
            raise WeightsError(f"{model_file} holds weights of {info['name']}, not of {model.name}")
        model.network.load_state_dict(tensors, strict=strict)
        return model.to(map_location).eval()

    @classmethod
    def _load_as_pickle(cls, model: HubModel, model_file: str, *_: Any) -> HubModel:
        raise WeightsError(f"{model_file} is a pickle: {model.name} is read from {WEIGHTS} alone")
