"""Networks on the Hugging Face hub, or in a folder laid out as there.

Needs ``huggingface_hub`` and ``safetensors``, and is therefore not imported by the package itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from mgic_geo.registry import create_model

try:
    from huggingface_hub import ModelCard, ModelCardData, PyTorchModelHubMixin
    from safetensors.torch import load_file, save_file
except ImportError as error:
    raise ImportError(
        "mgic_geo.hub needs huggingface_hub and safetensors: pip install 'mgic[hub]'"
    ) from error

WEIGHTS = "model.safetensors"
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
    arguments of this class, and ``model.safetensors``, in which weights have the names that they
    have in the network itself. With a folder, nothing asks the network. Every weight must have its
    place and every place its weight, unless ``strict=False`` is given.

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
        self.name, self.options = name, options
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
        state = {key: value.contiguous() for key, value in self.network.state_dict().items()}
        save_file(state, save_directory / WEIGHTS)

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **options: Any) -> HubModel:
        """Read weights strictly by default; arguments as those of the mixin."""
        return super()._from_pretrained(strict=strict, **options)

    @classmethod
    def _load_as_safetensor(
        cls, model: HubModel, model_file: str, map_location: str, strict: bool
    ) -> HubModel:
        model.network.load_state_dict(load_file(model_file, map_location), strict=strict)
        return model.to(map_location).eval()
